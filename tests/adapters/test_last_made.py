"""What a singular adapter keeps between runs: equal bits, and never what was true before a change."""

from __future__ import annotations

import copy

import pytest
import torch

from mechsteer.adapters import Singular
from mechsteer.runtime.context import Context

ACTS, CTX = torch.randn(1, 3, 7, generator=torch.Generator().manual_seed(5)), Context.whole(1, 3)


def made(**options) -> Singular:
    weight = torch.randn(9, 7, generator=torch.Generator().manual_seed(3))
    u, s, vh = torch.linalg.svd(weight, full_matrices=False)
    adapter = Singular(u[:, :4], s[:4], vh[:4], rotate_u=True, **options)
    with torch.no_grad():
        for number, p in enumerate(adapter.parameters()):
            p.add_(0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(number)))
    return adapter


def fresh(adapter: Singular, coeff: float) -> torch.Tensor:
    """The delta by a copy that has kept nothing."""
    other = made()
    other.load_state_dict(adapter.state_dict())
    with torch.no_grad():
        return other.delta(ACTS, None, coeff, CTX)[0]


def delta(adapter: Singular, coeff: float = 0.7) -> torch.Tensor:
    with torch.no_grad():
        return adapter.delta(ACTS, None, coeff, CTX)[0]


def test_the_second_run_makes_nothing_and_has_the_same_bits(monkeypatch):
    adapter = made()
    first = delta(adapter)
    monkeypatch.setattr(Singular, "core", lambda self, coeff: pytest.fail("made again"))
    assert torch.equal(delta(adapter), first)
    with pytest.raises(pytest.fail.Exception, match="made again"):
        delta(adapter, 0.8)


@pytest.mark.parametrize("name", ["scale", "p_u", "p_v", "s", "u"])
@pytest.mark.parametrize("through", ["tensor", "data"])
def test_every_change_is_seen(name, through):
    adapter = made()
    before = delta(adapter)
    with torch.no_grad():
        tensor = getattr(adapter, name)
        (tensor if through == "tensor" else tensor.data)[..., 1] += 0.5  # `.data` leaves version counters alone
    found = delta(adapter)
    assert not torch.equal(found, before)
    assert torch.equal(found, fresh(adapter, 0.7))


def test_training_loading_copies_and_other_types_see_their_own():
    adapter = made()
    before = delta(adapter)
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=0.1)
    adapter.delta(ACTS, None, 0.7, CTX)[0].square().sum().backward()
    assert bool(adapter.p_v.grad.any())  # gradients pass, whatever was kept
    optimizer.step()
    assert torch.equal(delta(adapter), fresh(adapter, 0.7))
    other = copy.deepcopy(adapter)
    with torch.no_grad():
        other.scale.neg_()
    assert not torch.equal(delta(other), delta(adapter))
    other.load_state_dict(adapter.state_dict())
    assert torch.equal(delta(other), delta(adapter))
    assert not torch.equal(delta(adapter), before)
    assert adapter.double().delta(ACTS.double(), None, 0.7, CTX)[0].dtype == torch.float64
    assert set(adapter.state_dict()) == {"u", "s", "vh", "p_u", "p_v", "scale"}


def test_what_inference_has_made_serves_a_run_with_gradients():
    adapter = made().requires_grad_(False)
    with torch.inference_mode():
        adapter.delta(ACTS, None, 0.7, CTX)
    acts = ACTS.clone().requires_grad_()
    adapter.delta(acts, None, 0.7, CTX)[0].square().sum().backward()
    assert bool(acts.grad.any())
