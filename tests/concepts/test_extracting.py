"""Vectors of concepts: what `extract` gives, at every depth, kept on disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import toys
from concept_toys import LOUD, ODD
from torch.nn.modules.module import register_module_forward_hook

from mechsteer.concepts import DEPTHS, concept_vectors, extracting
from mechsteer.directions import extract
from mechsteer.errors import UnknownSiteError
from mechsteer.models.sites import Site


@pytest.fixture(scope="module")
def model():
    return toys.shared("qwen3")


@pytest.fixture
def forwards() -> Iterator[list[str]]:
    """The class of every module that ran."""
    ran: list[str] = []
    handle = register_module_forward_hook(lambda module, _args, _out: ran.append(type(module).__name__))
    yield ran
    handle.remove()


def test_every_concept_at_every_depth(model) -> None:
    vectors = concept_vectors(model, [LOUD, ODD])
    assert [v.name for v in vectors] == ["loud"] * 3 + ["odd"] * 3
    assert [v.site for v in vectors] == [Site(layer, "resid_post") for layer in (0, 1, 2)] * 2
    assert DEPTHS == (0.25, 0.5, 0.75)


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_a_vector_is_what_extract_gives(model, pooling) -> None:
    one, two = concept_vectors(model, [LOUD], ["resid_post@1", "mlp_out@2"], pooling=pooling)
    for vector, site in ((one, "resid_post@1"), (two, "mlp_out@2")):
        alone = extract(model, LOUD.pairs, site, position=pooling, held_out=extracting.HELD_OUT)
        torch.testing.assert_close(vector.vector, alone.vector)
        assert vector.provenance["held_out"] == alone.provenance["held_out"]
        assert vector.provenance["held_out"]["n_pos"] == 6


def test_texts_pass_once_for_all_depths(model, forwards) -> None:
    concept_vectors(model, [LOUD], 0.75)
    one = forwards.count("Embedding")
    concept_vectors(model, [LOUD], (0.25, 0.5, 0.75))
    assert one > 0
    assert forwards.count("Embedding") == 2 * one


def test_a_second_start_runs_no_forward(model, tmp_path: Path, forwards) -> None:
    made = concept_vectors(model, [LOUD, ODD], cache=tmp_path)
    assert forwards
    forwards.clear()
    kept = concept_vectors(model, [LOUD, ODD], cache=tmp_path)
    assert forwards == []
    for a, b in zip(made, kept, strict=True):
        assert torch.equal(a.vector, b.vector)
        assert (a.name, a.site, a.provenance["held_out"]) == (b.name, b.site, b.provenance["held_out"])


def test_what_a_vector_is_a_function_of_is_in_its_name(model, tmp_path: Path, monkeypatch) -> None:
    concept_vectors(model, [LOUD], 1, cache=tmp_path)
    for n, change in enumerate(
        (
            lambda: concept_vectors(model, [ODD], 1, cache=tmp_path),
            lambda: concept_vectors(model, [LOUD], 2, cache=tmp_path),
            lambda: concept_vectors(model, [LOUD], "mlp_out@1", cache=tmp_path),
            lambda: concept_vectors(model, [LOUD], 1, pooling="last", cache=tmp_path),
            lambda: concept_vectors(toys.load("qwen3", seed=5), [LOUD], 1, cache=tmp_path),
        )
    ):
        change()
        assert len(list(tmp_path.iterdir())) == n + 2
    monkeypatch.setattr(extracting, "VERSION", 0)
    concept_vectors(model, [LOUD], 1, cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 7


def test_only_what_is_missing_is_made(model, tmp_path: Path, monkeypatch) -> None:
    concept_vectors(model, [LOUD], 1, cache=tmp_path)
    asked, real = [], extracting.extract_each
    monkeypatch.setattr(
        extracting, "extract_each", lambda m, pairs, sites, **how: asked.append(sites) or real(m, pairs, sites, **how)
    )
    concept_vectors(model, [LOUD], (0, 1, 2), cache=tmp_path)
    assert asked == [[Site(0, "resid_post"), Site(2, "resid_post")]]


def test_a_damaged_file_is_made_again(model, tmp_path: Path) -> None:
    (made,) = concept_vectors(model, [LOUD], 1, cache=tmp_path)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[:-7])
    (again,) = concept_vectors(model, [LOUD], 1, cache=tmp_path)
    assert torch.equal(made.vector, again.vector)
    assert path.read_bytes() == whole


def test_unknown_layers_are_refused(model) -> None:
    with pytest.raises(UnknownSiteError, match="no layer 9"):
        concept_vectors(model, [LOUD], 9)
