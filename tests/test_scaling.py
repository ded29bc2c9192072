"""The exponents that `scripts/bench.py scaling` fits."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
import bench_scaling

SIZES = np.repeat([100.0, 400.0, 1600.0], 3)


@pytest.mark.parametrize("exponent", [0.5, 1.0, 2.0])
def test_a_planted_exponent_is_found_with_an_interval_that_holds_it(exponent):
    noise = np.random.default_rng(0).normal(scale=0.05, size=len(SIZES))
    found = bench_scaling.fitted(SIZES, 3e-5 * SIZES**exponent * np.exp(noise))
    assert found.low < exponent < found.high
    assert found.high - found.low < 0.2
    exact = bench_scaling.fitted(SIZES, 3e-5 * SIZES**exponent)
    assert exact.exponent == pytest.approx(exponent, rel=1e-10)


def test_two_measurements_have_no_interval():
    with pytest.raises(ValueError, match="three measurements"):
        bench_scaling.fitted([1, 2], [1, 2])


def test_a_line_says_what_grows_faster_and_extrapolates_in_proportion_at_least():
    part = bench_scaling.PARTS["h0"]

    def row(exponent):
        cells = {n: bench_scaling.Cell(seconds=[0.1 * n**exponent] * 2, mib=1.0) for n in bench_scaling.SIZES}
        return bench_scaling.row("h0", part, cells)

    assert "ABOVE" not in row(1.0)
    assert "ABOVE 1.05" in row(1.2)
    hours = 0.1 * 16**0.5 * part.target / (16 * part.base) / 3600
    assert f"{hours:.2f}" in row(0.5)
