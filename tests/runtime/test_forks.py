"""Pieces in forked processes: their results in order, their errors and warnings, and what happens when one dies."""

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from pathlib import Path

import pytest
import torch

from mechsteer.errors import ConfigError, MechsteerWarning
from mechsteer.runtime import forks
from mechsteer.runtime.forks import LostProcessError, can_fork, forked

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks are safe on Linux alone")


def test_answers_come_in_the_order_of_the_items_from_other_processes():
    pids = set()
    for i, (item, pid) in enumerate(forked(lambda i: (i, os.getpid()), range(20), 3)):
        assert item == i
        pids.add(pid)
    assert len(pids) == 3
    assert os.getpid() not in pids
    assert multiprocessing.active_children() == []


def test_pieces_run_at_once():
    """Three that wait for each other can only end if all run."""
    meeting = multiprocessing.get_context("fork").Barrier(3)
    assert len([meeting_at for meeting_at in forked(lambda _: meeting.wait(20), range(3), 3)]) == 3


def test_nothing_is_changed_here_by_what_a_piece_changes():
    given = [torch.zeros(2)]

    def piece(i):
        given[0] += i + 1
        return given[0]

    assert [t.tolist() for t in forked(piece, range(2), 2)] == [[1, 1], [2, 2]]
    assert given[0].tolist() == [0, 0]


def test_the_first_error_in_order_is_raised_with_where_it_came_from():
    fork = multiprocessing.get_context("fork")
    failed, n_begun_after = fork.Event(), fork.Value("i", 0)

    def piece(i):
        if i == 1:  # the last to end: nothing begins while it runs on beside a piece that has failed
            failed.wait(20)
            time.sleep(1.5)
        if i in (1, 2):
            failed.set()
            raise ConfigError(f"piece {i} is wrong", "mend it")
        with n_begun_after.get_lock():
            n_begun_after.value += failed.is_set()
        time.sleep(0.05 * (i > 2))
        return i

    found = []
    with pytest.raises(ConfigError, match="piece 1 is wrong") as caught:
        found += forked(piece, range(100), 3)
    assert found == [0]
    assert caught.value.hint == "mend it"
    assert "in piece" in str(caught.value.__cause__), "the traceback of the process in which it was raised"
    assert n_begun_after.value <= 2, "what had been asked for when the failure was told"
    assert multiprocessing.active_children() == []


def test_what_cannot_be_sent_is_computed_here():
    class Local:
        """Nobody else can find this class by its name."""

    found = list(forked(lambda i: (os.getpid(), Local()), range(2), 2))
    assert {pid for pid, _ in found} == {os.getpid()}

    class LocalError(Exception):
        pass

    def piece(i):
        raise LocalError(f"here: {os.getpid()}")

    with pytest.raises(LocalError, match=f"here: {os.getpid()}"):
        list(forked(piece, range(2), 2))


def test_warnings_are_given_again():
    def piece(i):
        warnings.warn(f"careful with {i}", MechsteerWarning, stacklevel=1)
        return i

    with pytest.warns(MechsteerWarning) as caught:
        assert list(forked(piece, range(2), 2)) == [0, 1]
    assert [str(each.message) for each in caught] == ["careful with 0", "careful with 1"]


def test_a_killed_process_is_an_error_with_a_hint():
    def piece(i):
        if i == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return i

    with pytest.raises(LostProcessError, match="was killed") as caught:
        list(forked(piece, range(3), 2))
    assert "memory" in caught.value.hint


def test_a_process_killed_between_two_pieces_is_the_same_error(monkeypatch):
    received = forks._received

    def killed_after(end):
        answer = received(end)
        for child in multiprocessing.active_children():
            child.kill()
            child.join()
        return answer

    monkeypatch.setattr(forks, "_received", killed_after)
    with pytest.raises(LostProcessError, match="was killed"):
        list(forked(lambda i: i, range(3), 1))


def test_gradients_and_trained_modules_come_back():
    def trained(i):
        layer = torch.nn.Linear(3, 1)
        with torch.no_grad():
            layer.weight.fill_(i)
        (layer(torch.ones(3)) ** 2).sum().backward()
        return layer, layer.weight.grad

    trained(0)  # the parent has been through a backward pass too
    for i, (layer, grad) in enumerate(forked(trained, range(3), 2)):
        assert layer.weight.tolist() == [[i] * 3]
        expected = 2 * (3 * i + layer.bias.item())
        torch.testing.assert_close(grad, torch.full((1, 3), expected))


def test_no_fork_beside_other_threads_nor_from_one():
    assert can_fork()
    answers, leave = [], threading.Event()
    other = threading.Thread(target=lambda: (answers.append(can_fork()), leave.wait(20)))
    other.start()
    try:
        assert not can_fork(), "that thread may hold a lock"
    finally:
        leave.set()
        other.join()
    assert answers == [False]
    assert can_fork()


def test_pieces_end_with_a_killed_parent(tmp_path):
    script = textwrap.dedent(
        """
        import os, pathlib, sys, time
        from mechsteer.runtime.forks import forked

        def piece(i):
            pathlib.Path(sys.argv[1], str(os.getpid())).touch()
            time.sleep(300)

        list(forked(piece, range(2), 2))
        """
    )
    parent = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stderr=subprocess.DEVNULL)

    def until(condition):
        end = time.monotonic() + 60
        while not condition() and time.monotonic() < end:
            time.sleep(0.05)
        assert condition()

    until(lambda: len(list(tmp_path.iterdir())) == 2)
    pids = [int(path.name) for path in tmp_path.iterdir()]
    parent.kill()
    parent.wait()
    until(lambda: not any(map(is_running, pids)))


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
