"""A strength in raw, residual-norm and KL units, measured back."""

import pytest
import toys

import mechsteer as ms
from mechsteer.errors import ConfigError
from mechsteer.steering import at_strength, strengths
from mechsteer.steering.calibration import kl

PROMPTS = toys.prompts(5, 8, 6)
IV = ms.Intervention(ms.adapters.Static(toys.vector(3)), 1)


@pytest.fixture(scope="module")
def model():
    return toys.shared("llama")


def test_raw_is_the_coefficient(model):
    assert at_strength(model, IV, 2.5, "raw", PROMPTS).coeff == 2.5


@pytest.mark.parametrize("sign", [1, -1])
def test_residual_and_kl_are_spent(model, sign):
    found = at_strength(model, IV, sign * 0.3, "residual", PROMPTS, max_new_tokens=6)
    assert strengths(model, found, PROMPTS, max_new_tokens=6).relative[0] == pytest.approx(0.3, rel=1e-4)
    spent = at_strength(model, IV, sign * 0.05, "kl", PROMPTS, max_new_tokens=6)
    assert kl(model, spent, PROMPTS, max_new_tokens=6) == pytest.approx(0.05, rel=0.05)
    assert all((iv.coeff > 0) == (sign > 0) for iv in (found, spent))


@pytest.mark.parametrize("unit", ["raw", "residual", "kl"])
def test_zero_adds_nothing(model, unit):
    assert at_strength(model, IV, 0, unit, PROMPTS).coeff == 0


def test_what_cannot_be(model):
    with pytest.raises(ConfigError, match="no unit 'watts'"):
        at_strength(model, IV, 1, "watts", PROMPTS)
    with pytest.raises(ConfigError, match="the strength is nan"):
        at_strength(model, IV, float("nan"), "raw", PROMPTS)
    with pytest.raises(ConfigError, match="adds nothing"):
        at_strength(model, ms.Intervention(ms.adapters.Static(0 * toys.vector(3)), 1), 1, "residual", PROMPTS)
