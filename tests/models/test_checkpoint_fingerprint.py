"""The checkpoint's fingerprint: the same whatever the loading way, another for another checkpoint."""

import extras
import pytest
import torch
import toys

import mechsteer as ms
from mechsteer.models import backend_of, checkpoint_fingerprint
from mechsteer.models.protocol import MAPS
from mechsteer.sharing import apply


@extras.needs_hooked
@pytest.mark.parametrize("family", toys.FAMILIES)
def test_the_same_on_either_class(family):
    assert checkpoint_fingerprint(toys.shared(family)) == checkpoint_fingerprint(toys.shared(family, "hooked"))


@pytest.mark.parametrize("family", toys.FAMILIES)
def test_the_same_in_bfloat16_and_for_the_script_that_travels_with_a_file(family):
    found = checkpoint_fingerprint(toys.shared(family))
    assert checkpoint_fingerprint(toys.load(family, dtype=torch.bfloat16)) == found
    assert apply.checkpoint(toys.hf_model(family)) == found
    assert apply.checkpoint(toys.hf_model(family, dtype=torch.bfloat16)) == found


@pytest.mark.parametrize("family", toys.FAMILIES)
def test_another_for_every_map_of_every_layer(family):
    model = toys.load(family)
    weights, found = backend_of(model).weights, [checkpoint_fingerprint(model)]
    for layer in range(toys.N_LAYERS):
        for name in MAPS:
            if name == "gate" and family in ("gpt2", "neox"):
                continue
            undo = weights.set_weight(layer, name, weights.map_weight(layer, name).detach() * 1.01)
            found.append(checkpoint_fingerprint(model))
            undo()
    assert len(set(found)) == len(found) == 1 + toys.N_LAYERS * (7 if family in ("llama", "qwen3") else 6)
    assert checkpoint_fingerprint(model) == found[0]


def test_other_for_other_checkpoints_and_for_what_is_folded():
    models = [toys.shared("llama"), toys.load("llama", seed=7), toys.shared("llama", "compatibility")]
    assert len({checkpoint_fingerprint(model) for model in models}) == 3


def test_it_says_what_a_look_alone_cannot(tmp_path):
    """Another checkpoint that differs in a middle layer alone."""
    model, other = toys.shared("llama"), toys.load("llama")
    path = ms.save_steering(ms.Intervention(ms.adapters.Static(toys.vector()), 1), tmp_path / "s", model)
    weights = backend_of(other).weights
    weights.set_weight(1, "v", 1.5 * weights.map_weight(1, "v").detach())
    with pytest.raises(ms.errors.ModelMismatchError, match="the weights are of another checkpoint, of the same shapes"):
        ms.load_steering(path, other)
    with pytest.warns(ms.errors.MechsteerWarning, match="another checkpoint"):
        ms.load_steering(path, other, strict=False)
