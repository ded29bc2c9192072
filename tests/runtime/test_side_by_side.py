"""Independent pieces at once: the same results in the same order, whatever a piece needs of the call around it."""

import multiprocessing
import os
import threading
import time

import numpy as np
import pytest
import torch
import toys

import mechsteer as ms
from mechsteer.runtime import threads
from mechsteer.runtime.batches import Sample
from mechsteer.runtime.threads import SMALL, each_of, side_by_side
from mechsteer.training import FitConfig, fit

STATIC = 3 * toys.vector(1)


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    assert torch.get_num_threads() == 2, "what side_by_side takes it gives back"
    torch.set_num_threads(before)


@pytest.fixture
def model(model_of):
    return model_of("bridge-llama")


@pytest.fixture(params=["processes", "threads"])
def way(request, monkeypatch):
    """How pieces run at once: in forked processes, or in threads where a fork is not safe."""
    if request.param == "threads" or not threads.can_fork():
        monkeypatch.setattr(threads, "can_fork", lambda: False)
        return "threads"
    return "processes"


@pytest.mark.usefixtures("two_threads")
def test_pieces_run_at_once_on_one_torch_thread_each_and_come_in_order(model, way):
    """Two pieces that wait for each other can only end if both run."""
    meeting = (multiprocessing.get_context("fork") if way == "processes" else threading).Barrier(2)

    def piece(i):
        meeting.wait(timeout=20)
        time.sleep(0.05 * (i % 2 == 0))
        return i, torch.get_num_threads(), _where(), set(each_of(lambda _: _where(), range(2)))

    with side_by_side(model):
        found = list(each_of(piece, range(8)))
    assert [i for i, *_ in found] == list(range(8))
    for _, n_threads, where, inner in found:
        assert n_threads == 1
        assert inner == {where}, "a piece's own pieces run in a row, where it runs"
    pids = {where[0] for _, _, where, _ in found}
    assert (os.getpid() in pids) == (way == "threads")


def _where():
    return os.getpid(), threading.get_ident()


@pytest.mark.usefixtures("two_threads", "way")
@pytest.mark.parametrize("n_pieces", [2, 3, 6, 7])
def test_any_number_of_pieces(model, n_pieces):
    with side_by_side(model):
        assert list(each_of(lambda i: i * i, (i for i in range(n_pieces)))) == [i * i for i in range(n_pieces)]


@pytest.mark.usefixtures("two_threads", "way")
def test_a_piece_has_the_context_and_the_gradient_mode_of_the_call(model):
    iv = ms.Intervention(ms.adapters.Static(STATIC), ms.Site(1))
    tokens = torch.tensor(toys.prompts(6, 6))
    with torch.no_grad(), ms.steer(model, iv):
        expected = model(tokens)
        with side_by_side(model):
            steered = list(each_of(lambda _: model(tokens), range(4)))
    assert not torch.equal(expected, model(tokens))
    assert all(torch.equal(found, expected) and not found.requires_grad for found in steered)
    with side_by_side(model):
        assert all(each_of(lambda _: torch.is_grad_enabled(), range(2)))
    with torch.inference_mode(), side_by_side(model):
        assert all(each_of(lambda _: torch.is_inference_mode_enabled(), range(2)))


@pytest.mark.usefixtures("two_threads", "way")
def test_the_first_error_in_order_is_raised_and_nothing_begins_after_it(model):
    begun = multiprocessing.Value("i", 0)

    def piece(i):
        with begun.get_lock():
            begun.value += 1
        time.sleep(1.0 if i == 1 else 0.2 * (i > 2))
        if i in (1, 2):
            raise ValueError(f"piece {i}")
        return i

    found = []
    with side_by_side(model), pytest.raises(ValueError, match="piece 1"):
        found += each_of(piece, range(100))
    assert found == [0]
    assert begun.value < 50


@pytest.mark.usefixtures("two_threads")
def test_in_a_row_outside_and_for_models_that_keep_all_threads_busy(model, monkeypatch):
    here = _where()
    assert set(each_of(lambda _: _where(), range(4))) == {here}
    monkeypatch.setattr(model.cfg, "d_model", SMALL + 1)
    with side_by_side(model):
        assert torch.get_num_threads() == 2
        assert set(each_of(lambda _: _where(), range(4))) == {here}


@pytest.mark.usefixtures("two_threads", "way")
def test_trainings_at_once_are_the_trainings_in_a_row(model):
    samples = [Sample(row[:3], row[3:]) for row in toys.prompts(*[7] * 8)]
    starts = [ms.Intervention(ms.adapters.Static(toys.vector(i)), ms.Site(i % 2)) for i in range(4)]

    def trained(start):
        result = fit(model, start, samples, FitConfig(lr=0.1, epochs=2, seed=0))
        (iv,) = result.steering.interventions
        return iv.adapter.vector.detach().numpy()

    torch.set_num_threads(1)
    alone = [trained(start) for start in starts]
    torch.set_num_threads(2)
    with side_by_side(model):
        at_once = list(each_of(trained, starts))
    for a, b in zip(alone, at_once, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(alone[0], alone[1])
