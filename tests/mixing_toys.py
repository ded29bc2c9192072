"""For tests of the equaliser: steerings with atoms that matter on the toy models, and an adapter that tells nothing."""

from __future__ import annotations

import torch
import toys
from booster_toys import perturbed

import mechsteer as ms
from mechsteer.adapters import Dictionary

K = 4
GENERATED = ms.TokenScope.generated(include_last_prompt=True)
PROMPT = [256, *toys.prompts(6)[0]]


def dictionary(n_atoms: int = K, seed: int = 0, layer: int = 1, scope: ms.TokenScope = GENERATED, **options):
    """An intervention with a perturbed dictionary: what it adds changes what is written."""
    adapter = Dictionary(toys.D_MODEL, toys.D_MODEL, n_atoms=n_atoms, d_hidden=8, **options)
    return ms.Intervention(perturbed(adapter, seed=seed), layer, scope=scope, coeff=2.0)


def logits(model, steering=(), tokens=PROMPT):
    with torch.no_grad(), ms.steer(model, steering, prompt_lengths=[3]):
        return model(torch.tensor([tokens]))


def written(model, steering=(), **options):
    return ms.generate(model, [PROMPT], steering, max_new_tokens=8, stop_tokens=(), **options).tokens[0]


class Silent(Dictionary):
    """Has atoms, and notes no weights."""

    def delta(self, acts, state, coeff, ctx):
        return torch.zeros_like(acts), state
