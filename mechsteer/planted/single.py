"""Mechanisms right behind the intervention: the next block, or the unembedding, reads the planted directions.

linear      odds = Σ w_i ⟨d_i, h⟩, so effects alone add up to the total exactly
mixed       the same, two of five pull the other way
relu        Σ w_i relu(⟨d_i, h⟩ − θ_i), contexts lie on both sides of θ
saturated   Σ w_i [⟨d_i, h⟩ > θ_i], ramps of 0.01: the gradient is 0 at both ends of a large effect
and, or     ramps over ⟨d_1, h⟩ + ⟨d_2, h⟩, beyond what one alone reaches, or within it
decoys      linear and relu beside inert directions many times as large
duplicates  the dictionary has each planted direction twice more, at cosine .9 to .95
"""

from __future__ import annotations

import torch

from mechsteer.planted.blueprint import uniform
from mechsteer.planted.dictionaries import near
from mechsteer.planted.scenes import Scene, Stage, stage


def linear(generator: torch.Generator) -> Scene:
    """See the module."""
    made = stage(generator)
    _add_linear(made, torch.ones(4), generator)
    return made.scene()


def mixed(generator: torch.Generator) -> Scene:
    """See the module."""
    made = stage(generator, n_planted=5)
    _add_linear(made, torch.tensor([1.3, 1.3, 1.3, -1.0, -1.0]), generator)
    return made.scene()


def relu(generator: torch.Generator) -> Scene:
    """See the module."""
    made = stage(generator)
    _add_relu(made, generator)
    return made.scene()


def saturated(generator: torch.Generator) -> Scene:
    """See the module."""
    made = stage(generator, noise=0.005)  # every context crosses a threshold at nearly the same strength
    for i, share in enumerate(uniform(0.3, 0.8, len(made.planted), generator).tolist()):
        weight = uniform(0.5, 1.5, 1, generator)
        made.blueprint.step(1, made.reads[i], share * float(made.amplitudes[i]), weight * made.out)
    made.result()
    return made.scene()


def both(generator: torch.Generator) -> Scene:
    """AND: see the module. Each alone does nothing."""
    return _pairs(generator, at=1.4, width=0.3)


def either(generator: torch.Generator) -> Scene:
    """OR: see the module. Each alone does everything, and removing one changes nothing."""
    return _pairs(generator, at=0.3, width=0.4)


def decoys(generator: torch.Generator) -> Scene:
    """See the module."""
    made = stage(generator, n_decoys=6, loads=(4.0, 8.0))
    _add_relu(made, generator, n=2)
    reads = made.reads[2:] * uniform(0.5, 1.5, (2, 1), generator)
    made.blueprint.odds(made.out + reads.sum(0))  # `out` is cleared already
    return made.scene()


def duplicates(generator: torch.Generator) -> Scene:
    """See the module."""
    made = stage(generator)
    _add_linear(made, torch.ones(4), generator)
    return made.scene(extra=torch.cat([near(made.planted, cosine, generator) for cosine in (0.9, 0.95)]))


def _add_linear(made: Stage, signs: torch.Tensor, generator: torch.Generator) -> None:
    weights = signs * uniform(0.5, 1.0, len(made.planted), generator)
    made.blueprint.odds((weights / made.amplitudes) @ made.reads)


def _add_relu(made: Stage, generator: torch.Generator, n: int | None = None) -> None:
    chosen = range(len(made.planted) if n is None else n)
    for i in chosen:
        at = float(made.amplitudes[i] * uniform(0.2, 0.6, 1, generator))
        made.blueprint.neuron(1, made.reads[i], -at, uniform(0.7, 1.5, 1, generator) * made.out)
    made.result()


def _pairs(generator: torch.Generator, at: float, width: float) -> Scene:
    made = stage(generator, noise=0.1)
    units = made.reads / made.amplitudes[:, None]  # the delta adds 1
    for i in (0, 2):
        made.blueprint.step(1, units[i] + units[i + 1], at, uniform(0.7, 1.3, 1, generator) * made.out, width)
    made.result()
    return made.scene()
