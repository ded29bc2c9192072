"""Steering files on a model that is not theirs: what differs is said in words, and `strict=False` takes what fits."""

import dataclasses
import warnings

import extras
import pytest
import torch
import toys

import mechsteer as ms
from mechsteer.errors import MechsteerWarning, ModelMismatchError
from mechsteer.files.tensors import read_tensors, write_tensors
from mechsteer.models.likeness import Look, differences

SITE = ms.Site(1, "resid_post")
TOKENS = torch.tensor(toys.prompts(9))


@pytest.fixture
def path(tmp_path):
    return ms.save_steering(steering(), tmp_path / "s", toys.shared("llama"))


def steering(site=SITE):
    return ms.Intervention(ms.adapters.Static(3 * toys.vector(1)), site)


def refused(path, model, **options):
    with pytest.raises(ModelMismatchError) as error:
        ms.load_steering(path, model, **options)
    return error.value


def taken(path, model):
    """Loaded without a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return ms.load_steering(path, model, strict=False)


def logits(model, st=()):
    with torch.no_grad(), ms.steer(model, st):
        return model(TOKENS).float()


@extras.needs_hooked
@pytest.mark.parametrize("family", toys.FAMILIES)
def test_the_same_checkpoint_on_another_backend(family, tmp_path):
    bridge, hooked = toys.shared(family), toys.shared(family, "hooked")
    path = ms.save_steering(steering(), tmp_path / "s", bridge)
    error = refused(path, hooked)
    assert "it was made on a raw TransformerBridge, this is a HookedTransformer" in error.message
    assert "weights are" not in error.message
    assert "strict=False" in error.hint
    torch.testing.assert_close(logits(hooked, taken(path, hooked)), logits(bridge, steering()), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_same_checkpoint_in_another_dtype(path, dtype):
    other = toys.load("llama", dtype=dtype)
    name = str(dtype).removeprefix("torch.")
    assert f"it was made in float32, this model runs in {name}" in refused(path, other).message
    moved = logits(other, taken(path, other)) - logits(other)
    torch.testing.assert_close(
        moved, logits(toys.shared("llama"), steering()) - logits(toys.shared("llama")), rtol=0, atol=0.1
    )
    assert moved.abs().max() > 1


def test_compatibility_mode_processes_weights(path):
    other = toys.shared("llama", "compatibility")
    assert "a TransformerBridge in compatibility mode" in refused(path, other).message
    with pytest.warns(MechsteerWarning, match="processed by compatibility mode, or of another checkpoint"):
        ms.load_steering(path, other, strict=False)


def test_another_checkpoint_of_the_same_shapes_is_taken_with_a_warning(path):
    other = toys.load("llama", seed=7)
    assert "the weights are of another checkpoint, of the same shapes" in refused(path, other).message
    with pytest.warns(MechsteerWarning, match="applied to another model than its own: .*another checkpoint"):
        loaded = ms.load_steering(path, other, strict=False)
    assert torch.equal(logits(other, loaded), logits(other, steering()))


@pytest.mark.parametrize("strict", [True, False])
def test_other_shapes_are_never_taken(path, strict):
    deeper = toys.load("llama", n_layers=2)
    error = refused(path, deeper, strict=strict)
    assert "another architecture: n_layers 3 against 2" in error.message
    assert "strict" not in error.hint
    assert "n_key_value_heads" in refused(path, toys.load("llama", num_key_value_heads=4), strict=strict).message


def test_what_is_folded_in_is_told(path):
    model = toys.load("llama")
    ms.fold(model, steering(ms.Site(1, "mlp_out")))
    assert "the weights were changed since, or something is folded in" in refused(path, model).message


@extras.needs_hooked
def test_a_site_that_the_other_backend_cannot_write(tmp_path):
    bridge, hooked = toys.shared("llama"), toys.shared("llama", "hooked")
    path = ms.save_steering(steering(ms.Site(1, "q_in")), tmp_path / "s", bridge)
    error = refused(path, hooked, strict=False)
    assert "does not fit this model: q_in can be read but not written" in error.message


def test_a_file_of_version_2_says_what_it_knows(path):
    tensors, header = read_tensors(path, kind="steering file")
    del header["model"]
    write_tensors(path, tensors, header | {"format_version": 2}, kind="steering file")
    other = toys.load("llama", seed=7)
    assert "the file is too old to tell more" in refused(path, other).message
    with pytest.warns(MechsteerWarning, match="too old"):
        ms.load_steering(path, other, strict=False)


@pytest.mark.parametrize("family", toys.FAMILIES)
def test_a_look_sees_one_changed_number_in_float32_and_rounding_in_none(family):
    look = Look.of(toys.shared(family))
    assert look.weights
    nudged = dataclasses.replace(look, weights=[look.weights[0] * (1 + 1e-4), *look.weights[1:]])
    assert not differences(look, nudged).is_same_checkpoint
    rounded = torch.tensor(look.weights).bfloat16().float().tolist()
    coarse = dataclasses.replace(look, weights=rounded, dtype="bfloat16")
    assert differences(look, coarse).is_same_checkpoint
    assert not differences(look, dataclasses.replace(coarse, dtype="float32")).is_same_checkpoint
