"""One writer per folder: refused by name, released however the holder ends."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from mechsteer.errors import StorageError
from mechsteer.files import folder_lock

HOLDER = """
import sys
from mechsteer.files import folder_lock
with folder_lock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the folder until its input ends."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "run")]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_the_second_process_is_refused_by_name_until_the_first_has_ended(holder, tmp_path):
    with (
        pytest.raises(StorageError, match=rf"{tmp_path / 'run'} is in use by process {holder.pid} on .+\n"),
        folder_lock(tmp_path / "run"),
    ):
        pass
    holder.communicate("")
    with folder_lock(tmp_path / "run"):
        pass
    with folder_lock(tmp_path / "new"):
        pass
    with folder_lock(tmp_path / "used"):
        (tmp_path / "used" / "file").touch()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["used"]
    assert [p.name for p in (tmp_path / "used").iterdir()] == ["file"]


def test_a_killed_holder_holds_nothing(holder, tmp_path):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / "run" / ".lock").read_text().startswith(f"process {holder.pid} on ")  # it could not tidy up
    with folder_lock(tmp_path / "run"):
        assert (tmp_path / "run" / ".lock").read_text().startswith(f"process {os.getpid()} on ")


def test_one_thread_may_nest_and_another_may_not(tmp_path):
    refused = []

    def other():
        try:
            with folder_lock(tmp_path):
                pass
        except StorageError as error:
            refused.append(error.message)

    with folder_lock(tmp_path):
        with folder_lock(tmp_path / "."):
            pass
        assert (tmp_path / ".lock").exists()  # the inner one has not let go of it
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert refused == [f"{tmp_path} is in use by another thread of this process ({os.getpid()})"]
    other()
    assert len(refused) == 1


def test_it_is_let_go_by_an_exception(tmp_path):
    with pytest.raises(KeyError), folder_lock(tmp_path):
        raise KeyError
    assert list(tmp_path.iterdir()) == []
    with folder_lock(tmp_path):
        pass


def test_a_folder_that_cannot_be_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    for _ in range(2):
        with pytest.raises(StorageError, match="cannot write in"), folder_lock(tmp_path / "file"):
            pass


def test_folders_that_were_made_for_the_lock_go_again_unless_something_came_into_them(tmp_path):
    with folder_lock(tmp_path / "a" / "b" / "c"):
        assert (tmp_path / "a" / "b" / "c" / ".lock").exists()
    assert list(tmp_path.iterdir()) == []
    with folder_lock(tmp_path / "a" / "b" / "c"):
        (tmp_path / "a" / "mine").write_text("")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["mine"]
