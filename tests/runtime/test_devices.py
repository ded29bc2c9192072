"""An adapter that lies elsewhere than the model is refused before anything runs, with the way to move it."""

import pytest
import torch
import toys

import mechsteer as ms
from mechsteer.errors import ConfigError
from mechsteer.runtime.devices import require_device


@pytest.mark.parametrize("kind", ["bridge-llama", "hooked-gpt2"])
def test_an_adapter_on_another_device(model_of, kind):
    model = model_of(kind)
    iv = ms.Intervention(ms.adapters.Static(toys.vector(1)).to("meta"), ms.Site(1))
    with pytest.raises(ConfigError, match="Static is on meta, the model on cpu") as caught, ms.steer(model, iv):
        raise AssertionError("it opened")
    assert caught.value.hint == 'move it: adapter.to("cpu")'
    with pytest.raises(ConfigError, match="Static is on meta"):
        ms.generate(model, toys.prompts(4), iv, max_new_tokens=1)
    assert toys.hooks_left(model) == 0


def test_the_current_device_is_any_of_its_type():
    iv = ms.Intervention(ms.adapters.Static(toys.vector(1)), ms.Site(1))
    require_device([iv], torch.device("cpu"))
    require_device([iv], torch.device("cpu:0"))
    with pytest.raises(ConfigError, match="is on cpu, the model on cuda:1"):
        require_device([iv], torch.device("cuda:1"))
