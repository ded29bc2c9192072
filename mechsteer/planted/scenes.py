"""What every family hands over, and how it becomes a case: dictionary made and shuffled, truth measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from mechsteer.adapters import Static
from mechsteer.attribution.metrics import Metric
from mechsteer.models.sites import Site
from mechsteer.planted.blueprint import METRIC, Blueprint, rotation, uniform
from mechsteer.planted.dictionaries import closest, random_rows, shuffle
from mechsteer.planted.planted import SAME, Planted
from mechsteer.planted.subsets import measure
from mechsteer.runtime.scopes import TokenScope
from mechsteer.steering.interventions import Intervention

D_MODEL, D_VOCAB, N_CONTEXTS, LENGTH = 64, 40, 32, 6
SITE = Site(0, "resid_post")
DICTIONARIES = ("exact", "overcomplete")
OVERCOMPLETE = 4  # directions per dimension
FEWEST = 0.02  # of Σ|shapley|: what a part of a trained vector must have for having been learned


@dataclass(frozen=True, kw_only=True, eq=False)
class Scene:
    """A model, an intervention, and the directions that are known.

    `planted`, `decoys`, `illusions` [n d_model] are unit vectors. `spare`: what else is in the exact dictionary.
    `others`: what else is in the dictionary of this name, where it is neither `spare` nor random; with `whole` that
    is all of it (a learned one). `threshold`: of a dictionary that is an autoencoder's.
    """

    model: Any
    intervention: Intervention
    contexts: Sequence[Sequence[int]]
    planted: Tensor
    decoys: Tensor
    spare: Tensor
    illusions: Tensor = field(default_factory=lambda: torch.zeros(0, D_MODEL, dtype=torch.float64))
    extra: Tensor = field(default_factory=lambda: torch.zeros(0, D_MODEL, dtype=torch.float64))
    whole: Mapping[str, Tensor] = field(default_factory=dict)
    threshold: float | None = None
    metric: Metric = METRIC
    is_null: bool = False


Family = Callable[[torch.Generator], Scene]


def finish(
    scene: Scene, *, family: str, dictionary: str, trained: bool, seed: int, generator: torch.Generator
) -> Planted:
    """The case of a scene: its planted directions are those that the dictionary has, and a trained adapter learned."""
    named = torch.cat([scene.planted, scene.decoys, scene.illusions, scene.extra.to(scene.planted)])
    if dictionary in scene.whole:
        rows = scene.whole[dictionary]
    elif dictionary == "exact":
        rows = torch.cat([named, scene.spare])
    else:
        d_model = named.shape[1]
        n_random = max(OVERCOMPLETE * d_model - len(named), 0)
        rows = torch.cat([named, random_rows(n_random, d_model, generator)])
    basis = shuffle(rows, generator, is_sae=scene.threshold is not None, threshold=scene.threshold or 0.0).basis

    here = {name: closest(getattr(scene, name), basis) for name in ("planted", "decoys", "illusions")}
    is_there = here["planted"][1] >= SAME
    planted, places = scene.planted[is_there], here["planted"][0][is_there]
    truth = measure(scene.model, scene.intervention, scene.contexts, scene.metric, planted, scene.decoys)
    learned = 1.0
    if trained:
        weight = truth.shapley.abs()
        kept = weight > FEWEST * weight.sum()
        learned = float(kept.double().mean())
        places = places[kept]
        truth = replace(truth, alone=truth.alone[kept], removed=truth.removed[kept], shapley=truth.shapley[kept])
    return Planted(
        family=family,
        dictionary=dictionary,
        trained=trained,
        seed=seed,
        model=scene.model,
        intervention=scene.intervention,
        contexts=scene.contexts,
        metric=scene.metric,
        basis=basis,
        planted=() if scene.is_null else tuple(places.tolist()),
        decoys=tuple(here["decoys"][0][here["decoys"][1] >= SAME].tolist()),
        illusions=tuple(here["illusions"][0].tolist()),
        truth=truth,
        is_null=scene.is_null,
        learned=learned,
    )


@dataclass(frozen=True, eq=False)
class Stage:
    """An empty model of which nothing is read yet: a frame of orthonormal directions, some of them named.

    `reads` = sign(amplitude) · direction, so that the delta raises ⟨read_i, h⟩ by amplitude_i > 0.
    """

    blueprint: Blueprint
    frame: Tensor  # [d_model d_model] orthonormal
    planted: Tensor
    decoys: Tensor
    signs: Tensor
    amplitudes: Tensor  # of planted ones
    loads: Tensor  # of decoys, signed
    contexts: list[list[int]]

    @property
    def reads(self) -> Tensor:
        return self.planted * self.signs[:, None]

    @property
    def out(self) -> Tensor:
        """A direction for results, in no delta and no dictionary's name."""
        return self.frame[-1]

    @property
    def spare(self) -> Tensor:
        """The rest of the frame."""
        return self.frame[len(self.planted) + len(self.decoys) :]

    def result(self, layer: int = 1) -> None:
        """The odds are what neurons of `layer` write to `out`; what the delta may hold along it is cleared."""
        self.blueprint.clear(layer, self.out)
        self.blueprint.odds(self.out)

    def vector(self) -> Tensor:
        """What is added: planted directions and decoys with their amplitudes, float32 [d_model]."""
        return ((self.amplitudes[:, None] * self.reads).sum(0) + self.loads @ self.decoys).float()

    def scene(self, vector: Tensor | None = None, *, scope: TokenScope | None = None, **more: Any) -> Scene:
        """The scene of a static vector (`vector()`) at the first block's end."""
        added = self.vector() if vector is None else vector.float()
        made = Scene(
            model=self.blueprint.build(),
            intervention=Intervention(Static(added), SITE, scope=scope or TokenScope.all()),
            contexts=self.contexts,
            planted=self.planted,
            decoys=self.decoys,
            spare=self.spare,
        )
        return replace(made, **more)


def stage(
    generator: torch.Generator,
    *,
    n_planted: int = 4,
    n_decoys: int = 4,
    noise: float = 0.5,
    loads: tuple[float, float] = (0.8, 1.5),
    n_layers: int = 2,
) -> Stage:
    """Directions, amplitudes, embeddings (noise of this standard deviation along every direction) and contexts."""
    frame = rotation(D_MODEL, generator)
    embed = noise * torch.randn(D_VOCAB, D_MODEL, generator=generator, dtype=torch.float64)
    signs = torch.randint(0, 2, (n_planted + n_decoys,), generator=generator).double() * 2 - 1
    return Stage(
        Blueprint(embed, n_layers),
        frame,
        frame[:n_planted],
        frame[n_planted : n_planted + n_decoys],
        signs[:n_planted],
        uniform(0.8, 1.5, n_planted, generator),
        signs[n_planted:] * uniform(*loads, n_decoys, generator),
        contexts(generator),
    )


def contexts(generator: torch.Generator, n: int = N_CONTEXTS, length: int = LENGTH, first: int = 3) -> list[list[int]]:
    """Prompts of one length, of random tokens from `first` on (the first three have jobs)."""
    return torch.randint(first, D_VOCAB, (n, length), generator=generator).tolist()
