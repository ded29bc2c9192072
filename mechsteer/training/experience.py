"""What a deployed steering has met: a bounded file of prompts, what was answered, and what the answer was worth.

One JSON object per line, with a digest of its own, appended as answers come; the same prompt with the same target is
kept once, with the reward of the last time. When there are more than `capacity`, the oldest leave.

Rewards come from outside: the known answer (`exact_answer`), or the answer that most of several samples agree on
(`majority_rewards`, self-consistency: Wang et al. 2022, arXiv 2203.11171).
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mechsteer.errors import ConfigError, DataError, FileFormatError, StorageError
from mechsteer.files import digest_of, write_atomically
from mechsteer.results import from_plain, to_plain

_SLACK = 2  # the file is written anew where it has so many times the lines that count


@dataclass(frozen=True, kw_only=True)
class Experience:
    """One answer in deployment. Raises DataError for an empty prompt or target, and a reward that is no finite number."""

    prompt: str
    target: str
    """what was written, as it reads behind the prompt"""
    reward: float
    ended: bool = True
    """the answer ended by itself: that it did is trained, too"""
    summary: tuple[float, ...] | None = None
    """the prompt's summary p, where the adapter has one"""

    def __post_init__(self) -> None:
        if not self.prompt or not self.target:
            raise DataError(f"an experience of {self.prompt!r:.40} and {self.target!r:.40}", "give both texts")
        if not math.isfinite(self.reward):
            raise DataError(f"the reward is {self.reward}", "give a finite number")

    @property
    def key(self) -> str:
        """What is kept once: a hash of prompt and target."""
        return digest_of([self.prompt, self.target])


class Experiences:
    """A file of at most `capacity` experiences, oldest first; another process may read it at any time.

    Raises ConfigError for a capacity below 1, FileFormatError for a file with damaged lines (a last line that was cut
    off by a kill is passed over), StorageError where the disk refuses.
    """

    def __init__(self, path: str | Path, *, capacity: int = 10_000) -> None:
        if capacity < 1:
            raise ConfigError(f"capacity is {capacity}", "pass at least 1")
        self.path, self.capacity = Path(path), capacity
        self._kept: dict[str, Experience] = {}
        lines, whole = _lines(self.path)
        for one in lines:
            self._take(one)
        self._n_lines = len(lines)
        if not whole or self._n_lines > len(self._kept):
            self._write()

    def __len__(self) -> int:
        return len(self._kept)

    def all(self) -> list[Experience]:
        """Oldest first."""
        return list(self._kept.values())

    def add(self, experience: Experience) -> bool:
        """Keep it; whether it is new. The file holds it when this returns."""
        known = self._kept.get(experience.key)
        if known == experience:
            return False
        self._take(experience)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                file.write(_line(experience))
        except OSError as error:
            raise StorageError(
                f"cannot write {self.path}: {error.strerror or error}", "free some space, or choose another folder"
            ) from error
        self._n_lines += 1
        if self._n_lines > _SLACK * self.capacity:
            self._write()
        return known is None

    def _take(self, experience: Experience) -> None:
        self._kept.pop(experience.key, None)  # the last one is the youngest
        self._kept[experience.key] = experience
        while len(self._kept) > self.capacity:
            del self._kept[next(iter(self._kept))]

    def _write(self) -> None:
        write_atomically(self.path, b"".join(map(_line, self._kept.values())))
        self._n_lines = len(self._kept)


def _line(experience: Experience) -> bytes:
    data = to_plain(experience)
    return json.dumps({"digest": digest_of(data), **data}).encode("ascii") + b"\n"


def _lines(path: Path) -> tuple[list[Experience], bool]:
    """(experiences, whether the last line is whole)."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return [], True
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror or error}", "check the path and its rights") from error
    *lines, rest = raw.split(b"\n")
    return [_read(line, path, number) for number, line in enumerate(lines, start=1)], not rest


def _read(line: bytes, path: Path, number: int) -> Experience:
    hint = "move the file away: an empty one is begun"
    try:
        data: Any = json.loads(line)
        digest = data.pop("digest")
        intact = digest == digest_of(data)
    except (ValueError, RecursionError, AttributeError, KeyError, TypeError) as error:
        raise FileFormatError(f"{path}, line {number}: no experience of mechsteer's", hint) from error
    if not intact:
        raise FileFormatError(
            f"{path}, line {number} is damaged: its content is not what its digest was taken over", hint
        )
    return from_plain(Experience, data)


Extract = Callable[[str], Hashable | None]
"""the answer that a text ends in; None where it gives none"""


def exact_answer(answer: Hashable, text: str, extract: Extract) -> float:
    """1 where the text's answer is the known one, else 0.

    >>> exact_answer("7", "3 + 4 = 7", lambda text: text.rpartition(" ")[2])
    1.0
    """
    return float(extract(text) == answer)


def majority_rewards(texts: Sequence[str], extract: Extract, *, least: float = 0.5) -> list[float]:
    """Per text 1 where its answer is that of the majority of `texts`, samples on one prompt; else 0.

    All 0 where no answer has more than the share `least` of them, so that a tie rewards nothing. Raises ConfigError for
    a share below a half: two answers could then both be the majority.

    >>> majority_rewards(["a 7", "b 7", "c 8"], lambda text: text[2:])
    [1.0, 1.0, 0.0]
    """
    if not 0.5 <= least < 1:
        raise ConfigError(f"least is {least}", "pass a share from a half to below 1")
    answers = [extract(text) for text in texts]
    counted = Counter(answer for answer in answers if answer is not None).most_common(1)
    if not counted or counted[0][1] <= least * len(texts):
        return [0.0] * len(texts)
    return [float(answer == counted[0][0]) for answer in answers]
