"""Directions as values: the algebra of vectors, what combinations say of themselves, and files."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
import toys

import mechsteer as ms
from mechsteer.directions import Direction, load_direction, save_direction
from mechsteer.errors import (
    ConfigError,
    DataError,
    FileFormatError,
    MechsteerWarning,
    ModelMismatchError,
    NonFiniteError,
    ShapeError,
)
from mechsteer.files.tensors import write_tensors


def direction(seed: int, name: str, **provenance) -> Direction:
    return Direction(toys.vector(seed).double(), {"method": name, **provenance})


V, W = direction(1, "v"), direction(2, "w")


def equal(a: Direction, b: torch.Tensor) -> None:
    torch.testing.assert_close(a.vector, b, rtol=1e-10, atol=1e-12)


def test_the_algebra_is_that_of_the_vectors() -> None:
    v, w = V.vector, W.vector
    equal(-V, -v)
    equal(2 * V - W / 4 + V, 3 * v - w / 4)
    equal(np.float64(2) * V, 2 * v)
    equal(torch.tensor(2.0) * V, 2 * v)
    equal(V * 2, 2 * v)
    equal(V.unit(), v / v.norm())
    assert pytest.approx(float(v @ w), rel=1e-12) == V @ W
    assert V @ w == pytest.approx(float(v @ w), rel=1e-12)
    assert V.cosine(W) == pytest.approx(float(torch.cosine_similarity(v, w, dim=0)), rel=1e-10)
    assert V.cosine(-3 * V) == pytest.approx(-1, rel=1e-12)
    assert (V - W).norm ** 2 == pytest.approx(V.norm**2 + W.norm**2 - 2 * (V @ W), rel=1e-10)
    assert V.unit().norm == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize(
    ("made", "name"),
    [
        (-V, "-v"),
        (-1 * -V, "v"),
        (2 * V, "2 * v"),
        (V + W, "v + w"),
        (V - W, "v - w"),
        (0.5 * (V - 2 * W), "0.5 * v - w"),
        (-(V - W), "-v + w"),
        (V - (V - W).named("gap"), "v - gap"),
        (2 * V.named("happy"), "2 * happy"),
    ],
)
def test_names_read_as_what_was_written(made: Direction, name: str) -> None:
    assert made.name == name
    assert repr(made).startswith(f"Direction({name}, shape (32,), norm ")


def test_a_combination_tells_all_it_is_made_of() -> None:
    found = 2 * (V - W) + V
    terms = found.provenance["terms"]
    assert [(term["coeff"], term["name"]) for term in terms] == [(2, "v"), (-2, "w"), (1, "v")]
    assert [term["provenance"] for term in terms] == [V.provenance, W.provenance, V.provenance]
    by_name = {"v": V.vector, "w": W.vector}
    equal(found, sum(term["coeff"] * by_name[term["name"]] for term in terms))
    assert found.provenance["method"] == "combination"
    assert V.provenance == {"method": "v"}


def test_what_the_terms_share_stays() -> None:
    here, there = ({"site": {"layer": layer, "point": "resid_post"}, "model_fingerprint": "0f"} for layer in (1, 2))
    found = direction(1, "v", **here) - 3 * direction(2, "w", **here)
    assert found.site == ms.Site(1)
    assert found.provenance["model_fingerprint"] == "0f"
    assert (V + direction(2, "w", **here)).site is None
    with pytest.warns(MechsteerWarning, match="v - w adds directions of different sites: resid_post@1, resid_post@2"):
        found = direction(1, "v", **here) - direction(2, "w", **there)
    assert found.site is None
    assert found.provenance["model_fingerprint"] == "0f"
    direction(1, "v", **here).cosine(direction(2, "w", **there))  # a comparison across layers is no sum


def test_the_threshold_goes_with_the_vector() -> None:
    generator = torch.Generator().manual_seed(0)
    pos, neg = (torch.randn(40, 6, generator=generator, dtype=torch.float64) + shift for shift in (1.0, 0.0))
    found = ms.directions.mean_difference(pos, neg)
    before = ms.directions.separation(found, pos, neg)
    assert before["accuracy"] > 0.8
    assert ms.directions.separation(3 * found, pos, neg) == before
    assert ms.directions.separation(found.unit(), pos, neg)["accuracy"] == before["accuracy"]
    assert ms.directions.separation(-found, neg, pos)["accuracy"] == pytest.approx(before["accuracy"])


@pytest.mark.parametrize(
    ("combine", "error", "message"),
    [
        (lambda: V + Direction(torch.ones(3), {"method": "short"}), ShapeError, "v has shape (32,), short (3,)"),
        (lambda: V @ torch.ones(3), ShapeError, "v has shape (32,), direction (3,)"),
        (lambda: V / 0, NonFiniteError, "the direction v is divided by 0"),
        (lambda: float("nan") * V, NonFiniteError, "a direction times nan"),
        (lambda: (V - V).unit(), DataError, "the direction v - v is the zero vector"),
        (
            lambda: direction(1, "v", model_fingerprint="a") + direction(1, "v", model_fingerprint="b"),
            ModelMismatchError,
            "of two models, with fingerprints a and b",
        ),
        (lambda: V + 1, TypeError, "unsupported operand"),
        (lambda: V * W, TypeError, "unsupported operand"),
        (lambda: "2" * V, TypeError, "can't multiply|unsupported operand"),
    ],
)
def test_what_makes_no_sense_is_refused(combine, error, message) -> None:
    with pytest.raises(error, match=message if "|" in message else re.escape(message)):
        combine()


def test_extracted_directions_know_their_model_and_can_be_attached_where_they_were_found() -> None:
    model = toys.shared("llama")
    pairs = [(f"{word} a", f"{word} b") for word in ("x", "yy", "z", "w")]
    found = ms.directions.extract(model, pairs, ms.Site(0.5))
    assert found.site == ms.Site(1)
    assert found.provenance["model_fingerprint"] == ms.model_fingerprint(model)
    twice, tokens = ms.Intervention(ms.adapters.Static(2 * found), found.site), torch.tensor(toys.prompts(5))
    with torch.no_grad(), ms.steer(model, twice):
        doubled = model(tokens)
    with torch.no_grad(), ms.steer(model, ms.Intervention(ms.adapters.Static(found), found.site, coeff=2.0)):
        assert torch.equal(model(tokens), doubled)


# -- files -----------------------------------------------------------------------------------------------------


def test_saved_and_loaded_is_the_same_to_the_bit(tmp_path) -> None:
    model = toys.shared("llama")
    found = (2 * V - W).named("gap")
    path = save_direction(
        found, tmp_path / "d.safetensors", model=model, site=ms.Site(0.5), metadata={"licence": "MIT"}
    )
    loaded = load_direction(path, model=model)
    assert torch.equal(loaded.vector, found.vector)
    assert loaded.vector.dtype == torch.float64
    assert (loaded.name, loaded.site) == ("gap", ms.Site(1))
    assert loaded.provenance["terms"] == found.provenance["terms"]
    assert loaded.provenance["metadata"] == {"licence": "MIT"}
    assert loaded.provenance["model_fingerprint"] == ms.model_fingerprint(model)
    again = save_direction(loaded, tmp_path / "again.safetensors", model=model)
    assert again.read_bytes() == path.read_bytes()
    assert (loaded + W).name == "gap + w"
    assert load_direction(path).site == ms.Site(1)  # without a model nothing is asked


def test_files_of_another_model_or_site_are_refused(tmp_path) -> None:
    model, other = toys.shared("llama"), toys.shared("gpt2")
    path = save_direction(V, tmp_path / "d.safetensors", model=model, site=ms.Site(1))
    with pytest.raises(ModelMismatchError, match=ms.model_fingerprint(other)):
        load_direction(path, model=other)
    loaded = load_direction(path)
    with pytest.raises(ModelMismatchError, match="the direction v was made for"):
        save_direction(loaded, tmp_path / "e.safetensors", model=other)
    with pytest.raises(ConfigError, match="was found at resid_post@1, not resid_post@2"):
        save_direction(loaded, tmp_path / "e.safetensors", site=ms.Site(2))
    with pytest.raises(ConfigError, match="what JSON cannot"):
        save_direction(V, tmp_path / "e.safetensors", metadata={"model": model})
    with pytest.raises(NonFiniteError, match="NaN"):
        save_direction(Direction(torch.full((3,), torch.nan)), tmp_path / "e.safetensors")
    assert [each.name for each in tmp_path.iterdir()] == ["d.safetensors"]


@pytest.mark.parametrize(
    ("tensors", "header", "message"),
    [
        ({"vector": torch.ones(3)}, {"format_version": 2, "provenance": {}}, "format version 2"),
        ({"other": torch.ones(3)}, {"format_version": 1, "provenance": {}}, "one float vector"),
        ({"vector": torch.ones(3).long()}, {"format_version": 1, "provenance": {}}, "one float vector"),
        ({"vector": torch.tensor([torch.inf])}, {"format_version": 1, "provenance": {}}, "NaN or infinity"),
        ({"vector": torch.ones(3)}, {"format_version": 1}, "required field missing"),
        (
            {"vector": torch.ones(3)},
            {"format_version": 1, "provenance": {"site": {"layer": 1, "point": "nowhere"}}},
            "a site that cannot be",
        ),
    ],
)
def test_other_files_are_refused(tensors, header, message, tmp_path) -> None:
    path = write_tensors(tmp_path / "d.safetensors", tensors, header, kind="direction file")
    with pytest.raises(FileFormatError, match=message):
        load_direction(path)


def test_no_file_and_files_of_another_kind(tmp_path) -> None:
    with pytest.raises(FileFormatError, match="no direction file at"):
        load_direction(tmp_path / "none.safetensors")
    steering = ms.Intervention(ms.adapters.Static(toys.vector(1)), ms.Site(1))
    path = ms.save_steering(steering, tmp_path / "s.safetensors", toys.shared("llama"))
    with pytest.raises(FileFormatError, match="is a steering file, not a direction file"):
        load_direction(path)
    (tmp_path / "j.json").write_text(json.dumps({}))
    with pytest.raises(FileFormatError, match="no safetensors file"):
        load_direction(tmp_path / "j.json")
