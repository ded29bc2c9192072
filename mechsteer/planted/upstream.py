"""Several layers upstream: written at one token, carried by attention to the last, through two layers of neurons.

block 0 ends: + vector, at the trigger token alone      block 1: a head carries ⟨d_i, h⟩ on, to directions of its own
block 2: relu of those, beyond a threshold              block 3: relu of these, weighted, to the odds
"""

from __future__ import annotations

from dataclasses import replace

import torch

from mechsteer.planted.blueprint import uniform
from mechsteer.planted.scenes import LENGTH, Scene, stage
from mechsteer.runtime.scopes import TokenScope

TRIGGER = 2


def upstream(generator: torch.Generator) -> Scene:
    """See the module."""
    made = stage(generator, n_layers=4, noise=0.3)
    n = len(made.planted)
    carried, second = made.frame[-1 - n : -1], made.frame[-1 - 2 * n : -1 - n]
    made.blueprint.spread(1, made.reads, LENGTH * carried)
    for i in range(n):
        at = float(made.amplitudes[i] * uniform(0.1, 0.4, 1, generator))
        made.blueprint.neuron(2, carried[i], -at, second[i])
        made.blueprint.neuron(3, second[i], -0.05, uniform(0.7, 1.5, 1, generator) * made.out)
    made.result(3)
    places = torch.randint(0, LENGTH - 1, (len(made.contexts),), generator=generator).tolist()
    rows = [[*row[:at], TRIGGER, *row[at + 1 :]] for row, at in zip(made.contexts, places, strict=True)]
    return replace(made, contexts=rows).scene(scope=TokenScope.token_ids([TRIGGER]))
