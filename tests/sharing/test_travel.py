"""Steering files to folders and the hub and back: whole or not at all, checked, and soon refused without a network."""

import errno
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import huggingface_hub
import pytest
import toys

import mechsteer as ms
from mechsteer import cli
from mechsteer.errors import ConfigError, FileFormatError, HubError, StorageError
from mechsteer.sharing import travel

FILES = ["README.md", "apply.py", "steering.safetensors"]


@pytest.fixture
def path(tmp_path):
    iv = ms.Intervention(ms.adapters.Static(toys.vector(1)), ms.Site(1))
    return Path(ms.save_steering(iv, tmp_path / "mine.safetensors", toys.shared("llama"), licence="MIT"))


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_a_folder_and_back(path, tmp_path):
    out = tmp_path / "a" / "shared"
    assert ms.push_steering(path, out) == str(out)
    assert names(out) == FILES
    assert (out / "steering.safetensors").read_bytes() == path.read_bytes()
    assert (out / "README.md").read_text() == ms.sharing.model_card(path)
    assert (out / "apply.py").read_bytes() == Path(ms.sharing.apply.__file__).read_bytes()
    for source in (out, out / "steering.safetensors", str(out)):
        pulled = ms.pull_steering(source, tmp_path / "pulled")
        assert pulled == tmp_path / "pulled" / "steering.safetensors"
        assert names(pulled.parent) == FILES
        shutil.rmtree(pulled.parent)
    alone = ms.pull_steering(out, tmp_path / "alone.safetensors")
    assert alone.read_bytes() == path.read_bytes()
    assert names(tmp_path) == ["a", "alone.safetensors", "mine.safetensors"]


def test_of_somebody_elses_folder_only_the_file_is_kept(path, tmp_path):
    ms.push_steering(path, tmp_path / "theirs")
    (tmp_path / "theirs" / "apply.py").write_text("raise SystemExit('theirs')")
    (tmp_path / "theirs" / "README.md").write_text("<script>theirs</script>")
    (tmp_path / "theirs" / "more.py").write_text("")
    out = ms.pull_steering(tmp_path / "theirs", tmp_path / "ours").parent
    assert names(out) == FILES
    assert all("theirs" not in (out / name).read_text() for name in FILES[:2])


@pytest.mark.parametrize("call", [ms.push_steering, ms.pull_steering])
def test_what_is_there_is_left_alone(call, path, tmp_path):
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"taken is there already(?s:.*)new folder"):
        call(path, taken)
    assert names(taken) == ["mine.txt"]
    assert names(tmp_path) == ["mine.safetensors", "taken"]


@pytest.mark.parametrize("call", [ms.push_steering, ms.pull_steering])
def test_damaged_and_missing_files_travel_nowhere(call, path, tmp_path):
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    (tmp_path / "bad.safetensors").write_bytes(data)
    with pytest.raises(FileFormatError, match="is damaged"):
        call(tmp_path / "bad.safetensors", tmp_path / "out")
    with pytest.raises(FileFormatError, match="no steering file at"):
        call(tmp_path / "none.safetensors", tmp_path / "out")
    assert names(tmp_path) == ["bad.safetensors", "mine.safetensors"]


def test_a_full_disk_leaves_nothing(path, tmp_path, monkeypatch):
    def full(*_args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(travel.shutil, "copyfile", full)
    with pytest.raises(StorageError, match=r"No space left(?s:.*)free some space"):
        ms.push_steering(path, tmp_path / "out")
    assert names(tmp_path) == ["mine.safetensors"]


# -- the hub -------------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub that answers as it is told, after some seconds, and keeps what it is given in a folder."""
    told = {"raises": None, "after": 0.0, "upload": None, "private": None, "name": None}
    kept = tmp_path / "hub"

    class Hub:
        def whoami(self):
            time.sleep(told["after"])
            if told["raises"] is not None:
                raise told["raises"]
            return {"name": "someone"}

        def model_info(self, name):
            return self.whoami()

        def create_repo(self, name, private, exist_ok):
            told.update(private=private, name=name)
            return f"the hub's {name}"

        def upload_folder(self, repo_id, folder_path, commit_message):
            if told["upload"] is not None:
                raise told["upload"]
            shutil.copytree(folder_path, kept / repo_id)

    def download(name, filename):
        if not (kept / name / filename).exists():
            raise huggingface_hub.errors.EntryNotFoundError("no entry")
        return str(kept / name / filename)

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda name, filename: None)
    monkeypatch.chdir(tmp_path)
    return told


def test_the_hub_and_back(hub, path, tmp_path):
    assert ms.push_steering(path, "someone/boost") == "the hub's someone/boost"
    assert (hub["private"], hub["name"]) == (True, "someone/boost")
    assert names(tmp_path / "hub" / "someone" / "boost") == FILES
    pulled = ms.pull_steering("someone/boost", tmp_path / "pulled")
    assert pulled.read_bytes() == path.read_bytes()
    ms.push_steering(path, "hf://someone/open", private=False)
    assert (hub["private"], hub["name"]) == (False, "someone/open")


def test_folders_and_names_of_the_hub_are_told_apart(hub, path, tmp_path):
    (tmp_path / "runs").mkdir()
    for target in ("runs/boost", "./someone/boost", "boost", "a/b/c", tmp_path / "x", Path("someone/else")):
        assert ms.push_steering(path, target) == str(target)
        assert names(Path(target)) == FILES
    assert hub["name"] is None


def test_offline_a_hub_name_fails_soon_and_leaves_nothing(hub, path, tmp_path):
    hub["raises"] = OSError("Name or service not known")
    with pytest.raises(
        HubError, match=r"cannot push to someone/x: the hub cannot be asked \(Name or(?s:.*)begins with"
    ):
        ms.push_steering(path, "someone/x")
    with pytest.raises(HubError, match=r"cannot pull someone/x: the hub cannot be asked(?s:.*)network connection"):
        ms.pull_steering("someone/x", tmp_path / "out")
    hub |= {"raises": None, "after": 60}  # a name server that never answers
    start = time.monotonic()
    with pytest.raises(HubError, match="no answer within 3 seconds"):
        ms.push_steering(path, "someone/x")
    assert time.monotonic() - start < 5
    assert names(tmp_path) == ["mine.safetensors"]


def test_what_the_hub_refuses_is_told(hub, path, tmp_path):
    hub["raises"] = huggingface_hub.errors.LocalTokenNotFoundError("no token")
    with pytest.raises(HubError, match=r"nobody is logged in(?s:.*)hf auth login"):
        ms.push_steering(path, "someone/x")
    hub["raises"] = huggingface_hub.errors.HFValidationError("Repo id must use")
    with pytest.raises(HubError, match="nothing of this name"):
        ms.pull_steering("someone/x", tmp_path / "out")
    hub |= {"raises": None, "upload": RuntimeError("403 Forbidden")}
    with pytest.raises(HubError, match="cannot push to someone/x: 403 Forbidden"):
        ms.push_steering(path, "someone/x")
    with pytest.raises(FileFormatError, match=r"someone/x holds no steering\.safetensors"):
        ms.pull_steering("someone/x", tmp_path / "out")
    assert names(tmp_path) == ["mine.safetensors"]


def test_what_was_pulled_before_is_there_without_a_network(hub, path, tmp_path, monkeypatch):
    hub["raises"] = OSError("unreachable")
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda name, filename: str(path))
    assert ms.pull_steering("someone/x", tmp_path / "out").read_bytes() == path.read_bytes()


# -- commands ------------------------------------------------------------------------------------------------------


def test_commands(hub, path, tmp_path, capsys):
    assert cli.main(["push", str(path), "./shared"]) == 0
    assert capsys.readouterr().out == "pushed: ./shared\n"
    assert cli.main(["pull", "./shared", "again.safetensors"]) == 0
    assert capsys.readouterr().out == "pulled: again.safetensors\n"
    assert cli.main(["push", str(path), "someone/boost", "--public"]) == 0
    assert hub["private"] is False
    for wrong in (
        ["push", "x"],
        ["push"],
        ["pull", "a", "b", "--public"],
        ["pull", "a", "b", "c"],
        ["push", "--x", "b"],
    ):
        assert cli.main(wrong) == 2
        assert f"{wrong[0]} takes " in capsys.readouterr().err
    assert cli.main(["push", "none.safetensors", "out"]) == 2
    assert "no steering file at none.safetensors" in capsys.readouterr().err


OFFLINE = """
import socket, sys

def unreachable(*args, **options):
    raise socket.gaierror(-2, "Name or service not known")

socket.getaddrinfo = unreachable
import time
from mechsteer import cli
begin = time.process_time()
status = cli.main(sys.argv[1:])
assert time.process_time() - begin < 3, time.process_time() - begin  # of this process: others may be at work too
assert "torch" not in sys.modules
raise SystemExit(status)
"""


@pytest.mark.parametrize("words", [["pull", "someone/x", "out"], ["push", "MINE", "someone/x"]])
def test_without_a_network_a_command_answers_before_it_loads_anything(words, path, tmp_path):
    env = {**os.environ, "HF_TOKEN": "hf_none", "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "0"}
    given = [str(path) if word == "MINE" else word for word in words]
    done = subprocess.run([sys.executable, "-c", OFFLINE, *given], capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("error: ") == done.stderr.count("hint: ") == 1
    assert "the hub cannot be asked ([Errno -2] Name or service not known)" in done.stderr
    assert "Traceback" not in done.stderr
