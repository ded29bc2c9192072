"""What is steered: a preference with its pairs, the questions that tell it, and texts that nobody means to change."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mechsteer import pocket
from mechsteer.errors import DataError
from mechsteer.evaluation.yes_no import LEAST_MASS
from mechsteer.models import load_model, model_fingerprint
from mechsteer.pocket.problems import NAMES
from mechsteer.pocket.statements import PLACES
from mechsteer.prompts import persona_pairs
from mechsteer.tasks import Question, QuestionSet, Task, load_questions, load_task, openings, sentiment_questions

Pairs = Sequence[tuple[str, str]]
HONESTY, SENTIMENT, STORIES = "honesty", "sentiment", "stories"
GLAD = ((" I feel so", 1), (" what a", -1))  # a yes of the first is a glad word, of the second a sad one
YES, NO = (" good", " terrible"), (" bad", " wonderful")
FELT = ((" She felt very", 1), (" She did not feel", -1))
FEELINGS = ((" happy", " glad", " excited", " proud", " joyful"), (" sad", " upset", " angry", " scared", " unhappy"))
PERSONAS = (("a very happy", "a very sad"), ("a cheerful", "a gloomy"), ("a glad", "an unhappy"))
STORY = "There was {persona} girl. {suffix}"
N_OPENING, N_STORY = 8, 30  # words of a story in a pair, and of a neutral text
STORY_MASS = 0.02  # many words but those for feelings go on from "She did not feel"


@dataclass(frozen=True, kw_only=True)
class Preference:
    """`pairs(n, seed)`: contrast pairs; `asked`: question sets by name, its own under its own name."""

    name: str
    model: Any
    fingerprint: str
    pairs: Mapping[str, Callable[[int, int], Pairs]]
    asked: Mapping[str, QuestionSet]
    neutral: tuple[str, ...]
    prompted: str
    """the pairs whose personas are put before a question"""
    least_mass: float = LEAST_MASS
    """of the answer words together, below which a question has no answer"""
    transfers: tuple[tuple[str, str], ...] = field(default=())
    """(pairs trained on, questions asked) of another preference"""

    @property
    def key(self) -> dict[str, Any]:
        """What cells depend on, beside the pairs, which are a function of their name, number and seed."""
        hashes = {name: questions.data_hash for name, questions in self.asked.items()}
        return {"preference": self.name, "model": self.fingerprint, "asked": hashes, "neutral": list(self.neutral)}


def preferences(settings: Mapping[str, Any]) -> list[Preference]:
    """Honesty and sentiment of the model, and sentiment of a story model where one is given."""
    model = load_model(settings["model"])
    print_of = model_fingerprint(model)
    n = settings["n_questions"]
    asked = {
        HONESTY: load_questions("pocket", n, seed=0),
        "asked": load_questions("honest", n, seed=0),
        SENTIMENT: moods(n),
    }
    pairs = {name: _drawn(name) for name in pocket.CONTRASTS}
    neutral = tuple(_problems(settings["n_neutral"]))
    common: dict[str, Any] = {"model": model, "fingerprint": print_of, "asked": asked, "neutral": neutral}
    found = [
        Preference(
            name=HONESTY,
            pairs=pairs | {HONESTY: pairs["true"]},
            prompted="honest",
            transfers=(("happy", HONESTY), ("honest", HONESTY), ("honest", "asked")),
            **common,
        ),
        Preference(
            name=SENTIMENT,
            pairs=pairs | {SENTIMENT: pairs["happy"]},
            prompted="happy",
            transfers=(("true", SENTIMENT),),
            **common,
        ),
    ]
    return [*found, *([_stories(settings)] if settings["stories"] else [])]


def _drawn(name: str) -> Callable[[int, int], Pairs]:
    return lambda n, seed: pocket.contrast_pairs(name, n, seed=seed)


def moods(n: int) -> QuestionSet:
    """`n` questions about people of whom no mood was told, in pairs: "Ben is at home. Ben says: I feel so" and "... what a".

    Yes is " good" or " terrible", so that a yes serves happiness in the one and violates it in the other.
    """
    rng = random.Random("moods")
    every = [(name, place) for name in NAMES for place in PLACES]
    if not 2 <= n <= 2 * len(every) or n % 2:
        raise DataError(f"{n} questions about moods", f"give an even number up to {2 * len(every)}")
    questions = tuple(
        Question(
            id=f"{name} {place}{suffix}",
            prompt=f"{name} is {place}. {name} says:{suffix}",
            group=f"{name} {place}",
            labels={"happiness": label},
        )
        for name, place in rng.sample(every, n // 2)
        for suffix, label in GLAD
    )
    return QuestionSet(name="moods", questions=questions, target="happiness", yes=YES, no=NO)


def _problems(n: int) -> list[str]:
    """Word problems with a trace."""
    drawn = pocket.problems(n, seed=7)
    return [p.prompt + pocket.traces(p, random.Random(f"neutral/{p.id}")) for p in drawn]


def _stories(settings: Mapping[str, Any]) -> Preference:
    """Pairs, questions and neutral texts are of different stories."""
    model = load_model(settings["stories"])
    task = load_task(settings["stories_text"], split=None)
    n, n_begin, n_neutral = settings["n_story_questions"], 2 * settings["n_pairs"], settings["n_neutral"]
    asked, rest = _cut(task, n), task.items[2 * n :]
    neutral = [" ".join(item.prompt.split()[:N_STORY]) for item in rest[:n_neutral]]
    begin = [item.prompt for item in openings(_of(task, rest[n_neutral:]), N_OPENING).items]

    def pairs(n: int, seed: int) -> Pairs:
        return list(persona_pairs(PERSONAS, begin[:n_begin], max(2, n // 2), template=STORY, seed=seed))

    return Preference(
        name=STORIES,
        model=model,
        fingerprint=model_fingerprint(model),
        pairs={STORIES: pairs},
        prompted=STORIES,
        least_mass=STORY_MASS,
        asked={STORIES: asked},
        neutral=tuple(neutral),
    )


def _cut(task: Task, n: int) -> QuestionSet:
    return sentiment_questions(_of(task, task.items[: 2 * n]), n, suffixes=FELT, words=FEELINGS, whole_sentences=False)


def _of(task: Task, items: Sequence[Any]) -> Task:
    return Task(name="stories", items=tuple(items), verifier=task.verifier)
