"""Magnitude only: as long as the adapter's delta at every token, along one direction, with its states and readings."""

from __future__ import annotations

import re

import pytest
import torch
import toy_adapters
import toys
from steering_toys import noisy

import mechsteer as ms
from mechsteer.adapters import Clas, MagnitudeOnly, Static
from mechsteer.errors import ConfigError, NonFiniteError

TOKENS = torch.tensor(toys.prompts(7, 7))
SITE = ms.Site(1)
UNIT = toys.vector(6) / toys.vector(6).norm()
ADAPTERS = {
    "a strength per token": lambda: noisy(Clas(toys.vector(3))),
    "recurrent": lambda: noisy(toy_adapters.GatedGru(32, 32)),
    "of the prompt": lambda: noisy(toy_adapters.PromptMlp(32, 32)),
}


def recorded(adapter, coeff):
    with torch.no_grad(), ms.steer(toys.shared("llama"), ms.Intervention(adapter, SITE, coeff=coeff), record=True) as s:
        toys.shared("llama")(TOKENS)
    return s.recorded[0][0], {name: series[0] for name, series in s.readings[0].items()}


@pytest.mark.parametrize("coeff", [1.0, -0.5])
@pytest.mark.parametrize("make", ADAPTERS.values(), ids=ADAPTERS)
def test_the_length_is_the_adapters_and_the_direction_is_not(make, coeff):
    adapter = make()
    own, noted = recorded(adapter, coeff)
    found, again = recorded(MagnitudeOnly(adapter, 7 * UNIT), coeff)
    torch.testing.assert_close(found, own.norm(dim=-1, keepdim=True) * UNIT)
    assert own.norm(dim=-1).min() > 1e-3
    assert noted.keys() == again.keys()
    assert all(torch.allclose(noted[name], again[name], atol=1e-5) for name in noted)


def test_it_has_the_tags_of_what_it_wraps():
    wrapped = MagnitudeOnly(toy_adapters.GatedGru(32, 32), UNIT)
    assert (wrapped.stateful, wrapped.per_prompt, wrapped.identity_at_init) == (True, False, True)
    prompted = MagnitudeOnly(toy_adapters.PromptMlp(32, 32), UNIT)
    assert prompted.per_prompt
    assert prompted.summary == toy_adapters.PromptMlp.summary
    assert not MagnitudeOnly(ms.adapters.Ablation(UNIT), UNIT).identity_at_init


def test_an_adapter_without_a_router_has_none_to_shuffle():
    assert Static(UNIT).shuffled(torch.Generator()) is None
    assert MagnitudeOnly(Static(UNIT), UNIT).shuffled(torch.Generator()) is None


def test_what_cannot_be_is_refused():
    class Own(Static):
        pass

    with pytest.raises(NonFiniteError, match="the direction is zero"):
        MagnitudeOnly(Static(UNIT), torch.zeros(32))
    with pytest.raises(ConfigError, match=re.escape("the control is of a Own, which is not registered")):
        MagnitudeOnly(Own(UNIT), UNIT).config()
