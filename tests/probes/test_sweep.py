"""A sweep: the planted cell is found, the best of nothing is nothing, the states are the pools."""

import numpy as np
import pytest
import toys

import mechsteer as ms
from mechsteer.errors import DataError, NonFiniteError, ShapeError
from mechsteer.probes import States, evaluate_probe, pooled_states, probe_sweep
from mechsteer.results import from_json, to_json


def cells(seed, planted=0.0, n=240, n_cells=6, d=5):
    rng = np.random.default_rng(seed)
    y, groups = np.arange(n) % 2, np.arange(n) // 4
    states = []
    for i in range(n_cells):
        values = rng.standard_normal((n, d)) + planted * (i == 3) * y[:, None]
        states.append(States(site=f"resid_post@{i // 2}", pooling=("last", "mean")[i % 2], values=values))
    return states, y, groups


def test_the_planted_cell_is_the_best():
    states, y, groups = cells(0, planted=0.8)
    result = probe_sweep(states, y, groups, n_boot=100, n_permutations=99)
    assert (result.best.site, result.best.pooling) == ("resid_post@1", "mean")
    assert result.p_best == 0.01
    assert result.best.scores.within_group_auroc.value > result.null.high
    assert (result.sites, result.poolings) == (tuple(f"resid_post@{i}" for i in range(3)), ("last", "mean"))
    alone = evaluate_probe(states[3].values, y, groups, n_boot=100, n_permutations=9)
    assert result.cells[3].scores == alone.probe
    assert from_json(type(result), to_json(result)) == result


def test_the_best_of_nothing_is_no_claim():
    p, high = [], []
    for seed in range(1, 13):
        states, y, groups = cells(seed)
        result = probe_sweep(states, y, groups, n_boot=10, n_permutations=59)
        p.append(result.p_best)
        high.append(result.null.value)
    assert 0.25 < np.mean(p) < 0.75
    assert min(high) > 0.53  # the null knows that the best of six was taken


def test_the_text_stands_beside_all_cells():
    states, y, groups = cells(20)
    length = 10.0 * y + np.random.default_rng(0).standard_normal(len(y))
    result = probe_sweep(states, y, groups, baselines={"length": length}, n_boot=50, n_permutations=9)
    assert result.text.auroc.value == 1.0


def test_states_are_the_pools_of_memory_and_store(tmp_path):
    model, prompts = toys.shared("llama"), toys.prompts(5, 9, 7)
    marked = [[*row, 40, 41, 3] for row in prompts]
    acts = ms.capture(model, marked, [0, 2], progress=False)
    store = ms.capture(model, marked, [0, 2], path=tmp_path / "s", batch_size=2, progress=False)
    found = pooled_states(acts, marker=[40, 41])
    assert [(each.site, each.pooling) for each in found] == [
        (f"resid_post@{layer}", how) for layer in (0, 2) for how in ("last", "mean", "max", "marker")
    ]
    for each, kept in zip(found, pooled_states(store, marker=[40, 41]), strict=True):
        np.testing.assert_allclose(each.values, kept.values, atol=1e-6)
    np.testing.assert_array_equal(found[5].values, acts[2].pool("mean").numpy())
    row = acts[2].values[1, : acts[2].lengths[1]]
    np.testing.assert_allclose(found[6].values[1], row.max(0).values.numpy())
    np.testing.assert_array_equal(found[7].values[1], row[-2].numpy())


def test_refusals():
    states, y, groups = cells(2, n=64)
    with pytest.raises(DataError, match="empty or has a cell twice"):
        probe_sweep([states[0], states[0]], y, groups)
    with pytest.raises(DataError, match="empty or has a cell twice"):
        probe_sweep([], y, groups)
    with pytest.raises(ShapeError, match="different numbers of rows"):
        probe_sweep([states[0], States(site="x", pooling="last", values=states[1].values[1:])], y, groups)
    bad = States(site="x", pooling="last", values=np.full((64, 5), np.inf))
    with pytest.raises(NonFiniteError, match="row 0"):
        probe_sweep([bad], y, groups)
