"""The fingerprint: the same for the same model in any process, another for anything that changes directions."""

import subprocess
import sys

import pytest
import torch
import toys

import mechsteer as ms
from mechsteer.errors import ModelMismatchError
from mechsteer.models import backend_of, model_fingerprint, require_fingerprint

SCRIPT = """
import sys, mechsteer as ms
print(ms.models.model_fingerprint(ms.load_model(sys.argv[1], backend=sys.argv[2])))
"""


@pytest.mark.parametrize("backend", ["bridge", "hooked"])
def test_the_same_in_a_fresh_process(backend):
    folder = toys.folder("qwen3")
    out = subprocess.run([sys.executable, "-c", SCRIPT, folder, backend], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == model_fingerprint(ms.load_model(folder, backend=backend))


def test_one_under_every_version_of_transformer_lens():
    """So that a file saved under one serves the other; this test runs under both."""
    assert model_fingerprint(ms.load_model("pocket")) == "4d693dd14d4e7c27e0be0343"


def test_form_and_repeatability():
    model = toys.shared("llama")
    fingerprint = model_fingerprint(model)
    assert len(fingerprint) == 24
    assert set(fingerprint) <= set("0123456789abcdef")
    with torch.no_grad(), ms.steer(model, ms.Intervention(ms.adapters.Static(toys.vector()), ms.Site(1))):
        model(torch.tensor(toys.prompts(5)))
        assert model_fingerprint(model) == fingerprint  # steering does not make it another model
    assert model_fingerprint(toys.load("llama")) == fingerprint
    require_fingerprint(model, fingerprint, "the file")


def test_another_for_every_difference_that_matters():
    folder = str(toys.folder("llama"))
    models = {f"{family} {kind}": toys.shared(family, kind) for family in toys.FAMILIES for kind in toys.KINDS_HERE}
    models |= {
        "seed": toys.load("llama", seed=1),
        "depth": toys.load("llama", n_layers=2),
        "bfloat16": ms.load_model(folder, dtype=torch.bfloat16),
        "rotary base": toys.load("llama", rope_parameters={"rope_type": "default", "rope_theta": 500.0}),
        "eps": toys.load("llama", rms_norm_eps=1e-3),
    }
    fingerprints = {name: model_fingerprint(model) for name, model in models.items()}
    assert len(set(fingerprints.values())) == len(fingerprints), fingerprints


@pytest.mark.parametrize("kind", toys.KINDS)
def test_an_edited_weight_is_seen_and_undone(kind):
    """The first, the last and every small weight's every entry are among the samples; folding is seen too."""
    model = toys.load("gpt2", kind)
    before = model_fingerprint(model)
    for name, weight in backend_of(model).weights.named_weights().items():
        for index in (0, -1):
            flat = weight.detach().reshape(-1)
            kept = flat[index].clone()
            with torch.no_grad():
                weight.data.reshape(-1)[index] += 0.25
            if weight.data.reshape(-1)[index] != kept:
                assert model_fingerprint(model) != before, name
            with torch.no_grad():
                weight.data.reshape(-1)[index] = kept
    assert model_fingerprint(model) == before
    iv = ms.Intervention(ms.adapters.Static(toys.vector()), ms.Site(1))
    ms.fold(model, iv)
    assert model_fingerprint(model) != before
    ms.unfold(model)
    assert model_fingerprint(model) == before


def test_refusal_names_both():
    model, other = toys.shared("llama"), model_fingerprint(toys.shared("gpt2"))
    with pytest.raises(ModelMismatchError, match=rf"(?s)vector.st was made for .*{other}.*{model_fingerprint(model)}"):
        require_fingerprint(model, other, "vector.st")
