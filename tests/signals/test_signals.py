"""Signals of trajectories against the offline summaries of every window, in pieces, and padded anywhere."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from mechsteer.errors import ConfigError, ShapeError
from mechsteer.runtime.observers import select_rows
from mechsteer.signals import Coherence, SignalSet, StepEntropy, Variance, WindowedH0, linkage, spread, windowed_h0
from mechsteer.signals.spanning import StreamingH0, lifetime_entropy, mst_edges
from mechsteer.signals.steps import share_entropy
from mechsteer.topology import h0_batch, kinematics

W, D = 6, 5
SIGNALS = [Coherence(W), StepEntropy(W), Variance(W), Variance(W, relative=False), WindowedH0(W)]


@pytest.fixture
def rows():
    """Three random walks that stand still for a while, far from the origin."""
    generator = torch.Generator().manual_seed(0)
    walk = torch.randn(3, 17, D, dtype=torch.float64, generator=generator).cumsum(1) + 20
    walk[1, 8:12] = walk[1, 8:9]
    return walk


def windows(row, end):
    return row[max(0, end - W + 1) : end + 1]


def cosine(a, b):
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def offline(signal, points):
    """The signal of one window, by what is there for whole trajectories, or in numpy."""
    cloud = points.numpy()
    if isinstance(signal, Coherence):
        pairs = list(itertools.pairwise(cloud))
        return 1 - np.mean([cosine(a, b) for a, b in pairs]) if pairs else 0.0
    if isinstance(signal, StepEntropy):
        return kinematics(points).step_entropy_nats
    if isinstance(signal, Variance):
        total = np.square(cloud - cloud.mean(0)).sum()
        return total / (np.square(cloud).sum() if signal.relative else cloud.size)
    return float(h0_batch(points[None]).entropy_nats[0])


@pytest.mark.parametrize("signal", SIGNALS, ids=repr)
def test_each_value_is_the_offline_summary_of_its_window(signal, rows):
    values, _ = signal(rows)
    expected = [[offline(signal, windows(row, end)) for end in range(len(row))] for row in rows]
    torch.testing.assert_close(values, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("signal", SIGNALS, ids=repr)
def test_pieces_have_the_values_of_the_whole_and_states_stay_as_they_were(signal, rows):
    whole, _ = signal(rows)
    state, found, states = None, [], []
    for piece in rows.split([1, 4, 1, 1, 2, 8], 1):
        states.append((state, [t.clone() for t in leaves(state)]))
        values, state = signal(piece, state=state)
        found.append(values)
    torch.testing.assert_close(torch.cat(found, 1), whole, rtol=1e-12, atol=1e-12)
    for kept, before in states:
        assert all(torch.equal(a, b) for a, b in zip(leaves(kept), before, strict=True))


def leaves(state):
    return [leaf for leaf in torch.utils._pytree.tree_leaves(state) if isinstance(leaf, torch.Tensor)]


@pytest.mark.parametrize("signal", SIGNALS, ids=repr)
@pytest.mark.parametrize("side", ["left", "right", "both", "between"])
def test_padding_changes_nothing_wherever_it_stands(signal, side, rows):
    whole, _ = signal(rows)
    batch = torch.full((3, 22, D), torch.nan, dtype=torch.float64)
    mask = torch.zeros(3, 22, dtype=torch.bool)
    for i, n in enumerate((17, 9, 13)):
        at = torch.arange(n) + {"left": 22 - n, "right": 0, "both": 3, "between": 1}[side]
        if side == "between":
            at = torch.cat([torch.arange(n - 4), torch.arange(4) + 22 - 4])
        batch[i, at], mask[i, at] = rows[i, :n], True
    state, found = None, []
    for columns in ([0, 5], [5, 6], [6, 22]):  # the second piece is one token of each row, real or not
        values, state = signal(batch[:, slice(*columns)], mask[:, slice(*columns)], state)
        found.append(values)
    values = torch.cat(found, 1)
    assert not values[~mask].any()
    for i, n in enumerate((17, 9, 13)):
        torch.testing.assert_close(values[i][mask[i]], whole[i, :n], rtol=1e-12, atol=1e-12)


def test_windowed_h0_is_the_streaming_one_in_float32():
    points = torch.randn(1, 150, 48, generator=torch.Generator().manual_seed(1)).cumsum(1)
    values, _ = WindowedH0(64)(points)
    stream, expected = StreamingH0(64), []
    for point in points[0]:
        stream.push(point)
        expected.append(stream.entropy_nats)
    assert values.dtype == torch.float32
    torch.testing.assert_close(values[0].double(), torch.tensor(expected, dtype=torch.float64), rtol=1e-5, atol=1e-5)


def test_blocks_change_nothing(rows, monkeypatch):
    expected = [signal(rows)[0] for signal in SIGNALS]
    monkeypatch.setattr(spread, "BLOCK_VALUES", 3 * W * D * 2)
    monkeypatch.setattr(windowed_h0, "MATRIX_VALUES", 3 * W * W * 2)
    for signal, values in zip(SIGNALS, expected, strict=True):
        torch.testing.assert_close(signal(rows)[0], values, rtol=1e-12, atol=1e-12)


def test_heights_by_minimax_are_the_spanning_trees_edges(monkeypatch):
    points = torch.randn(7, 9, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    points[0, 3] = points[0, 5]
    points[1] = torch.arange(9.0)[:, None] ** 1.5  # a chain: the longest path there is
    points[2] = torch.arange(9.0)[:, None]  # ties
    distances = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")
    distances[3, 6:], distances[3, :, 6:] = torch.inf, torch.inf
    lengths = [9, 9, 9, 6, 9, 9, 9]
    expected = np.nan_to_num(mst_edges(points, lengths), nan=np.inf)
    for size in (2**24, 9**3 * 2):
        monkeypatch.setattr(linkage, "PRODUCT_VALUES", size)
        for heights in (linkage.by_minimax(distances), linkage.merge_heights(distances)):
            np.testing.assert_allclose(heights.sort(1).values.numpy(), expected, rtol=1e-12)


def test_known_trajectories():
    ray = torch.arange(1.0, 9.0)[None, :, None] * torch.tensor([3.0, 4.0])
    turning = torch.eye(2).repeat(4, 1)[None]
    assert Coherence(4)(ray)[0].abs().max() < 1e-6
    torch.testing.assert_close(Coherence(4)(turning)[0], torch.tensor([[0.0] + [1.0] * 7]))
    torch.testing.assert_close(StepEntropy(5)(ray)[0][0, 4:], torch.full((4,), np.log(4.0)).float())
    torch.testing.assert_close(WindowedH0(5)(turning)[0], torch.zeros(1, 8))  # two places: one bar
    torch.testing.assert_close(Variance(2, relative=False)(turning)[0][0, 1:], torch.full((7,), 0.25))
    still = torch.ones(1, 5, 3)
    assert not any(signal(still)[0].any() for signal in (StepEntropy(3), Variance(3), WindowedH0(3)))
    assert not any(signal(0 * still)[0].isnan().any() for signal in SIGNALS)


def test_step_entropy_ranks_windows_as_h0_does():
    """As the specification of the signals has it: 0.9, on trajectories that jump, loop and wander."""
    generator = torch.Generator().manual_seed(3)
    scale = torch.rand(200, 1, 1, generator=generator) * 3
    steps = torch.randn(200, 32, 16, generator=generator) * (scale * torch.randn(200, 32, 1, generator=generator)).exp()
    walk = steps.cumsum(1)
    last = [signal(walk)[0][:, -1].numpy() for signal in (StepEntropy(32), WindowedH0(32))]
    assert np.corrcoef(*(np.argsort(np.argsort(values)) for values in last))[0, 1] > 0.85


def test_bfloat16_is_widened_before_anything_is_subtracted(rows):
    rough = rows.bfloat16()
    for signal in SIGNALS:
        values, _ = signal(rough)
        assert values.dtype == torch.float32
        torch.testing.assert_close(values.double(), signal(rough.double())[0], rtol=1e-4, atol=1e-5)


def test_no_gradient_flows(rows):
    for signal in SIGNALS:
        assert not signal(rows.requires_grad_())[0].requires_grad


def test_signals_together_deviate_from_the_mean_of_what_came_before(rows):
    together = SignalSet([Coherence(W), WindowedH0(W)])
    mask = torch.ones(3, 17, dtype=torch.bool)
    mask[0, :4] = mask[1, 9:] = False
    values, deviations, _ = together(rows, mask)
    for i in range(3):
        alone = torch.stack([signal(rows[i : i + 1][:, mask[i]])[0][0] for signal in together.signals], -1)
        torch.testing.assert_close(values[i][mask[i]], alone)
        expected = [0 * alone[0]] + [(alone[t] - alone[:t].mean(0)).abs() for t in range(1, len(alone))]
        torch.testing.assert_close(deviations[i][mask[i]], torch.stack(expected))
    assert not deviations[~mask].any()
    state, found = None, []
    for columns in ([0, 3], [3, 4], [4, 17]):
        *both, state = together(rows[:, slice(*columns)], mask[:, slice(*columns)], state)
        found.append(both)
    for number, whole in enumerate((values, deviations)):
        torch.testing.assert_close(torch.cat([both[number] for both in found], 1), whole)


def test_rows_go_on_alone(rows):
    """A state holds tensors with the batch first, as sessions select rows of it."""
    together, index = SignalSet([Coherence(W), WindowedH0(W)]), torch.tensor([2, 0])
    whole, _, _ = together(rows)
    _, _, state = together(rows[:, :9])
    state = select_rows(state, index)
    torch.testing.assert_close(together(rows[index, 9:], state=state)[0], whole[index, 9:])


@pytest.mark.parametrize("window", [1, 0, 2.0, True])
def test_windows_that_say_nothing_are_refused(window):
    with pytest.raises(ConfigError, match="the window of h0_entropy is"):
        WindowedH0(window)


def test_other_wrong_calls_are_refused(rows):
    with pytest.raises(ConfigError, match="the window of coherence is 2"):
        Coherence(2)
    with pytest.raises(ConfigError, match="the signals are"):
        SignalSet([Coherence(4), Coherence(8)])
    with pytest.raises(ShapeError, match="pass acts"):
        Coherence()(rows[0])
    with pytest.raises(ShapeError, match="one truth per token"):
        Coherence()(rows, torch.ones(3, 4, dtype=torch.bool))


def test_lifetime_entropy_in_torch_is_that_in_numpy():
    sizes = np.random.default_rng(0).exponential(size=(4, 9)) * (np.arange(9) > 2)
    found = share_entropy(torch.from_numpy(sizes))
    np.testing.assert_allclose(found.numpy(), lifetime_entropy(sizes)[0], rtol=1e-12)
