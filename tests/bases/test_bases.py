"""Bases: provenance and validation, and singular directions against weights folded by hand."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

import mechsteer as ms
from mechsteer.bases import Basis
from mechsteer.errors import ConfigError, DataError, NonFiniteError, ShapeError, UnknownSiteError
from mechsteer.models import has_hooked
from tests import toys
from tests.attribution.toy_adapters import ToySAE


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """(family, backend) -> (model, the Hugging Face model its weights come from)."""
    built = {}
    for family in toys.FAMILIES:
        hf = toys.hf_model(family)
        folder = tmp_path_factory.mktemp("toys") / family
        hf.save_pretrained(folder)
        toys.tokenizer().save_pretrained(folder)
        built[family, "bridge"] = (ms.load_model(hf, tokenizer=toys.tokenizer()), toys.hf_model(family))
        if has_hooked():
            built[family, "hooked"] = (ms.load_model(folder, backend="hooked"), toys.hf_model(family))
    return built


def folded(hf, family: str, layer: int, name: str) -> torch.Tensor:
    """W·diag(norm scale) [d_out d_model] (reading maps) or W [d_model d_in] from the checkpoint's own tensors."""
    if family == "gpt2":
        block = hf.transformer.h[layer]
        q, k, v = block.attn.c_attn.weight.T.chunk(3)
        weights = {"q": q, "k": k, "v": v, "o": block.attn.c_proj.weight.T}
        weights |= {"up": block.mlp.c_fc.weight.T, "down": block.mlp.c_proj.weight.T}
        norms = (block.ln_1.weight, block.ln_2.weight)
    elif family == "neox":
        block = hf.gpt_neox.layers[layer]
        q, k, v = block.attention.query_key_value.weight.unflatten(0, (4, 3, 8)).transpose(0, 1).flatten(1, 2)
        weights = {"q": q, "k": k, "v": v, "o": block.attention.dense.weight}
        weights |= {"up": block.mlp.dense_h_to_4h.weight, "down": block.mlp.dense_4h_to_h.weight}
        norms = (block.input_layernorm.weight, block.post_attention_layernorm.weight)
    else:
        block = hf.model.layers[layer]
        weights = {m: getattr(block.self_attn, f"{m}_proj").weight for m in "qkvo"}
        weights |= {m: getattr(block.mlp, f"{m}_proj").weight for m in ("gate", "up", "down")}
        norms = (block.input_layernorm.weight, block.post_attention_layernorm.weight)
    if name in ("o", "down"):
        return weights[name]
    return weights[name] * norms[name not in "qkv"]


@pytest.mark.parametrize("backend", ["bridge", "hooked"])
@pytest.mark.parametrize("family", toys.FAMILIES)
def test_singular_directions_are_those_of_the_folded_weights(models, family, backend):
    model, hf = models[family, backend]
    for side, maps in (("right", ("q", "k", "v", "gate", "up")), ("left", ("o", "down"))):
        parts = ms.bases.singular(model, maps, layers=[0, 2], side=side).split()
        gated = family in ("llama", "qwen3")
        assert list(parts) == [f"{m}.{layer}" for layer in (0, 2) for m in maps if m != "gate" or gated]
        for name, part in parts.items():
            weight = folded(hf, family, int(name[-1]), name[:-2])
            _, s, _ = torch.linalg.svd(weight)
            torch.testing.assert_close(part.values, s[: len(part)])
            gram = weight.T @ weight if side == "right" else weight @ weight.T
            rebuilt = part.directions.T * part.values.square() @ part.directions  # free of the signs of the vectors
            torch.testing.assert_close(rebuilt, gram, rtol=1e-4, atol=1e-4 * float(gram.abs().max()))
            assert part.is_orthonormal
            assert part.labels[1] == f"{name}.sv1"


def test_singular_in_compatibility_mode_does_not_fold_the_scale_twice():
    hf = toys.hf_model("llama")
    model = ms.load_model(toys.hf_model("llama"), tokenizer=toys.tokenizer())
    model.enable_compatibility_mode(disable_warnings=True)
    basis = ms.bases.singular(model, ("gate",), layers=1)
    _, s, _ = torch.linalg.svd(folded(hf, "llama", 1, "gate"))
    torch.testing.assert_close(basis.values, s)
    assert basis.source["norm_scale"] == "in W already"


def test_singular_keeps_maps_that_meet_the_site(models):
    model, _ = models["llama", "bridge"]

    def names(maps, side, site):
        return list(ms.bases.singular(model, maps, side=side, site=site, k=2).split())

    assert names(("q", "up"), "right", ms.Site(1, "resid_post")) == ["q.2", "up.2"]
    assert names(("q", "up"), "right", ms.Site(1, "attn_out")) == ["up.1", "q.2", "up.2"]
    assert names(("o", "down"), "left", ms.Site(1, "attn_out")) == ["o.0", "down.0", "o.1"]
    union = ms.bases.singular(model, ("q", "up"), layers=[0.5])
    assert not union.is_orthonormal
    assert union.source["model_fingerprint"] == ms.model_fingerprint(model)
    with pytest.raises(ConfigError, match="no map of"):
        ms.bases.singular(model, ("q",), site=ms.Site(2, "resid_post"))
    with pytest.raises(ConfigError, match="side 'left' takes"):
        ms.bases.singular(model, ("o",))
    with pytest.raises(UnknownSiteError, match="gate"):
        ms.bases.singular(models["gpt2", "bridge"][0], ("gate",))


def test_norm_of_a_reading_basis_is_the_models(models):
    for family in ("llama", "gpt2"):
        model, hf = models[family, "bridge"]
        basis = ms.bases.singular(model, ("v",), layers=1)
        h = torch.randn(5, toys.D_MODEL, generator=torch.Generator().manual_seed(0))
        norm = hf.model.layers[1].input_layernorm if family == "llama" else hf.transformer.h[1].ln_1
        expected = (norm(h) - getattr(norm, "bias", torch.tensor(0.0))) / norm.weight
        torch.testing.assert_close(basis.norm(h), expected)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_top_tokens_are_those_of_the_linear_effect(models, family):
    model, hf = models[family, "bridge"]
    basis = ms.bases.singular(model, ("o",), layers=0, side="left", k=3)
    final = hf.model.norm if family == "llama" else hf.transformer.ln_f
    rows = basis.directions if family == "llama" else basis.directions - basis.directions.mean(1, keepdim=True)
    logits = (rows * final.weight) @ hf.lm_head.weight.T
    table = ms.bases.top_tokens(model, basis, k=4)
    for label, row, record in zip(basis.labels, logits, table.to_dict("records"), strict=True):
        assert record["label"] == label
        assert record["promoted"] == [model.tokenizer.decode([i]) for i in row.topk(4).indices.tolist()]
        assert record["suppressed"] == [model.tokenizer.decode([i]) for i in (-row).topk(4).indices.tolist()]
    with pytest.raises(ShapeError, match="d_model 32"):
        ms.bases.top_tokens(model, ms.bases.from_directions(torch.eye(4)))


def test_sae_rows_are_unit_vectors_with_provenance():
    sae = ToySAE()
    with torch.no_grad():
        sae.W_dec[5] = 0
    basis = ms.bases.from_sae(SimpleNamespace(sae=sae, metrics={}))  # what train_sae returns
    norms = basis.directions.norm(dim=1)
    assert norms[5] == 0
    torch.testing.assert_close(norms[norms > 0], torch.ones(95))
    torch.testing.assert_close(basis.directions[7] * sae.W_dec[7].norm(), sae.W_dec[7].detach())
    assert basis.labels[7] == "f7"
    assert basis.sae is sae
    told = basis.to_dict()
    assert told["source"] == {"kind": "sae", "d_sae": 96, "n_zero_rows": 1, "metadata": {"site": "resid_post@1"}}
    assert told["is_orthonormal"] is False
    sae.cfg.normalize_activations = "layer_norm"
    with pytest.raises(ConfigError, match="rescales every activation"):
        ms.bases.from_sae(sae)


def test_directions_are_normalised_and_checked():
    named = ms.bases.from_directions({"a": torch.tensor([3.0, 0, 0]), "b": SimpleNamespace(vector=torch.ones(3))})
    assert named.labels == ("a", "b")
    torch.testing.assert_close(named.directions.norm(dim=1), torch.ones(2))
    assert not named.is_orthonormal
    assert named.select([1]).labels == ("b",)
    assert list(named.split()) == ["all"]
    with pytest.raises(DataError, match="direction 1 is zero"):
        ms.bases.from_directions(torch.tensor([[1.0, 0], [0, 0]]))
    with pytest.raises(DataError, match="norm 2, not 1"):
        Basis(torch.eye(2) * 2, ("a", "b"))
    with pytest.raises(ShapeError, match="1 labels for 2"):
        Basis(torch.eye(2), ("a",))
    with pytest.raises(NonFiniteError):
        Basis(torch.full((1, 2), float("nan")), ("a",))
    with pytest.raises(ShapeError, match="lengths"):
        ms.bases.from_directions([torch.ones(2), torch.ones(3)])
