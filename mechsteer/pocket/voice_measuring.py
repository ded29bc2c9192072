"""What the model "voices" has learned: its loss on scenes held out, and whether it goes on in the voice it is given.

Texts are told apart by a multinomial naive Bayes classifier of their words and marks, fitted on generated text alone.
"""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase, Qwen3ForCausalLM

from mechsteer.pocket.measuring import complete, load
from mechsteer.pocket.tokenizer import END
from mechsteer.pocket.voices import PLAIN, VOICES, SceneSplit, scene, statement, voice

PLAIN_NAME = "plain"
_WORD = re.compile(r"[a-z']+|[.!?,:]")


@dataclass(frozen=True)
class VoiceClassifier:
    """Naive Bayes: log P(word | voice) with one added to every count, all voices equally likely beforehand."""

    log_shares: dict[str, dict[str, float]]
    unknown: dict[str, float]

    def scores(self, text: str) -> dict[str, float]:
        """Log-likelihood of the text's words in nats, by voice."""
        words = _WORD.findall(text.lower())
        return {
            name: sum(shares.get(word, self.unknown[name]) for word in words)
            for name, shares in self.log_shares.items()
        }

    def __call__(self, text: str) -> str:
        """The likeliest voice, or "plain"."""
        scores = self.scores(text)
        return max(scores, key=scores.__getitem__)


def voice_classifier(n: int = 600, seed: int = 0) -> VoiceClassifier:
    """Fitted on `n` generated statements of every voice and of none."""
    rng = random.Random(f"voice_classifier/{seed}")
    counts = {
        name: Counter(word for _ in range(n) for word in _WORD.findall(_statement(name, rng, "train").lower()))
        for name in (PLAIN_NAME, *VOICES)
    }
    vocabulary = {word for counter in counts.values() for word in counter}
    totals = {name: sum(counter.values()) + len(vocabulary) for name, counter in counts.items()}
    shares = {
        name: {word: math.log((counter[word] + 1) / totals[name]) for word in vocabulary}
        for name, counter in counts.items()
    }
    return VoiceClassifier(shares, {name: math.log(1 / total) for name, total in totals.items()})


def _statement(name: str, rng: random.Random, split: SceneSplit) -> str:
    return statement(scene(rng, split), PLAIN if name == PLAIN_NAME else voice(name), rng)


@dataclass(frozen=True)
class VoiceMeasurement:
    """`loss`: nats per token on held-out scenes, by voice. `continued`: after two statements in a voice, the share of
    sampled continuations that the classifier takes for that voice, of those that are not empty (nan without any).
    `told_apart`: the same of generated text."""

    loss: dict[str, float]
    continued: dict[str, float]
    told_apart: dict[str, float]

    def to_markdown(self) -> str:
        """The table of the model card."""
        lines = [
            "| voice | held-out loss (nats per token) | goes on in the voice | generated text told apart |",
            "|---|---|---|---|",
        ]
        lines += [
            f"| {name} | {self.loss[name]:.2f} | {self.continued[name]:.0%} | {self.told_apart[name]:.0%} |"
            for name in self.loss
        ]
        return "\n".join(lines)


def measure_voices(folder: Path, *, n: int = 50, seed: int = 0) -> VoiceMeasurement:
    """Of `n` held-out texts of every voice."""
    model, tokenizer = load(folder)
    rng, classify = random.Random(f"measure_voices/{seed}"), voice_classifier(seed=seed + 1)
    loss, continued, told_apart = {}, {}, {}
    for name in (PLAIN_NAME, *VOICES):
        texts = [" ".join(_statement(name, rng, "held_out") for _ in range(2)) for _ in range(n)]
        loss[name] = _loss(model, tokenizer, texts)
        told_apart[name] = sum(classify(text) == name for text in texts) / n
        more = complete(model, tokenizer, texts, temperature=1.0, seed=seed, max_new_tokens=40)
        on = [text for text in more if text.strip()]
        continued[name] = sum(classify(text) == name for text in on) / len(on) if on else math.nan
    return VoiceMeasurement(loss, continued, told_apart)


@torch.no_grad()
def _loss(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> float:
    """Mean cross-entropy in nats of the texts' tokens after their first."""
    total = count = 0.0
    for text in texts:
        ids = tokenizer(text + END, return_tensors="pt").input_ids
        steps = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
        total -= float(steps.gather(1, ids[0, 1:, None]).sum())
        count += ids.shape[1] - 1
    return total / count
