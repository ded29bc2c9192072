"""Texts of a model under concepts' vectors at every layer and strength, beside random directions, prompts and sums: each once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from common import Cells
from numpy import ndarray

from mechsteer.adapters import Static
from mechsteer.concepts import NAMES, NEUTRAL, CheckSettings, Concept, ConceptCheck, check_concepts, concept
from mechsteer.concepts import concept_vectors as vectors_of
from mechsteer.directions import Direction, random_direction
from mechsteer.evaluation.likelihoods import log_likelihoods
from mechsteer.models import model_fingerprint
from mechsteer.models.sites import Site
from mechsteer.results import to_plain
from mechsteer.steering import Generation, Intervention, generate
from mechsteer.steering.units import at_strength

FAR = 1000  # between the seeds of random draws
CHOOSING, HELD_OUT = (
    slice(0, None, 2),
    slice(1, None, 2),
)  # of the prompts: cells are chosen on the first, reported on the others
EXAMPLES = (1, 2)


@dataclass(frozen=True, kw_only=True, eq=False)
class Grid:
    """One concept at all layers and strengths, one text a prompt: arrays [n_layers n_shares n_prompts]."""

    shown: ndarray
    broken: ndarray
    raw: ndarray
    """[n_layers n_shares] multiples of the difference that the strengths are"""


@dataclass(frozen=True, kw_only=True, eq=False)
class Writer:
    """A model, and everything that it is asked to write."""

    model: Any
    settings: Mapping[str, Any]
    cells: Cells

    @cached_property
    def fingerprint(self) -> str:
        return model_fingerprint(self.model)

    @property
    def seeds(self) -> range:
        return range(self.settings["seeds"])

    @property
    def shares(self) -> list[float]:
        return [float(share) for share in self.settings["shares"]]

    @cached_property
    def concepts(self) -> list[Concept]:
        return [concept(name) for name in self.settings["concepts"] or NAMES]

    @property
    def n_layers(self) -> int:
        return self.model.cfg.n_layers

    @property
    def middle(self) -> int:
        return self.n_layers // 2

    @cached_property
    def vectors(self) -> dict[tuple[str, int], Direction]:
        """By concept and layer."""
        sites = [Site(layer, "resid_post") for layer in range(self.n_layers)]
        found = iter(vectors_of(self.model, self.concepts, sites))
        return {(each.name, layer): next(found) for each in self.concepts for layer in range(self.n_layers)}

    @cached_property
    def unit_coeffs(self) -> list[float]:
        """Per layer the length of what is as long as the mean residual there."""
        found = self._kept("lengths", {}, lambda: {"lengths": [self._length(layer) for layer in range(self.n_layers)]})
        return [float(length) for length in found["lengths"]]

    def _length(self, layer: int) -> float:
        unit = torch.zeros(self.model.cfg.d_model)
        unit[0] = 1.0
        return at_strength(self.model, self._added(unit, layer), 1.0, "residual", NEUTRAL).coeff

    def raw(self, name: str, layer: int, share: float) -> float:
        """How many of the concept's differences are `share` of the residual's norm."""
        return share * self.unit_coeffs[layer] / float(self.vectors[name, layer].vector.norm())

    # -- texts -------------------------------------------------------------------------------------------------

    def grid(self, each: Concept) -> list[Grid]:
        """The concept's own vectors, seed by seed."""
        found = self._kept("grid", {"concept": each.name, "seeds": len(self.seeds)}, lambda: self._grid(each))
        raw = np.array([[self.raw(each.name, layer, share) for share in self.shares] for layer in range(self.n_layers)])
        shown, broken = (self._by_seed(found[what]) for what in ("shown", "broken"))
        return [Grid(shown=shown[seed], broken=broken[seed], raw=raw) for seed in self.seeds]

    def _grid(self, each: Concept) -> dict[str, Any]:
        shown, broken = [], []
        for layer in range(self.n_layers):
            vector = self.vectors[each.name, layer].vector
            wrote = [
                self._write(self._repeated, self._added(vector, layer, self.raw(each.name, layer, share)), FAR)
                for share in self.shares
            ]
            shown.append([[each.shows(text) for text in one.texts] for one in wrote])
            broken.append([self._breaks(one) for one in wrote])
        return {"shown": shown, "broken": broken}

    @property
    def _repeated(self) -> Sequence[str]:
        """All prompts once a seed: one batch of them all takes half of the time of three."""
        return NEUTRAL * len(self.seeds)

    def _by_seed(self, values: Any) -> ndarray:
        """[... n_seeds n_prompts] as [n_seeds ... n_prompts]."""
        found = np.array(values)
        return np.moveaxis(found.reshape(*found.shape[:-1], len(self.seeds), len(NEUTRAL)), -2, 0)

    def random(self, seed: int) -> dict[str, ndarray]:
        """Random directions: by concept [n_random n_layers n_shares n_prompts] whether the text shows it."""
        drawn = [
            self._kept("random", {"seed": seed, "draw": i}, lambda i=i: self._random(seed, i))
            for i in range(self.settings["n_random"])
        ]
        return {each.name: np.array([one[each.name] for one in drawn]) for each in self.concepts}

    def _random(self, seed: int, draw: int) -> dict[str, Any]:
        d_model = self.model.cfg.d_model
        texts = []
        for layer in range(self.n_layers):
            unit = torch.nn.functional.normalize(_drawn(d_model, FAR * seed + draw, layer), dim=0)
            coeffs = [share * self.unit_coeffs[layer] for share in self.shares]
            texts.append([self._write(NEUTRAL, self._added(unit, layer, c), seed).texts for c in coeffs])
        return {each.name: [[[each.shows(t) for t in row] for row in of] for of in texts] for each in self.concepts}

    def base(self, seed: int) -> dict[str, ndarray]:
        """By concept [n_prompts] whether the unsteered text shows it."""
        found = self._kept("base", {"seed": seed}, lambda: self._base(seed))
        return {each.name: np.array(found[each.name]) for each in self.concepts}

    def _base(self, seed: int) -> dict[str, Any]:
        texts = self._write(NEUTRAL, None, seed).texts
        return {each.name: [each.shows(text) for text in texts] for each in self.concepts}

    def prompted(self, each: Concept, seed: int) -> ndarray:
        """[n_ways n_prompts] whether texts show the concept behind examples of it, or behind its name."""
        return np.array(
            self._kept("prompted", {"concept": each.name, "seed": seed}, lambda: self._prompted(each, seed))["shown"]
        )

    def _prompted(self, each: Concept, seed: int) -> dict[str, Any]:
        order = np.random.default_rng(seed).permutation(len(each.pairs))
        ways = [" ".join(each.pairs.positive[i] for i in order[:n]) for n in EXAMPLES]
        ways.append(f"This is {each.name}: {each.meaning}.")
        wrote = [self._write([f"{way} {prompt}" for prompt in NEUTRAL], None, seed).texts for way in ways]
        return {"shown": [[each.shows(text) for text in texts] for texts in wrote]}

    def mixed(self, parts: Sequence[tuple[str, float]], seed: int, *, second_random: bool = False) -> dict[str, float]:
        """Share of held-out texts that show each concept under the sum of parts (name, coefficient) at the middle layer.

        `second_random`: with a random vector as long in place of the second part.
        """
        key = {"parts": [list(part) for part in parts], "seed": seed, "second_random": second_random}
        return self._kept("mixed", key, lambda: self._mixed(parts, seed, second_random))

    def _mixed(self, parts: Sequence[tuple[str, float]], seed: int, second_random: bool) -> dict[str, float]:
        added = [coeff * self.vectors[name, self.middle].vector for name, coeff in parts]
        if second_random:
            added[1] = random_direction(added[1], seed=FAR + seed).vector
        prompts = [prompt for prompt in NEUTRAL[HELD_OUT] for _ in range(self.settings["n_repeats"])]
        iv = self._added(torch.stack(added).sum(0), self.middle) if added else None
        texts = self._write(prompts, iv, FAR + seed).texts
        return {each.name: float(np.mean([each.shows(text) for text in texts])) for each in self.concepts}

    def checks(self) -> list[ConceptCheck]:
        """Whether the model knows each concept, by the concepts' own check."""

        def compute() -> dict[str, Any]:
            how = CheckSettings(max_new_tokens=2 * self.settings["max_new_tokens"])
            return {"checks": [to_plain(each) for each in check_concepts(self.model, self.concepts, how=how)]}

        return [ConceptCheck.from_dict(each) for each in self._kept("checks", {}, compute)["checks"]]

    # -- how ---------------------------------------------------------------------------------------------------

    def _kept(self, what: str, key: Mapping[str, Any], compute: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
        own = {k: v for k, v in self.settings.items() if k not in ("seeds", "model", "second", "stories")}
        return self.cells.of({"what": what, "model": self.fingerprint, **key, "settings": own}, compute)

    def _added(self, vector: torch.Tensor, layer: int, coeff: float = 1.0) -> Intervention:
        return Intervention(Static(vector), Site(layer, "resid_post"), coeff=coeff)

    def _write(self, prompts: Sequence[str], iv: Intervention | None, seed: int) -> Generation:
        steering = () if iv is None else iv
        return generate(
            self.model,
            prompts,
            steering,
            max_new_tokens=self.settings["max_new_tokens"],
            temperature=1.0,
            seed=seed,
        )

    def _breaks(self, wrote: Generation) -> list[bool]:
        return (np.nan_to_num(self._losses(wrote), nan=-np.inf) > self._threshold()).tolist()

    def _threshold(self) -> float:
        """Nats per token that 95 % of the model's own texts stay below."""

        def compute() -> dict[str, Any]:
            prompts = [NEUTRAL[i % len(NEUTRAL)] for i in range(self.settings["n_own"])]
            return {"nats": float(np.nanquantile(self._losses(self._write(prompts, None, 2 * FAR)), 0.95))}

        return float(self._kept("threshold", {}, compute)["nats"])

    def _losses(self, wrote: Generation) -> ndarray:
        """Nats per new token under the unsteered model; nan for a text without any."""
        losses = np.full(len(wrote.tokens), np.nan)
        at = [i for i, row in enumerate(wrote.tokens) if len(row)]
        pairs = [(wrote.prompt_tokens[i], wrote.tokens[i]) for i in at]
        losses[at] = -log_likelihoods(self.model, pairs, by_length=True) / [len(end) for _, end in pairs] if at else 0
        return losses


def _drawn(d_model: int, seed: int, layer: int) -> torch.Tensor:
    return torch.randn(d_model, generator=torch.Generator().manual_seed(FAR * FAR + FAR * layer + seed))
