"""More features than dimensions: random unit vectors, three of them in every token, neurons that read four beyond a threshold.

The exact dictionary is the features themselves, as the decoder of an autoencoder; the overcomplete one is learned
from the activations (`dictionaries.learned`), and the planted features are those of which it has an atom.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mechsteer.adapters import Static
from mechsteer.planted.blueprint import Blueprint, uniform
from mechsteer.planted.dictionaries import learned, random_rows
from mechsteer.planted.scenes import D_MODEL, LENGTH, N_CONTEXTS, SITE, Scene
from mechsteer.steering.interventions import Intervention

N_FEATURES, D_VOCAB, PER_TOKEN, THRESHOLD = 96, 900, 3, 0.3


def superposed(generator: torch.Generator, *, learn: bool = False) -> Scene:
    """See the module; `learn` makes the learned dictionary."""
    features = _apart(random_rows(N_FEATURES, D_MODEL, generator))
    active = torch.stack([torch.randperm(N_FEATURES, generator=generator)[:PER_TOKEN] for _ in range(D_VOCAB)])
    sizes = uniform(0.5, 1.5, (D_VOCAB, PER_TOKEN), generator)
    embed = (features[active] * sizes[..., None]).sum(1)
    blueprint = Blueprint(embed)
    planted, decoys, out = features[:4], features[4:8], random_rows(1, D_MODEL, generator)[0]
    blueprint.clear(1, out)
    for row in planted:
        blueprint.neuron(1, row, -THRESHOLD, uniform(0.7, 1.5, 1, generator) * out)
    blueprint.odds(out)
    amplitudes = uniform(0.8, 1.5, 8, generator)
    iv = Intervention(Static((amplitudes @ features[:8]).float()), SITE)
    rows = torch.randint(3, D_VOCAB, (N_CONTEXTS, LENGTH), generator=generator).tolist()
    whole = {"overcomplete": learned(embed[3:], N_FEATURES, PER_TOKEN, generator)} if learn else {}
    return Scene(
        model=blueprint.build(),
        intervention=iv,
        contexts=rows,
        planted=planted,
        decoys=decoys,
        spare=features[8:],
        whole=whole,
        threshold=THRESHOLD,
    )


def _apart(features: Tensor, n: int = 8) -> Tensor:
    """The same with `n` first that hardly overlap, each the least like those before it: they will be in one delta."""
    cosines, order = (features @ features.T).abs(), [0]
    while len(order) < n:
        worst = cosines[order].amax(0)
        worst[order] = 2
        order.append(int(worst.argmin()))
    return features[order + [i for i in range(len(features)) if i not in order]]
