"""Cases in which a careful attribution claims less: there is no effect, or a share is only a part of the residual's.

nulls      the delta is large and does nothing: nobody reads its directions, or not at its token, or it stays under
           every threshold, or it is so large that rounding alone moves the metric
illusions  a direction between one that is in the delta and inert and one that is read and not in the delta: alone it
           has an effect, which what is left of the delta takes back (Makelov, Lange & Nanda 2023, arXiv 2311.17030)
"""

from __future__ import annotations

import torch

from mechsteer.planted.blueprint import uniform
from mechsteer.planted.scenes import Scene, stage
from mechsteer.runtime.scopes import TokenScope

NULLS = ("unread", "elsewhere", "below", "rounding")


def null(generator: torch.Generator, kind: str | None = None) -> Scene:
    """See the module; `kind` is one of NULLS, drawn where it is not given."""
    drawn = int(torch.randint(len(NULLS), (1,), generator=generator))
    kind = NULLS[drawn] if kind is None else kind
    made = stage(generator, noise=0.1, loads=(20.0, 40.0) if kind == "rounding" else (1.0, 3.0))
    for i, weight in enumerate(uniform(0.7, 1.5, len(made.planted), generator).tolist()):
        at = 3.0 if kind == "below" else 0.4
        made.blueprint.step(1, made.reads[i], at, weight * made.out, width=0.3)
    made.result()
    if kind in ("unread", "rounding"):
        return made.scene((made.loads @ made.decoys).float(), is_null=True)
    return made.scene(scope=TokenScope.positions([1]) if kind == "elsewhere" else None, is_null=True)


def illusions(generator: torch.Generator) -> Scene:
    """See the module. Two illusions beside three planted directions; their halves are in no dictionary.

    All are read by neurons that are open in some contexts: in a linear model, or where contexts do not differ, an
    illusion beside a true share cannot be told from a true share beside an illusion.
    """
    made = stage(generator, n_planted=3, n_decoys=2)
    inert, dormant = made.frame[-3:-1], made.frame[-5:-3]
    for read, size in zip(made.reads, made.amplitudes.tolist(), strict=True):
        at = float(size * uniform(0.2, 0.6, 1, generator))
        made.blueprint.neuron(1, read, -at, uniform(0.7, 1.5, 1, generator) * made.out)
    for read in dormant:
        made.blueprint.neuron(1, read, 0.3, uniform(1.2, 2.0, 1, generator) * made.out)
    made.result()
    vector = made.vector() + (uniform(1.5, 2.0, 2, generator) @ inert).float()
    return made.scene(vector, illusions=(inert + dormant) / 2**0.5, spare=made.spare[:-5])
