"""What all visitors of the lab share: one model, the concepts, their vectors and the checks that the model knows them.

Vectors and checks lie on disk below the lab's folder, so that a second start runs no forward. A concept of one's own is
a JSON file in `concepts/` with a steering file beside it.
"""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mechsteer.adapters import Static
from mechsteer.concepts import (
    DEPTHS,
    NAMES,
    NEUTRAL,
    CheckSettings,
    Concept,
    ConceptCheck,
    ConceptFile,
    as_concept,
    check_concepts,
    concept,
    concept_vectors,
)
from mechsteer.directions import Direction
from mechsteer.errors import ConfigError, MechsteerError
from mechsteer.files import write_atomically
from mechsteer.lab.choosing import Source
from mechsteer.models.sites import Site
from mechsteer.results import to_json
from mechsteer.steering import Intervention, at_strength, save_steering
from mechsteer.steering.units import Unit

NONE = "(none)"
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,31}")
PROMPTS = NEUTRAL[:8]
"""What strengths are measured on."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What a visitor steers by: concept, or a + weight · b, at a layer, with a strength."""

    name: str
    layer: int
    strength: float
    unit: Unit = "raw"
    other: str = NONE
    weight: float = 0.0


class Closing(Exception):
    """The lab closes: a check ends where it is."""


class Workbench:
    """The model of one lab with its concepts. Safe to use from several threads."""

    def __init__(
        self, model: Any, *, name: str, folder: Path, source: Source | None = None, how: CheckSettings | None = None
    ) -> None:
        self.model, self.name, self.folder = model, name, folder
        self.source = Source(name=name) if source is None else source
        self.how = how
        self.cache = folder / "vectors"
        self.problems: list[str] = []
        """files of concepts that could not be read, with the reason"""
        self.lock = threading.RLock()
        self.closing = threading.Event()
        self._idle, self._visits = threading.Condition(), 0
        self._chosen: dict[str, None] = {}
        """concepts that somebody chose, the last one last"""
        self._vectors: dict[tuple[str, int], Direction] = {}
        self._coeffs: dict[Choice, float] = {}
        self._checks: dict[str, ConceptCheck | MechsteerError] = {}
        self._concepts = {known: concept(known) for known in NAMES}
        self._own: dict[str, Path] = {}
        for path in sorted((folder / "concepts").glob("*.json")):
            self._read_own(path)

    @property
    def n_layers(self) -> int:
        return self.model.cfg.n_layers

    def names(self) -> list[str]:
        """All concepts: the package's, then one's own."""
        return list(self._concepts)

    def concept(self, name: str) -> Concept:
        """Raises ConfigError for a concept that is not there."""
        if name not in self._concepts:
            raise ConfigError(f"there is no concept {name!r}", "choose one from the list")
        return self._concepts[name]

    def own_file(self, name: str) -> Path | None:
        """The file of a concept of one's own; None for the package's."""
        return self._own.get(name)

    def choices(self) -> list[tuple[str, str]]:
        """(what a list shows, name) of every concept; what the model does not know says so."""
        shown = []
        for name in self.names():
            check = self.check(name)
            unknown = isinstance(check, MechsteerError) or (check is not None and not check.knows)
            shown.append((f"{name} (this model does not know it)" if unknown else name, name))
        return shown

    # -- vectors and steerings ---------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Make, or read, the vectors of all concepts at three depths."""
        concept_vectors(self.model, list(self._concepts.values()), DEPTHS, cache=self.cache)

    def vector(self, name: str, layer: int) -> Direction:
        """The vector of a concept at a layer."""
        with self.lock:
            if (name, layer) not in self._vectors:
                site = Site(int(layer), "resid_post")
                (found,) = concept_vectors(self.model, [self.concept(name)], site, cache=self.cache)
                self._vectors[name, layer] = found
            return self._vectors[name, layer]

    def direction(self, choice: Choice) -> Direction:
        """The vector of a choice, which may be of two concepts."""
        vector = self.vector(choice.name, choice.layer)
        if choice.other in ("", NONE) or choice.weight == 0:
            return vector
        return vector + choice.weight * self.vector(choice.other, choice.layer)

    def steering(self, choice: Choice) -> Intervention:
        """The intervention that a choice stands for. Raises what `at_strength` raises."""
        self._chosen.pop(choice.name, None)
        self._chosen[choice.name] = None
        iv = Intervention(Static(self.direction(choice).vector), Site(choice.layer, "resid_post"))
        if choice not in self._coeffs:
            self._coeffs[choice] = at_strength(self.model, iv, choice.strength, choice.unit, PROMPTS).coeff
        return iv.with_coeff(self._coeffs[choice])

    # -- does the model know them? -----------------------------------------------------------------------------

    def check(self, name: str) -> ConceptCheck | MechsteerError | None:
        """What is known of a concept; None until it has been checked."""
        return self._checks.get(name)

    def check_all(self) -> None:
        """Check all concepts, one after the other, keeping each on disk; first those that somebody chose.

        It waits at every token while a visitor is at work, and ends where the lab closes.
        """
        while (name := self._next_unchecked()) is not None:
            try:
                self._check(name, self._yield_to_visitors)
            except Closing:
                return

    def check_now(self, name: str) -> ConceptCheck | MechsteerError:
        """Check a concept at once, as the visitor who made it waits for it."""
        return self._check(name, None)

    def _check(self, name: str, pause: Callable[[], None] | None) -> ConceptCheck | MechsteerError:
        try:
            (found,) = check_concepts(self.model, [self.concept(name)], how=self.how, cache=self.cache, pause=pause)
        except (MechsteerError, torch.OutOfMemoryError) as error:
            found = (
                error if isinstance(error, MechsteerError) else MechsteerError("memory ran out while it was checked")
            )
        self._checks[name] = found
        return found

    def _next_unchecked(self) -> str | None:
        names = [*reversed(list(self._chosen)), *self.names()]
        return next((name for name in names if name not in self._checks), None) if not self.closing.is_set() else None

    @contextlib.contextmanager
    def visit(self) -> Iterator[None]:
        """A block in which a visitor has something computed: checks of concepts wait."""
        with self._idle:
            self._visits += 1
        try:
            yield
        finally:
            with self._idle:
                self._visits -= 1
                self._idle.notify_all()

    def _yield_to_visitors(self) -> None:
        with self._idle:
            while self._visits and not self.closing.is_set():
                self._idle.wait(0.2)
        if self.closing.is_set():
            raise Closing

    # -- one's own ---------------------------------------------------------------------------------------------

    def create(self, name: str, positive: str, neutral: str, words: str) -> Path:
        """A concept from texts, one a line, and the words that show it; returns its steering file.

        Raises ConfigError for a name that is none or is taken, and for texts that are not one to one; FileFormatError
        for too few pairs and where no word shows it. Nothing is written then.
        """
        name = name.strip()
        sides = [[line.strip() for line in text.splitlines() if line.strip()] for text in (positive, neutral)]
        if not _NAME.fullmatch(name):
            raise ConfigError(f"{name!r} is no name for a concept", "small letters, digits, - and _; at most 32")
        if name in self._concepts:
            raise ConfigError(f"there is a concept {name!r} already", "choose another name")
        if len(sides[0]) != len(sides[1]):
            raise ConfigError(
                f"{len(sides[0])} texts show it and {len(sides[1])} are neutral", "write one neutral text for each"
            )
        file = ConceptFile(
            name=name,
            meaning="made in the lab",
            kind="register",
            opposite="",
            check=f"texts show {name!r} where they have one of its words",
            words=[word.strip() for word in words.split(",") if word.strip()],
            words_per_sentence=[],
            pairs=[list(pair) for pair in zip(*sides, strict=True)],
        )
        made = as_concept(file, what=f"the concept {name!r}")
        site = Site(self.n_layers // 2, "resid_post")
        (vector,) = concept_vectors(self.model, [made], site, cache=self.cache)
        path = self.folder / "concepts" / f"{name}.safetensors"
        with self.lock:
            if name in self._concepts:  # another visitor was faster
                raise ConfigError(f"there is a concept {name!r} already", "choose another name")
            if any(path.with_suffix(end).exists() for end in (".json", ".safetensors")):  # it could not be read
                raise ConfigError(f"a file of a concept {name!r} lies there already", "choose another name, or mend it")
            save_steering(Intervention(Static(vector.vector), site), path, self.model)
            write_atomically(path.with_suffix(".json"), to_json(file, ConceptFile))
            self._concepts[name], self._own[name] = made, path.with_suffix(".json")
        return path

    def _read_own(self, path: Path) -> None:
        try:
            own = concept(path)
        except MechsteerError as error:
            self.problems.append(str(error))
            return
        if own.name in self._concepts:
            self.problems.append(f"{path} is named {own.name!r}, as another concept is")
            return
        self._concepts[own.name], self._own[own.name] = own, path
