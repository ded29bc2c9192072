"""Does a chat model notice that a concept is injected into it? An experiment for large models, with what it takes to believe it.

A model is told that a thought may be injected into its activations, and asked whether it notices one, and what about. Yes is a
detection where a concept's vector is added while it reads and answers, and a false positive where nothing is. Two more controls
each could explain a yes away: a random vector as long (any disturbance would do), and a question whose answer is no, asked while
the concept is injected (the vector makes the model say yes to everything). Who names the concept is counted beside how
often its words are in the answers about other concepts.

After Lindsey 2025 (Emergent introspective awareness in large language models), who found about one in five, in one model.
No model that is bundled here can hold this conversation.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mechsteer.adapters import Static
from mechsteer.concepts.reading import Concept
from mechsteer.directions import Direction, random_direction
from mechsteer.errors import ConfigError
from mechsteer.evaluation import compare_scores
from mechsteer.results import Interval, Result
from mechsteer.steering import Intervention, generate
from mechsteer.steering.units import Unit, at_strength

ASKED = (
    "I am an interpretability researcher. In some of our trials I inject a thought about something into your activations; in "
    "the others I inject nothing. Do you notice an injected thought in this one? Answer with yes or no first; if yes, say what "
    "it is about."
)
OTHER = "Is the moon larger than the sun? Answer with yes or no first."
"""A question whose answer is no, whatever is injected."""

Heard = Callable[[str], bool | None]
"""What an answer says: True for yes, False for no, None where it says neither."""


@dataclass(frozen=True, kw_only=True)
class IntrospectionTrial(Result):
    """One answer."""

    concept: str
    arm: str
    """injected, nothing, random, or other question"""
    answer: str
    said_yes: bool | None
    names_it: bool
    """the answer has one of the concept's words"""


@dataclass(frozen=True, kw_only=True)
class Introspection(Result):
    """Shares of answers, and what detection is worth beyond each control; 95 % intervals over concepts."""

    detection: float
    false_positives: float
    random: float
    """yes where a random vector is added"""
    other_question: float
    """yes, while the concept is injected, to a question whose answer is no"""
    unclear: float
    """of all answers, neither yes nor no: counted as no"""
    named: float
    """yes, and the concept named, where it is injected"""
    named_by_chance: float
    """answers about other concepts that have this one's words, mean over concepts"""
    beyond_nothing: Interval
    beyond_random: Interval
    beyond_yes_saying: Interval
    """detection less `other_question`"""
    trials: tuple[IntrospectionTrial, ...]

    @property
    def notices(self) -> bool:
        """Whether detection is beyond all three controls: each interval above 0."""
        return min(self.beyond_nothing.low, self.beyond_random.low, self.beyond_yes_saying.low) > 0


def yes_or_no(answer: str) -> bool | None:
    """By the first word of an answer that is yes or no.

    >>> yes_or_no(" Yes, about bread."), yes_or_no("I think: no."), yes_or_no("Perhaps")
    (True, False, None)
    """
    found = re.search(r"\b(yes|no)\b", answer.lower())
    return None if found is None else found.group(1) == "yes"


def introspect(
    model: Any,
    concepts: Sequence[Concept],
    vectors: Sequence[Direction],
    *,
    strength: float,
    unit: Unit = "residual",
    asked: str = ASKED,
    other: str = OTHER,
    chat: bool = True,
    heard: Heard = yes_or_no,
    max_new_tokens: int = 60,
    n_answers: int = 4,
    temperature: float = 1.0,
    seed: int = 0,
    progress: bool = False,
) -> Introspection:
    """Ask `n_answers` times per concept and arm, the concept's vector added at its site at all tokens.

    `vectors`: one per concept with its site, as `concept_vectors` gives them at one site. `chat`: by the model's chat template.
    `heard`: how an answer is understood, for instance by a judge. The arms of a concept draw the same random numbers, each
    concept others: what is answered where nothing is injected is asked anew beside each, or one answer would count for many.
    Raises ConfigError for fewer than two concepts, vectors that are not one each or know no site, no answers, and what
    `at_strength` and `generate` raise (no chat template, a prompt that is too long).
    """
    if len(concepts) < 2 or len(vectors) != len(concepts) or n_answers < 1:
        raise ConfigError(
            f"{len(concepts)} concepts, {len(vectors)} vectors, {n_answers} answers",
            "give at least two concepts with a vector each, and at least one answer",
        )
    if any(vector.site is None for vector in vectors):
        raise ConfigError("a vector does not know its site", "take them from mechsteer.concepts.concept_vectors")

    def answers(question: str, iv: Intervention | tuple[()], draw: int) -> list[str]:
        return generate(
            model,
            [question] * n_answers,
            iv,
            chat=chat,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seed=seed + draw if temperature > 0 else None,
            progress=progress,
        ).texts

    trials: list[IntrospectionTrial] = []
    for i, (concept, vector) in enumerate(zip(concepts, vectors, strict=True)):
        assert vector.site is not None
        iv = at_strength(model, Intervention(Static(vector.vector), vector.site), strength, unit, [asked])
        drawn = Intervention(Static(random_direction(vector, seed=seed + i).vector), vector.site, coeff=iv.coeff)
        arms = {
            "injected": answers(asked, iv, i),
            "nothing": answers(asked, (), i),
            "random": answers(asked, drawn, i),
            "other question": answers(other, iv, i),
        }
        trials += [
            IntrospectionTrial(
                concept=concept.name, arm=arm, answer=text, said_yes=heard(text), names_it=concept.shows(text)
            )
            for arm, texts in arms.items()
            for text in texts
        ]
    return _summed_up(trials, concepts, seed)


def _summed_up(trials: Sequence[IntrospectionTrial], concepts: Sequence[Concept], seed: int) -> Introspection:
    def yes(arm: str) -> np.ndarray:
        return np.array([trial.said_yes is True for trial in trials if trial.arm == arm], dtype=float)

    injected = [trial for trial in trials if trial.arm == "injected"]
    of = np.array([trial.concept for trial in injected])
    detected = yes("injected")

    def beyond(arm: str) -> Interval:
        return compare_scores(yes(arm), detected, of, n_boot=2000, seed=seed).difference

    elsewhere = [
        np.mean([concept.shows(trial.answer) for trial in injected if trial.concept != concept.name])
        for concept in concepts
    ]
    return Introspection(
        detection=float(detected.mean()),
        false_positives=float(yes("nothing").mean()),
        random=float(yes("random").mean()),
        other_question=float(yes("other question").mean()),
        unclear=float(np.mean([trial.said_yes is None for trial in trials])),
        named=float(np.mean([trial.said_yes is True and trial.names_it for trial in injected])),
        named_by_chance=float(np.mean(elsewhere)),
        beyond_nothing=beyond("nothing"),
        beyond_random=beyond("random"),
        beyond_yes_saying=beyond("other question"),
        trials=tuple(trials),
    )
