"""SAE folders: ours know when they are damaged, sae_lens reads them, and those of sae_lens are read here."""

import json
import shutil

import extras
import pytest
import torch
from safetensors.torch import load_file, save_file

from mechsteer.errors import FileFormatError
from mechsteer.features.sae import load_sae, train_sae
from mechsteer.features.sae_files import read_metrics

pytestmark = extras.needs_sae_lens  # which makes the folders
SETTINGS = {"d_in": 8, "d_sae": 16, "k": 3, "n_steps": 5, "batch_size": 32, "buffer_size": 128, "progress": False}


def data():
    return list(torch.randn(600, 8, generator=torch.Generator().manual_seed(0)).split(100))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sae")
    return folder, train_sae(data(), **SETTINGS, out=folder, architecture="jumprelu", metadata={"site": "here"})


@pytest.fixture
def folder(trained, tmp_path):
    return shutil.copytree(trained[0], tmp_path / "sae")


def foreign(folder):
    """The same folder as sae_lens would have written it."""
    load_sae(folder).save_model(folder)
    (folder / "metrics.json").unlink()
    return folder


def test_sae_lens_reads_ours_and_we_read_theirs(trained, folder):
    theirs, x = type(trained[1].sae).load_from_disk(folder), data()[0]
    assert torch.equal(theirs.encode(x), trained[1].sae.encode(x))
    assert theirs.cfg.to_dict() == trained[1].sae.cfg.to_dict()
    assert torch.equal(load_sae(foreign(folder)).encode(x), theirs.encode(x))


@pytest.mark.parametrize("file", ["cfg.json", "sae_weights.safetensors", "metrics.json"])
def test_truncated_and_missing_files_are_refused(folder, file):
    path = folder / file
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(FileFormatError, match=r"cannot be read|is damaged|is truncated"):
        train_sae(data(), **SETTINGS, out=folder, architecture="jumprelu", metadata={"site": "here"})
    path.unlink()
    if file != "metrics.json":
        with pytest.raises(FileFormatError, match="no SAE in"):
            load_sae(folder)


def test_a_changed_configuration_or_weight_is_refused_with_what_makes_it_again(folder, trained):
    config = json.loads((folder / "cfg.json").read_text())
    for change in ({"apply_b_dec_to_input": False}, {"metadata": config["metadata"] | {"site": "there"}}):
        (folder / "cfg.json").write_text(json.dumps(config | change))
        with pytest.raises(FileFormatError, match=r"cfg\.json is damaged(?s:.*)resume=False"):
            load_sae(folder)
    shutil.copy(trained[0] / "cfg.json", folder)
    path = folder / "sae_weights.safetensors"
    whole = bytearray(path.read_bytes())
    whole[-7] ^= 1  # the last bit of a threshold
    path.write_bytes(whole)
    with pytest.raises(FileFormatError, match=r"is damaged(?s:.*)resume=False"):
        load_sae(folder)
    save_file(load_file(path), path)  # and with the digest gone
    with pytest.raises(FileFormatError, match="carries no digest"):
        load_sae(folder)


def test_metrics_are_those_that_were_written(folder, trained):
    assert read_metrics(folder) == trained[1].metrics
    text = (folder / "metrics.json").read_text()
    (folder / "metrics.json").write_text(text.replace('"k": 3', '"k": 4'))
    with pytest.raises(FileFormatError, match=r"metrics\.json is damaged(?s:.*)trains it again"):
        read_metrics(folder)
    again = train_sae(data(), **SETTINGS, out=folder, architecture="jumprelu", metadata={"site": "here"}, resume=False)
    assert read_metrics(folder) == again.metrics == trained[1].metrics


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"d_sae": 10**15}, "says"),
        ({"d_in": "8"}, "says d_in '8'"),
        ({"d_in": 16, "d_sae": 8}, "its weights are"),
        ({"architecture": "standart"}, "cannot be read"),
        ({"architecture": ["topk"]}, "cannot be read"),
        ({"architecture": "gated"}, "cannot be read"),
        ({"dtype": "float3"}, "cannot be read"),
        ({"metadata": 7}, "holds no configuration"),
        ({"normalize_activations": {}}, "cannot be read"),
    ],
)
def test_a_foreign_configuration_that_cannot_be_is_refused(folder, change, why):
    path = foreign(folder) / "cfg.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(FileFormatError, match=why):
        load_sae(folder)


def test_foreign_weights_that_cannot_be_are_refused(folder):
    path = foreign(folder) / "sae_weights.safetensors"
    weights = load_file(path)
    for change, why in [
        ({"b_enc": torch.full((16,), float("nan"))}, "b_enc .* holds NaN"),
        ({"W_dec": weights["W_dec"] / 0}, r"holds NaN|all finite"),
        ({"W_enc": weights["W_enc"].long()}, "holds NaN, or no floats"),
        ({"W_dec": weights["W_dec"].T.contiguous()}, "its weights are"),
        ({"threshold": torch.zeros(15)}, "cannot be read"),
        ({"b_enc2": torch.zeros(16)}, "cannot be read"),
    ]:
        save_file(weights | change, path)
        with pytest.raises(FileFormatError, match=why):
            load_sae(folder)
