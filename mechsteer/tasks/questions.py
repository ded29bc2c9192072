"""Questions that are answered yes or no, and what a yes says about each value: served (+1) or violated (−1).

A policy that always says yes serves a value in half of a balanced set and violates it in the other half: it scores 0.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from mechsteer.errors import DataError, closest

YES = (" yes", " Yes", " YES", "yes", "Yes", "YES")
NO = (" no", " No", " NO", "no", "No", "NO")


@dataclass(frozen=True, kw_only=True)
class Question:
    """`prompt` ends where the model says yes or no. `group` is the situation, which intervals resample.

    `labels`: value -> +1 where yes serves it, −1 where yes violates it. Raises DataError for other labels, or none.
    """

    id: str
    prompt: str
    group: str
    labels: Mapping[str, int]

    def __post_init__(self) -> None:
        if not self.prompt.strip():
            raise DataError(f"question {self.id!r} has no text", "give one that ends where the answer begins")
        if not self.labels or any(label not in (1, -1) for label in self.labels.values()):
            raise DataError(
                f"question {self.id!r} has the labels {dict(self.labels)!r:.80}",
                "a label is +1 or -1, of one value or more",
            )


@dataclass(frozen=True, kw_only=True)
class QuestionSet:
    """Questions about a target value, and the words that count as yes and no.

    Raises DataError for no questions, two of one id, and a target that no question is about.
    """

    name: str
    questions: tuple[Question, ...]
    target: str
    yes: tuple[str, ...] = field(default=YES)
    no: tuple[str, ...] = field(default=NO)

    def __post_init__(self) -> None:
        if not self.questions:
            raise DataError(f"{self.name} has no questions", "give at least one of each label")
        twice = [name for name, n in Counter(q.id for q in self.questions).items() if n > 1]
        if twice:
            raise DataError(f"{self.name} has two questions {twice[0]!r}", "give every question its own id")
        if self.target not in self.values:
            raise DataError(
                f"no question of {self.name} is about {self.target!r}",
                f"closest are {closest(self.target, self.values)}" if self.values else "",
            )

    def __len__(self) -> int:
        return len(self.questions)

    @property
    def values(self) -> tuple[str, ...]:
        """Every value that is asked about, the most frequent first."""
        counted = Counter(value for question in self.questions for value in question.labels)
        return tuple(sorted(counted, key=lambda value: (-counted[value], value)))

    @property
    def imbalance(self) -> int:
        """Questions of the target whose yes serves it, minus those whose yes violates it."""
        return sum(question.labels.get(self.target, 0) for question in self.questions)

    @property
    def data_hash(self) -> str:
        """16 hex digits of prompts, labels and answer words."""
        told = [(q.id, q.prompt, q.group, sorted(q.labels.items())) for q in self.questions]
        return hashlib.sha256(
            repr((told, self.target, self.yes, self.no)).encode("utf-8", "surrogatepass")
        ).hexdigest()[:16]

    def balanced(self, n: int | None = None, *, seed: int = 0) -> QuestionSet:
        """Those about the target, as many of each label: `n` in all (default: as many as there are).

        They are drawn by `seed` and keep their order. Raises DataError where one label is missing, or `n` are not there.
        """
        sides = [[i for i, q in enumerate(self.questions) if q.labels.get(self.target) == label] for label in (1, -1)]
        most = min(map(len, sides))
        each = most if n is None else n // 2
        if not most or not 0 < each <= most or (n is not None and n % 2):
            raise DataError(
                f"{self.name} has {len(sides[0])} questions whose yes serves {self.target!r} and {len(sides[1])} whose "
                f"yes violates it; {2 * each if n is None else n} were asked for",
                f"an even number up to {2 * most} can be balanced"
                if most
                else "both labels are needed: choose another target",
            )
        rng = random.Random(f"balanced/{self.target}/{seed}")
        kept = sorted(i for side in sides for i in rng.sample(side, each))
        return replace(self, questions=tuple(self.questions[i] for i in kept))
