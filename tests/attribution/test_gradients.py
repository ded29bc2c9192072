"""Integration along the way to the steered run, against functions whose parts are known; marks of illusions."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from mechsteer.attribution.gradients import record
from mechsteer.attribution.illusions import marked
from mechsteer.errors import NonFiniteError


class Steps:
    """A runner whose metric is a function of the delta: Σ_i weight_i · ramp((x_i − at_i) / width), or anything else."""

    def __init__(self, function, deltas: list[torch.Tensor]) -> None:
        self.function, self.n_calls, first, self.batches = function, 0, 0, []
        for delta in deltas:
            rows = torch.arange(first, first := first + len(delta))
            base, steered = function(torch.zeros_like(delta)), function(delta)
            each = SimpleNamespace(delta=delta, base=base, steered=steered, touched=torch.ones(delta.shape[:2]) > 0)
            each.batch = SimpleNamespace(rows=rows)
            self.batches.append(each)

    def gather(self, name: str) -> torch.Tensor:
        return torch.cat([getattr(each, name) for each in self.batches]).double()

    def score(self, _each, delta: torch.Tensor) -> torch.Tensor:
        self.n_calls += 1
        return self.function(delta)


def ramps(x: torch.Tensor) -> torch.Tensor:
    """Steps of width 0.01 in three of five coordinates, two up and one down, far from both ends."""
    at, weight = torch.tensor([0.31, 0.62, 0.77]).double(), torch.tensor([1.0, 0.5, -0.7]).double()
    return (((x[:, 0, :3] - at) / 0.01).clamp(0, 1) * weight).sum(1)


def test_steps_are_found_at_little_cost():
    """Saturated: the gradient is 0 at both ends, and nearly everywhere between."""
    delta = torch.ones(6, 1, 5, dtype=torch.float64) * torch.linspace(0.8, 1.4, 6)[:, None, None]
    runner = Steps(ramps, [delta])
    found = record(runner, "auto")
    assert found.steps == runner.n_calls <= 80
    parts = found.gradients * found.deltas
    whole = [[1.0, 0.5, -0.7 if float(size) > 0.79 else 0, 0, 0] for size in delta[:, 0, 0]]
    torch.testing.assert_close(parts, torch.tensor(whole, dtype=torch.float64), atol=0.02, rtol=0)
    torch.testing.assert_close(found.linear, runner.gather("steered") - runner.gather("base"), atol=0.02, rtol=0)
    uniform = record(Steps(ramps, [delta]), 32)  # about a third of the way falls between the points
    assert float((uniform.linear - found.linear).abs().max()) > 0.2


def test_a_row_is_refined_alike_in_any_batch():
    delta = torch.rand(7, 1, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.6
    together, apart = record(Steps(ramps, [delta]), "auto"), record(Steps(ramps, list(delta.split(1))), "auto")
    torch.testing.assert_close(together.gradients, apart.gradients, rtol=1e-9, atol=1e-9)


def test_a_smooth_metric_takes_the_first_pieces_only():
    delta = torch.full((3, 1, 5), 0.5, dtype=torch.float64)
    found = record(Steps(lambda x: x[:, 0].square().sum(1), [delta]), "auto")
    assert found.steps == 9
    torch.testing.assert_close(found.linear, torch.full((3,), 1.25, dtype=torch.float64))
    at_base = record(Steps(lambda x: x[:, 0].square().sum(1), [delta]), 0)
    assert (at_base.steps, float(at_base.linear.abs().max())) == (1, 0.0)


def test_a_gradient_that_is_nan_is_refused():
    root = Steps(lambda x: x[:, 0].abs().sum(1).sqrt() * (x[:, 0].sum(1) > -1), [torch.ones(2, 1, 5)])
    with pytest.raises(NonFiniteError, match="gradient of the metric"):
        record(root, 0)


def test_shares_that_the_rest_takes_back_are_marked():
    """delta = e0 + e1 with e1 read by nobody; e2 is read and not in the delta; d = (e1 + e2) / √2 has a share."""
    n = 30
    reads = torch.rand(n, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 0.5
    true, illusion = reads[:, 0], 0.9 * reads[:, 1]  # of e0, of d; what is left of the delta has minus the latter
    nothing = torch.zeros(n, dtype=torch.float64)
    gains = torch.stack([true, illusion, nothing], 1)
    assert marked(gains, true).tolist() == [False, True, False]
    steady = torch.ones(n, 1, dtype=torch.float64) * torch.tensor([1.0, 0.5, 0.0])
    assert marked(steady, torch.ones(n, dtype=torch.float64)).tolist() == [
        True,
        True,
        False,
    ]  # nothing tells them apart
    opposed = torch.stack([true, illusion, -illusion], 1)  # a mixture of signs, each with a direction of its own
    assert not bool(marked(opposed, true).any())
    many = torch.cat([torch.stack([true, illusion], 1), (-illusion / 10)[:, None].expand(-1, 10)], 1)
    assert marked(many, true).nonzero()[:, 0].tolist() == [1]  # a crowd of small directions takes it back


def test_what_a_named_direction_takes_back_counts_where_contexts_tell():
    """The illusion's share is .6; a crowd takes .25 back, a direction that is large enough to be named the rest."""
    true, other, read = torch.rand(3, 300, generator=torch.Generator().manual_seed(2), dtype=torch.float64) + 0.5
    crowd = read[:, None].expand(-1, 4) / 4
    gains = torch.cat([torch.stack([true, 0.6 * read, -0.35 * read], 1), -0.25 * crowd], 1)
    assert marked(gains, true).nonzero()[:, 0].tolist() == [1]
    # one that pulls the other way by itself follows nothing: .3 of a share of .75 makes no illusion of it
    mixed = torch.cat([torch.stack([true, 0.75 * read, -0.35 * other], 1), -0.3 * crowd], 1)
    assert not bool(marked(mixed, true + 0.45 * read - 0.35 * other).any())
