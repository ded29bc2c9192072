"""Two engines, one diagram."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from mechsteer.errors import ConfigError
from mechsteer.topology import gudhi_engine, h1_bars, summarize, trace_frame


def rows(bars):
    return bars[np.lexsort(bars.T)]


@pytest.mark.parametrize(("n", "d", "seed"), [(40, 3, 0), (60, 16, 1), (30, 2, 2)])
def test_gudhi_finds_the_bars_of_ripser(n, d, seed):
    points = np.random.default_rng(seed).standard_normal((n, d))
    distances = cdist(points, points)
    theirs, ours = h1_bars(distances), h1_bars(distances, engine="gudhi")
    assert len(ours) >= 2
    np.testing.assert_allclose(rows(ours), rows(theirs), rtol=1e-5)


def test_gudhi_finds_them_among_duplicates_and_in_float32():
    points = np.random.default_rng(3).integers(0, 3, (40, 3)).astype(np.float32)
    distances = cdist(points, points)
    theirs = h1_bars(distances)
    for given in (distances, distances.astype(np.float32)):
        np.testing.assert_allclose(rows(h1_bars(given, engine="gudhi")), rows(theirs), rtol=1e-5)
    square = cdist(circle := [[0, 0], [0, 1], [1, 1], [1, 0]], circle)
    np.testing.assert_allclose(h1_bars(square, engine="gudhi"), [[1, np.sqrt(2)]], rtol=1e-12)


def test_triangles_that_differ_in_last_bits_do_not_mislead_gudhi():
    rng = np.random.default_rng(5)
    points = rng.standard_normal((120, 16))
    distances = cdist(points, points)
    theirs = h1_bars(distances)
    distances = np.triu(distances * (1 + 4e-16 * rng.integers(-1, 2, distances.shape))) + np.tril(distances)
    assert (distances != distances.T).any()
    np.testing.assert_allclose(rows(h1_bars(distances, engine="gudhi")), rows(theirs), rtol=1e-5)


def test_auto_is_gudhi_where_it_is(monkeypatch):
    points = np.random.default_rng(4).standard_normal((30, 3))
    distances = cdist(points, points)
    ripser, gudhi = (h1_bars(distances, engine=engine) for engine in ("ripser", "gudhi"))
    assert not np.array_equal(ripser, gudhi)  # float32 and float64
    np.testing.assert_array_equal(h1_bars(distances, engine="auto"), gudhi)
    np.testing.assert_array_equal(h1_bars(distances), ripser)
    monkeypatch.setattr(gudhi_engine, "RipsPersistence", None)
    np.testing.assert_array_equal(h1_bars(distances, engine="auto"), ripser)


def test_the_engine_reaches_summaries_and_frames():
    points = np.random.default_rng(0).standard_normal((30, 3))
    one, other = (summarize(points, engine=engine).h1 for engine in ("ripser", "gudhi"))
    assert other.entropy_nats == pytest.approx(one.entropy_nats, rel=1e-5)
    assert not np.array_equal(other.bars, one.bars)  # ripser's are float32: both have really run
    frames = [trace_frame([points], dims=(1,), engine=engine) for engine in ("ripser", "gudhi")]
    np.testing.assert_allclose(frames[0]["h1_total"], frames[1]["h1_total"], rtol=1e-5)
    assert len(h1_bars(np.zeros((3, 3)), engine="gudhi")) == 0
    assert len(h1_bars(np.zeros((6, 6)), engine="gudhi")) == 0


def test_refusals(monkeypatch):
    with pytest.raises(ConfigError, match="engine is 'dionysus'"):
        h1_bars(np.zeros((5, 5)), engine="dionysus")
    monkeypatch.setattr(gudhi_engine, "RipsPersistence", None)
    assert not gudhi_engine.is_installed()
    with pytest.raises(ConfigError, match="needs GUDHI") as refused:
        h1_bars(np.zeros((5, 5)), engine="gudhi")
    assert "mechsteer[gudhi]" in str(refused.value)
