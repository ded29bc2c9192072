"""Controls made of the steering itself: what they keep, what they change, and from which seed."""

from __future__ import annotations

import pytest
import torch
import toys
from steering_toys import noisy, static

import mechsteer as ms
from mechsteer.adapters import Adapter, Clas, MagnitudeOnly
from mechsteer.adapters.shuffling import derangement
from mechsteer.errors import ConfigError
from mechsteer.evaluation import magnitude_only_arm, shuffled_router_arm

GENERATED = ms.TokenScope.generated(include_last_prompt=True)


class Router(Adapter):
    """c · Σ_k softmax(W h)_k b_k."""

    linear_in_coeff, identity_at_init = True, False

    def __init__(self, n_atoms=4):
        super().__init__()
        generator = torch.Generator().manual_seed(2)
        self.atoms = torch.nn.Parameter(torch.randn(n_atoms, toys.D_MODEL, generator=generator))
        self.router = torch.nn.Parameter(torch.randn(n_atoms, toys.D_MODEL, generator=generator))

    def delta(self, acts, state, coeff, ctx):
        weights = (acts @ self.router.T).softmax(-1)
        ctx.note("weights", weights)
        return coeff * weights @ self.atoms, None

    def shuffled(self, generator):
        other = Router(len(self.atoms))
        other.router.data = self.router.detach()[derangement(len(self.atoms), generator)]
        return other

    def config(self):
        return {"n_atoms": len(self.atoms)}

    @classmethod
    def blank(cls, config):
        return cls(**config)


def weights_of(steering):
    model = toys.shared("llama")
    with torch.no_grad(), ms.steer(model, steering, record=True) as session:
        model(torch.tensor(toys.prompts(8)))
    return session.readings[0]["weights"][0][0]


def test_a_shuffled_router_has_the_same_weights_on_other_atoms():
    iv = ms.Intervention(Router(), 1, scope="all", coeff=0.5)
    arm = shuffled_router_arm(iv, seed=3)
    own, other = weights_of(iv), weights_of(arm.steering)
    torch.testing.assert_close(own.sort(-1).values, other.sort(-1).values)
    assert not bool((own == other).all(0).any())
    assert torch.equal(arm.steering.adapter.atoms, iv.adapter.atoms)
    assert (arm.role, arm.steering.site, arm.steering.coeff, arm.steering.scope) == ("control", iv.site, 0.5, iv.scope)
    assert torch.equal(weights_of(shuffled_router_arm(iv, seed=3).steering), other)


def test_an_adapter_at_two_sites_is_shuffled_once_and_what_has_no_router_stays():
    shared, plain = Router(), static()
    steering = ms.Steering([ms.Intervention(shared, 0), plain, ms.Intervention(shared, 2)], coeff=0.5)
    first, second, third = shuffled_router_arm(steering).steering.interventions
    assert first.adapter is third.adapter
    assert first.adapter is not shared
    assert (second.adapter is plain.adapter, second.coeff) == (True, 0.5)  # the common strength is multiplied in


def test_a_magnitude_only_arm_keeps_when_and_how_strongly():
    model = toys.shared("llama")
    ivs = [
        ms.Intervention(noisy(Clas(toys.vector(3))), 1, scope=GENERATED, coeff=-1.5),
        ms.Intervention(noisy(Clas(toys.vector(3))), ms.Site(2, "z"), read=ms.Site(1, "mlp_out")),
    ]
    arm = magnitude_only_arm(model, ivs, seed=1)
    assert arm.role == "control"
    for iv, control in zip(ivs, arm.steering.interventions, strict=True):
        assert isinstance(control.adapter, MagnitudeOnly)
        assert (control.site, control.read, control.scope, control.coeff) == (iv.site, iv.read, iv.scope, iv.coeff)
        assert control.adapter.adapter is iv.adapter
        torch.testing.assert_close(control.adapter.direction.norm(), torch.tensor(1.0))
    drawn = [iv.adapter.direction for iv in arm.steering.interventions]
    assert not torch.equal(*drawn)
    again = magnitude_only_arm(model, ivs, generator=torch.Generator().manual_seed(1)).steering.interventions
    assert all(torch.equal(a, b.adapter.direction) for a, b in zip(drawn, again, strict=True))
    other = magnitude_only_arm(model, ivs, seed=2).steering.interventions
    assert not torch.equal(drawn[0], other[0].adapter.direction)


def test_an_arm_of_controls_generates():
    model, iv = toys.shared("llama"), ms.Intervention(Router(), 1, scope=GENERATED)
    for arm in (magnitude_only_arm(model, iv), shuffled_router_arm(iv)):
        assert len(ms.generate(model, toys.prompts(4), arm.steering, max_new_tokens=3).tokens[0]) == 3


def test_what_cannot_be_is_refused():
    with pytest.raises(ConfigError, match=r"no adapter here has a router to shuffle: \['Static'\]"):
        shuffled_router_arm(static())
    with pytest.raises(ConfigError, match="both generator and seed=1 are given"):
        magnitude_only_arm(toys.shared("llama"), static(), generator=torch.Generator(), seed=1)
