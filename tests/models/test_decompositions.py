"""Decompositions: triples of the weight, what a random sketch loses, and files by the weight's hash."""

from __future__ import annotations

import pytest
import torch

from mechsteer.errors import ConfigError, FileFormatError, ShapeError
from mechsteer.models import decompositions
from mechsteer.models.decompositions import decompose


def planted(d_out=60, d_in=80, dtype=torch.float64):
    """A weight with known, falling singular values."""
    generator = torch.Generator().manual_seed(0)
    u = torch.linalg.qr(torch.randn(d_out, d_out, generator=generator, dtype=torch.float64)).Q
    v = torch.linalg.qr(torch.randn(d_in, d_out, generator=generator, dtype=torch.float64)).Q
    s = 10 * 0.8 ** torch.arange(d_out, dtype=torch.float64)
    return (u * s @ v.T).to(dtype), s


@pytest.mark.parametrize("randomised", [False, True])
def test_the_leading_triples_are_found(randomised):
    weight, s = planted()
    found = decompose(weight, 12, randomised=randomised)
    assert found.is_exact != randomised
    torch.testing.assert_close(found.s, s[:12], rtol=1e-6, atol=0)
    eye = torch.eye(12, dtype=torch.float64)
    torch.testing.assert_close(found.u.T @ found.u, eye, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(found.vh @ found.vh.T, eye, rtol=1e-10, atol=1e-12)
    rest = weight - found.u * found.s @ found.vh
    assert torch.linalg.matrix_norm(rest, 2) == pytest.approx(float(s[12]), rel=1e-3)
    assert found.error < (1e-3 if randomised else 1e-12)


def test_the_error_says_how_far_it_is_from_triples():
    flat = torch.randn(120, 120, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    rough, exact = decompose(flat, 4, randomised=True), decompose(flat, 4)
    left = flat @ rough.vh.T - rough.u * rough.s
    right = flat.T @ rough.u - rough.vh.T * rough.s
    worst = (left.pow(2).sum(0) + right.pow(2).sum(0)).sqrt().max() / rough.s[0]
    assert rough.error == pytest.approx(float(worst), rel=1e-9)
    assert exact.error < 1e-12 < 1e-6 < rough.error


def test_a_sketch_as_wide_as_the_map_is_exact_and_half_precision_is_widened():
    weight, _ = planted(8, 12, torch.bfloat16)
    found = decompose(weight, 4, randomised=True)
    assert found.is_exact
    assert found.u.dtype == torch.float32


def test_the_seed_decides_and_no_other_draw_is_disturbed():
    weight, _ = planted()
    state = torch.random.get_rng_state()
    first, again, other = (decompose(weight, 5, randomised=True, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(first.u, again.u)
    assert not torch.equal(first.u, other.u)


def test_kept_by_the_hash_of_the_weight(tmp_path, monkeypatch):
    weight, _ = planted()
    first = decompose(weight, 5, cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    with monkeypatch.context() as patch:
        patch.setattr(decompositions, "_computed", lambda *_: pytest.fail("it is there already"))
        again = decompose(weight, 5, cache=tmp_path)
    assert torch.equal(first.u, again.u)
    assert torch.equal(first.vh, again.vh)
    assert (again.error, again.is_exact) == (first.error, True)
    touched = weight.clone()
    touched[17, 3] += 1e-9  # one entry, and one that no sample would see
    decompose(touched, 5, cache=tmp_path)
    decompose(weight, 6, cache=tmp_path)
    decompose(weight, 5, cache=tmp_path, randomised=True)
    files = sorted(tmp_path.iterdir())
    assert len(files) == 4
    for file in files:
        file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(FileFormatError, match=r"(?s)truncated.*remove the file"):
        decompose(weight, 5, cache=tmp_path)


def test_what_is_no_weight_or_rank_is_refused():
    weight, _ = planted(6, 8)
    for rank in (0, 7, True, 2.0):
        with pytest.raises(ConfigError, match="rank is"):
            decompose(weight, rank)
    with pytest.raises(ShapeError, match=r"a weight is torch.int64 \(2, 2\)"):
        decompose(torch.ones(2, 2, dtype=torch.long), 1)
