"""Prototype steering: weights by hand, prototypes planted, a router that can be shuffled."""

from __future__ import annotations

import dataclasses
import re

import pytest
import torch
import toys

import mechsteer as ms
from mechsteer.adapters import Prototypes
from mechsteer.adapters.shuffling import derangement
from mechsteer.directions import cluster_differences
from mechsteer.errors import ConfigError, DataError, NonFiniteError, ShapeError
from mechsteer.steering.presets import untrained

ROWS = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
PROMPT = torch.tensor([[4.0, 3.0]])


def steered(adapter, summary=PROMPT, coeff=1.0):
    ctx = dataclasses.replace(ms.runtime.context.Context.whole(len(summary), 3), summary=summary)
    return adapter.delta(torch.zeros(len(summary), 3, summary.shape[1]), None, coeff, ctx)[0]


@pytest.mark.parametrize(("weights", "expected"), [("projection", [4.0, 3.0]), ("cosine", [0.8 * 2, 0.6 * 1])])
def test_the_vector_by_hand(weights, expected):
    found = steered(Prototypes(ROWS, weights=weights), coeff=-2.0)
    torch.testing.assert_close(found, -2 * torch.tensor(expected).expand(1, 3, 2))


def test_projections_are_taken_on_each_prototype_by_itself():
    """They need not be orthogonal: each counts whole."""
    rows, p = torch.randn(5, 7, dtype=torch.float64), torch.randn(1, 7, dtype=torch.float64)
    expected = sum(torch.outer(row, row) @ p[0] / (row @ row) for row in rows)
    adapter = Prototypes(rows)
    ctx = dataclasses.replace(ms.runtime.context.Context.whole(1, 1), summary=p)
    found = adapter.delta(torch.zeros(1, 1, 7, dtype=torch.float64), None, 1.0, ctx)[0]
    torch.testing.assert_close(found[0, 0], expected, rtol=1e-10, atol=1e-12)


def test_a_shuffled_one_gives_each_weight_to_another_prototype():
    adapter = Prototypes(ROWS, weights="projection")
    other = adapter.shuffled(torch.Generator().manual_seed(0))
    torch.testing.assert_close(steered(other)[0, 0], 2 * ROWS[1] + 3 * ROWS[0])
    torch.testing.assert_close(steered(adapter)[0, 0], 2 * ROWS[0] + 3 * ROWS[1])
    assert Prototypes(ROWS[:1]).shuffled(torch.Generator()) is None


def test_a_shuffled_one_keeps_its_order_in_a_file(tmp_path):
    model = toys.shared("llama")
    rows = torch.stack([toys.vector(seed) for seed in range(4)])
    iv = ms.Intervention(Prototypes(rows).shuffled(torch.Generator().manual_seed(1)), 1)
    loaded = ms.load_steering(ms.save_steering(iv, tmp_path / "s.safetensors", model), model)
    assert torch.equal(loaded.interventions[0].adapter.order, iv.adapter.order)
    assert not torch.equal(iv.adapter.order, torch.arange(4))


@pytest.mark.parametrize("n", range(2, 9))
def test_nothing_keeps_its_place_in_a_derangement(n):
    generator = torch.Generator().manual_seed(n)
    for _ in range(20):
        order = derangement(n, generator)
        assert sorted(order.tolist()) == list(range(n))
        assert not bool((order == torch.arange(n)).any())


def test_planted_prototypes_are_found_the_larger_first():
    generator = torch.Generator().manual_seed(0)
    centres = torch.eye(6)[:3] * 5
    of = torch.repeat_interleave(torch.arange(3), torch.tensor([10, 40, 25]))
    neg = torch.randn(75, 6, generator=generator)
    pos = neg + centres[of] + 0.1 * torch.randn(75, 6, generator=generator)
    found = cluster_differences(pos, neg, 3, seed=0)
    torch.testing.assert_close(found, centres[[1, 2, 0]], rtol=0, atol=0.15)
    means = torch.stack([(pos - neg)[of == k].mean(0) for k in (1, 2, 0)])
    torch.testing.assert_close(found, means, rtol=1e-5, atol=1e-5)
    one = cluster_differences(pos, neg, 1)
    torch.testing.assert_close(one[0], ms.directions.mean_difference(pos, neg).vector, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Prototypes(ROWS, weights="softmax"), ConfigError, "no weights 'softmax'"),
        (lambda: Prototypes(ROWS[0]), ShapeError, "prototypes are (2,)"),
        (lambda: Prototypes([[1.0]]), ShapeError, "prototypes are list"),
        (lambda: Prototypes(torch.zeros(1, 2)), NonFiniteError, "a prototype is zero"),
        (lambda: steered(Prototypes(ROWS), torch.ones(1, 3)), ShapeError, "prototypes have 2 numbers"),
        (lambda: untrained(toys.shared("llama"), "prototypes", 1), ConfigError, "prototypes are found, not trained"),
        (lambda: derangement(1, torch.Generator()), ConfigError, "1 elements cannot be shuffled"),
        (lambda: cluster_differences(torch.eye(3), torch.zeros(2, 3), 1), ShapeError, "are no pairs"),
        (lambda: cluster_differences(torch.eye(3), torch.zeros(3, 3), 0), ConfigError, "n_prototypes is 0"),
        (lambda: cluster_differences(torch.ones(3, 3), torch.zeros(3, 3), 2), DataError, "1 distinct differences"),
    ],
)
def test_what_cannot_be_is_refused(make, error, message):
    with pytest.raises(error, match=re.escape(message)) as caught:
        make()
    assert caught.value.hint


def test_prototypes_are_the_seeds():
    """Where there are no clusters, where k-means begins decides where it ends."""
    points, zeros = torch.randn(60, 6, generator=torch.Generator().manual_seed(0)), torch.zeros(60, 6)
    first, again, other = (cluster_differences(points, zeros, 9, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other, atol=1e-3)
