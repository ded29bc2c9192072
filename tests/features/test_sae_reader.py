"""The reader of SAE folders without sae-lens: it computes what sae_lens computes, and refuses what it cannot."""

import importlib.util
import json
import sys
from typing import get_args

import extras
import pytest
import torch
from safetensors.torch import load_file, save_file

import mechsteer as ms
from mechsteer.errors import ConfigError, FileFormatError, ModelMismatchError
from mechsteer.features import encoding, sae_library
from mechsteer.features.encoding import decoder_rows, encode, encode_sparse, evaluate_sae, fires_sparsely, splice_fn
from mechsteer.features.sae import Architecture, load_sae, train_sae
from mechsteer.features.sae_reader import ReadSAE, read_sae

D_IN, D_SAE = 8, 20
VECTORS = {
    "standard": ("b_enc",),
    "topk": ("b_enc",),
    "jumprelu": ("b_enc", "threshold"),
    "gated": ("b_gate", "b_mag", "r_mag"),
}
CONFIGS = {
    **{name: {"architecture": name, "k": 3} for name in VECTORS},
    "topk rescaled": {"architecture": "topk", "k": 4, "rescale_acts_by_decoder_norm": True},
    "b_dec not subtracted": {"architecture": "standard", "apply_b_dec_to_input": False},
    "bfloat16": {"architecture": "jumprelu", "dtype": "bfloat16"},
    "layer norm": {"architecture": "standard", "normalize_activations": "layer_norm"},
    "constant norm": {"architecture": "gated", "normalize_activations": "constant_norm_rescale"},
    "average norm": {"architecture": "topk", "k": 2, "normalize_activations": "expected_average_only_in"},
}


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def weights(architecture: str) -> dict[str, torch.Tensor]:
    vectors = {name: random(D_SAE, seed=10 + i) for i, name in enumerate(VECTORS[architecture])}
    return {
        "W_enc": random(D_IN, D_SAE, seed=1),
        "W_dec": random(D_SAE, D_IN, seed=2),
        "b_dec": random(D_IN),
        **vectors,
    }


def write(folder, tensors=None, **config):
    """An SAE folder as sae_lens writes one."""
    folder.mkdir(exist_ok=True)
    config = {"d_in": D_IN, "d_sae": D_SAE, "dtype": "float32", "architecture": "standard"} | config
    config.setdefault("metadata", {"sae_lens_version": "6.54.12"})
    (folder / "cfg.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
    save_file(weights(config["architecture"]) if tensors is None else tensors, folder / "sae_weights.safetensors")
    return folder


@extras.needs_sae_lens
@pytest.mark.parametrize("name", CONFIGS)
def test_equals_sae_lens(name, tmp_path):
    config = {"normalize_activations": "none", "apply_b_dec_to_input": True, "reshape_activations": "none"}
    folder = write(tmp_path, **config | CONFIGS[name])
    theirs, ours, x = sae_library.SAE.load_from_disk(folder), read_sae(folder), random(3, 5, D_IN, seed=4)
    expected, got = theirs.encode(x), ours.encode(x)
    assert 0 < int((expected != 0).sum()) < expected.numel()
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(ours.decode(got), theirs.decode(expected))
    torch.testing.assert_close(ours(x), theirs(x))
    assert (ours.dtype, ours.device) == (theirs.dtype, theirs.device)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("whose", ["ours", pytest.param("theirs", marks=extras.needs_sae_lens)])
def test_encodes_the_active_features_alone(name, whose, tmp_path, monkeypatch):
    monkeypatch.setattr(encoding, "_CHUNK_ELEMENTS", 4 * D_SAE)  # pieces of four rows
    folder = write(tmp_path, **{"reshape_activations": "none"} | CONFIGS[name])
    sae = read_sae(folder) if whose == "ours" else sae_library.SAE.load_from_disk(folder).requires_grad_(False)
    x = random(3, 5, D_IN, seed=4)
    found = encode_sparse(sae, x)
    torch.testing.assert_close(found.dense(), encode(sae, x))
    is_top_k = CONFIGS[name]["architecture"] == "topk"
    most = CONFIGS[name]["k"] if is_top_k else int((encode(sae, x) != 0).sum(-1).max())
    assert found.indices.shape == (3, 5, most)
    assert fires_sparsely(sae) == (is_top_k or CONFIGS[name]["architecture"] == "jumprelu")
    if is_top_k:  # no dense activations are made
        monkeypatch.setattr(type(sae), "encode", lambda *_: pytest.fail("encodes densely"))
        assert torch.equal(encode_sparse(sae, x).values, found.values)


def test_a_feature_below_zero_is_not_active_though_it_is_among_the_largest(tmp_path):
    sae = read_sae(write(tmp_path, weights("topk") | {"b_enc": torch.full((D_SAE,), -4.0)}, architecture="topk", k=5))
    x = random(6, D_IN, seed=4)
    found = encode_sparse(sae, x)
    assert int((found.values == 0).sum()) > 0
    torch.testing.assert_close(found.dense(), encode(sae, x))


@extras.needs_sae_lens
@pytest.mark.parametrize("architecture", get_args(Architecture))
def test_reads_what_training_saves(architecture, tmp_path):
    data = [random(300, D_IN, seed=6)]
    sizes = {"d_in": D_IN, "d_sae": D_SAE, "k": 3, "batch_size": 32, "buffer_size": 128, "n_steps": 8}
    theirs = train_sae(data, **sizes, architecture=architecture, out=tmp_path, progress=False).sae
    ours = read_sae(tmp_path)
    torch.testing.assert_close(encode(ours, data[0]), encode(theirs, data[0]))
    torch.testing.assert_close(ours.decode(ours.encode(data[0])), theirs.decode(theirs.encode(data[0])))
    assert evaluate_sae(ours, data) == pytest.approx(evaluate_sae(theirs, data), rel=1e-5)
    torch.testing.assert_close(splice_fn(ours, error_term=False)(data[0]), splice_fn(theirs, error_term=False)(data[0]))


@extras.needs_sae_lens
def test_reads_older_files_as_sae_lens_does(tmp_path):
    old = {"metadata": None, "architecture": None, "activation_fn_str": "topk", "activation_fn_kwargs": {"k": 2}}
    no_norm = {"normalize_activations": False, "hook_point": "blocks.0.hook_resid_pre"}
    for i, (architecture, config, more) in enumerate(
        [("topk", old | no_norm, {}), ("standard", {"metadata": None}, {"scaling_factor": torch.ones(D_SAE)})]
    ):
        folder = write(tmp_path / str(i), weights(architecture) | more, **{"architecture": architecture} | config)
        x = random(4, D_IN, seed=4)
        torch.testing.assert_close(read_sae(folder)(x), sae_library.SAE.load_from_disk(folder)(x))


@pytest.mark.parametrize("architecture", VECTORS)
def test_is_the_formula_of_its_architecture(architecture, tmp_path):
    w = {name: value.double() for name, value in weights(architecture).items()}
    sae, row = read_sae(write(tmp_path, architecture=architecture, k=3)), random(D_IN, seed=4)
    for i, activation in enumerate(sae.encode(row).tolist()):
        pre = float((row.double() - w["b_dec"]) @ w["W_enc"][:, i])
        if architecture == "gated":
            magnitude = max(0.0, pre * float(w["r_mag"][i].exp()) + float(w["b_mag"][i]))
            expected = magnitude if pre + float(w["b_gate"][i]) > 0 else 0.0
        else:
            pre += float(w["b_enc"][i])
            others = (row.double() - w["b_dec"]) @ w["W_enc"] + w["b_enc"]
            least = {"standard": 0.0, "jumprelu": float(w.get("threshold", others)[i])}
            is_on = (others > pre).sum() < 3 if architecture == "topk" else pre > least[architecture]
            expected = max(0.0, pre) if is_on else 0.0
        assert activation == pytest.approx(expected, abs=1e-4)
    acts = random(2, D_SAE, seed=5)
    torch.testing.assert_close(sae.decode(acts), (acts.double() @ w["W_dec"] + w["b_dec"]).float())


def test_serves_where_sae_lens_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(sae_library, "is_installed", lambda: False)
    metadata = {"model_fingerprint": "abc", "site": "resid_post@1"}
    sae = load_sae(write(tmp_path, architecture="topk", k=3, metadata=metadata), fingerprint="abc")
    assert isinstance(sae, ReadSAE)
    assert not sae.training
    assert not any(p.requires_grad for p in sae.parameters())
    with pytest.raises(ModelMismatchError, match="'abc', not 'xyz'"):
        load_sae(tmp_path, fingerprint="xyz")
    x = random(6, D_IN, seed=4)
    assert torch.equal(splice_fn(sae)(x), x)
    norms = decoder_rows(sae).norm(dim=1)
    torch.testing.assert_close(encode(sae, x), sae.encode(x) * norms)
    torch.testing.assert_close(ms.bases.from_sae(sae).directions, decoder_rows(sae) / norms[:, None])
    assert evaluate_sae(sae, [x])["l0"] <= 3


@pytest.mark.parametrize(
    ("config", "match"),
    [
        ({"architecture": "transcoder"}, "architecture is 'transcoder'"),
        ({"dtype": "int8"}, "int8"),
        ({"normalize_activations": "unit"}, "'unit'"),
        ({"reshape_activations": "hook_z"}, "reshape_activations is 'hook_z'"),
        ({"metadata": None, "hook_name": "blocks.0.attn.hook_z"}, "reshape_activations is 'hook_z'"),
        ({"d_sae": 21}, r"'W_enc': \(8, 21\)"),
        ({"d_in": None}, "d_in"),
        ({"architecture": "topk", "k": 21}, "k is 21"),
        ({"architecture": "jumprelu"}, "'threshold'"),
    ],
)
def test_refuses_what_it_cannot_read(config, match, tmp_path):
    with pytest.raises(FileFormatError, match=match):
        read_sae(write(tmp_path, weights("standard"), **config))


def test_refuses_damaged_files(tmp_path):
    tensors = weights("standard")
    with pytest.raises(FileFormatError, match="scaling_factor"):
        read_sae(write(tmp_path, tensors | {"scaling_factor": random(D_SAE)}))
    weight_file = write(tmp_path) / "sae_weights.safetensors"
    assert load_file(weight_file).keys() == tensors.keys()
    weight_file.write_bytes(weight_file.read_bytes()[:-4])
    with pytest.raises(FileFormatError, match="cannot be read"):
        read_sae(tmp_path)
    (write(tmp_path) / "cfg.json").write_text("[1, 2]")
    with pytest.raises(FileFormatError, match="cannot be read"):
        read_sae(tmp_path)


def test_a_missing_sae_lens_is_one_clear_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "sae_lens", None)  # importing it raises ImportError
    spec = importlib.util.spec_from_file_location("library_without_sae_lens", sae_library.__file__)
    assert spec is not None
    assert spec.loader is not None
    library = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(library)
    assert not library.is_installed()
    assert not hasattr(library, "no_such_name")
    with pytest.raises(ConfigError, match=r"(?s)needs sae-lens.*sae_lens.*hint: pip install 'mechsteer\[sae\]'"):
        library.SAE  # noqa: B018


@pytest.mark.skipif(sae_library.is_installed(), reason="sae-lens is installed")
def test_training_without_sae_lens_is_refused():
    with pytest.raises(ConfigError, match="needs sae-lens"):
        train_sae([random(300, D_IN)], d_in=D_IN, d_sae=D_SAE, k=3, n_steps=2, batch_size=32, buffer_size=128)
