"""The gated booster written out, and where its gradients begin."""

import pytest
import torch
from booster_toys import ATOL, COEFF, D, by_token, given, perturbed, written_out

from mechsteer.adapters import Gated
from mechsteer.errors import ConfigError


@pytest.mark.parametrize("look_back", [False, True])
@pytest.mark.parametrize("rank", [None, 2])
def test_as_written(look_back, rank):
    adapter = perturbed(Gated(D, D + 1, d_hidden=4, rank=rank, look_back=look_back).double())
    acts, p, ctx = given()
    readings = {}
    object.__setattr__(ctx, "readings", readings)

    def opening(h, prompt):
        x = torch.cat([h, prompt]) if look_back else h
        return torch.tanh(adapter.alpha[0] * (adapter.gate.weight[0] @ x + adapter.gate.bias[0]))

    def expected(h, prompt):
        return COEFF * opening(h, prompt) * written_out(adapter.value, h)

    delta, state = adapter.delta(acts, None, COEFF, ctx)
    torch.testing.assert_close(delta, by_token(expected, acts, p), **ATOL)
    torch.testing.assert_close(readings["gate"], by_token(opening, acts, p), **ATOL)
    assert state is None
    assert (adapter.summary is not None) == look_back


def test_gradients_begin_at_the_last_layer_and_reach_everything():
    adapter = Gated(D, D, d_hidden=4).double()
    acts, _, ctx = given()
    target = torch.randn(*acts.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=1e-2)
    with_gradient = []
    for _ in range(2):
        optimizer.zero_grad()
        (adapter.delta(acts, None, 1.0, ctx)[0] - target).square().sum().backward()
        with_gradient.append({name for name, p in adapter.named_parameters() if p.grad.any()})
        optimizer.step()
    assert with_gradient[0] == {"value.last.weight", "value.last.bias"}
    assert with_gradient[1] == {name for name, _ in adapter.named_parameters()}


@pytest.mark.parametrize("alpha", [0, 0.0, float("nan"), float("inf")])
def test_an_alpha_without_gradients_is_refused(alpha):
    with pytest.raises(ConfigError, match=r"(?s)alpha is .*nothing of the adapter would have a gradient.*0\.01"):
        Gated(4, 4, alpha=alpha)


def test_alpha_begins_where_it_is_told_and_is_trained():
    adapter = Gated(4, 4, alpha=0.25)
    assert adapter.alpha.tolist() == [0.25]
    assert "alpha" in dict(adapter.named_parameters())
    assert adapter.config()["alpha"] == 0.25
    with torch.no_grad():
        adapter.alpha.fill_(0)  # what training came to is no beginning
    again = Gated.blank(adapter.config())
    again.load_state_dict(adapter.state_dict())
    assert again.alpha.tolist() == [0.0]
