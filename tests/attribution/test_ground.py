"""What bases share, and what of an attribution rests on every token."""

from __future__ import annotations

import torch

import mechsteer as ms
from mechsteer.attribution import attribute_on, ground
from mechsteer.attribution.selection import MOST_CODED
from tests import toys
from tests.attribution.test_effect import ODDS, SITE, axes, static
from tests.attribution.toy_adapters import PROMPTS, Linear, vector


def test_bases_share_runs_and_gradients(model_of, monkeypatch):
    """Several bases on one ground give what each gives alone, to the bit, with one recording of gradients."""
    model, iv = model_of("bridge-llama"), static(vector(1, 3.0))
    bases = [ms.bases.from_directions(axes(seed)) for seed in (5, 6)]
    how = {"k": (1, 4), "nulls": 5, "nulls_run": 2, "null_contexts": 3}
    alone = [ms.attribute_effect(model, iv, PROMPTS, basis, ODDS, seed=4, **how) for basis in bases]
    calls = []
    real = ground.record
    monkeypatch.setattr(ground, "record", lambda *args: calls.append(1) or real(*args))
    shared = ground.effect_ground(model, iv, PROMPTS, ODDS, seed=4)
    assert [attribute_on(shared, basis, **how) for basis in bases] == alone
    assert len(calls) == 1


def test_the_order_rests_on_every_token(model_of):
    """Of more deltas than are coded for a null the directions are ranked by all of them."""
    prompts = toys.prompts(*[9] * 70, seed=3)
    rows = torch.randn(96, 32, generator=torch.Generator().manual_seed(2))
    iv = ms.Intervention(Linear(size=0.3), SITE)
    eff = ms.attribute_effect(
        *(model_of("bridge-llama"), iv, prompts, ms.bases.from_directions(rows), ODDS),
        k=8,
        nulls=0,
        nulls_run=0,
        atoms=8,
    )
    assert not eff.nothing_to_attribute
    assert len(prompts) * 9 > MOST_CODED
    assert eff.order[:8].tolist() == eff.contributions.abs().argsort(descending=True)[:8].tolist()
