"""The lab's model: asked for by name or chosen by free memory, with a machine and a loader that are played here."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import extras
import pytest
import torch

import mechsteer as ms
from mechsteer import cli
from mechsteer.errors import ConfigError, ModelLoadError
from mechsteer.files import hub
from mechsteer.lab.choosing import LADDER, Machine, Source, chosen
from mechsteer.models import memory

pytestmark = extras.needs_lab
GIB = 2**30
LARGE, MIDDLE, SMALL = (named.name for named in LADDER)


def machine(gib, *, kept=(LARGE, MIDDLE, SMALL), fails=None, n_params=1e9, device="cpu"):
    """A machine with so much free memory; `fails`: name -> what its loader raises."""
    folders = {name: Path("/cache") / name for name in kept}
    loads = []

    def load(name, **how):
        loads.append((name.removeprefix("/cache/"), how))
        error = (fails or {}).get(loads[-1][0])
        if error is not None:
            raise error
        return f"model of {loads[-1][0]}"

    def free(asked):
        if gib is None:
            raise ConfigError("this system does not tell its free memory", "")
        return int(gib * GIB)

    played = Machine(free=free, kept=folders.get, device=lambda: device, load=load, n_params=lambda name: n_params)
    return played, loads


@pytest.mark.parametrize(
    ("gib", "expected", "dtype"),
    [
        (64, LARGE, "float32"),
        (20, LARGE, "bfloat16"),
        (12, MIDDLE, "bfloat16"),
        (3, SMALL, "bfloat16"),
        (1, "voices", ""),
    ],
)
def test_the_largest_that_fits_is_taken(gib, expected, dtype):
    played, loads = machine(gib, device="cuda")
    said = []
    model, source = chosen(None, said.append, machine=played)
    assert model == f"model of {expected}"
    assert source.name == expected
    if dtype:
        assert loads == [(expected, {"device": "cuda", "dtype": dtype})]
    too_large = [line for line in said if "too large, it needs about" in line]
    assert len(too_large) == [LARGE, MIDDLE, SMALL, "voices"].index(expected)
    assert f"free memory on cuda: {gib:.1f} GiB" in said[0]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), "memory ran out while it was loaded"),
        (MemoryError(), "memory ran out while it was loaded"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "memory ran out while it was loaded"),
        (ModelLoadError("the hub cannot be asked (no network)", ""), "the hub cannot be asked (no network)"),
    ],
)
def test_what_does_not_load_gives_way_to_the_next_by_name(error, said):
    played, loads = machine(64, fails={LARGE: error, SMALL: error})
    lines = []
    model, source = chosen(None, lines.append, machine=played)
    assert (model, source.name) == (f"model of {MIDDLE}", MIDDLE)
    assert f"  {LARGE}: {said}" in lines
    played, loads = machine(64, fails=dict.fromkeys((LARGE, MIDDLE, SMALL), error))
    lines = []
    assert chosen(None, lines.append, machine=played)[1] == Source(name="voices")
    assert [name for name, _ in loads] == [LARGE, MIDDLE, SMALL, "voices"]
    assert [line for line in lines if line.endswith(said)] == [f"  {n}: {said}" for n in (LARGE, MIDDLE, SMALL)]


def test_an_error_that_is_none_of_these_is_not_hidden():
    played, _ = machine(64, fails={LARGE: RuntimeError("a bug")})
    with pytest.raises(RuntimeError, match="a bug"):
        chosen(None, str, machine=played)


def test_nothing_is_downloaded_without_being_asked():
    played, loads = machine(64, kept=())
    lines = []
    assert chosen(None, lines.append, machine=played)[1].name == "voices"
    assert [name for name, _ in loads] == ["voices"]
    assert sum("model=auto loads it from the hub" in line for line in lines) == 3
    played, loads = machine(64, kept=())
    assert chosen("auto", lines.append, machine=played)[1].name == LARGE
    assert loads[0][0] == LARGE
    assert "loaded from the hub" in lines[-1]


def test_memory_that_is_not_told_means_the_bundled_one():
    played, _ = machine(None)
    assert chosen(None, str, machine=played)[1].name == "voices"
    assert chosen("some/model", str, machine=played)[1] == Source(name="some/model")


def test_a_model_asked_for_is_that_model_or_a_message():
    played, loads = machine(12, n_params=3e9, device="cuda")
    _, source = chosen("some/model", str, machine=played)
    assert source.code == "ms.load_model('some/model', device='cuda', dtype='bfloat16')"
    with pytest.raises(ModelLoadError, match=re.escape("about 46.6 GiB in bfloat16, and 12.0 are free")):
        chosen("some/model", str, machine=replace(played, n_params=lambda name: 2e10))
    assert len(loads) == 1
    chosen("some/model", str, dtype="bfloat16", machine=replace(played, n_params=lambda name: 2e10))
    assert len(loads) == 2
    played, _ = machine(12, fails={"some/model": MemoryError()})
    with pytest.raises(ModelLoadError, match="memory ran out while some/model was loaded"):
        chosen("some/model", str, machine=played)


def test_a_folder_is_written_whole_into_a_snippet(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    assert Source(name="mine").code == f"ms.load_model({str(tmp_path / 'mine')!r})"
    (tmp_path / "voices").mkdir()
    assert Source(name="voices").code == "ms.load_model('voices')"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["model=./nowhere"], "no model folder at ./nowhere"),
        (["model=empty"], "empty has no config.json"),
        (["model=wrong"], "cannot read the configuration of wrong"),
        (["model=pockt"], "no model folder at pockt"),
        (["dtype=int8"], "dtype is 'int8'"),
        (["model=voices", "folder=file"], "the folder file cannot be written to"),
    ],
)
def test_what_cannot_start_is_one_message_and_nothing_is_served(words, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "wrong").mkdir()
    (tmp_path / "wrong" / "config.json").write_text("{}")
    assert cli.main(["lab", "port=7997", *words]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert told.count("error:") == 1
    assert "http://" not in told


def test_what_lies_whole_in_the_cache_of_the_hub(tmp_path, monkeypatch):
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path))
    assert hub.kept_whole("a/b") is None
    folder = tmp_path / "models--a--b" / "snapshots" / "0123"
    folder.mkdir(parents=True)
    (tmp_path / "models--a--b" / "refs").mkdir()
    (tmp_path / "models--a--b" / "refs" / "main").write_text("0123")
    for name in ("config.json", "tokenizer.json"):
        (folder / name).write_text("{}")
    assert hub.kept_folder("a/b") == folder
    assert hub.kept_whole("a/b") is None
    (folder / "model.safetensors.index.json").write_text(
        '{"weight_map": {"x": "one.safetensors", "y": "two.safetensors"}}'
    )
    (folder / "one.safetensors").write_text("")
    assert hub.kept_whole("a/b") is None
    (folder / "two.safetensors").write_text("")
    assert hub.kept_whole("a/b") == folder
    (folder / "model.safetensors.index.json").write_text("[]")
    assert hub.kept_whole("a/b") is None


def test_free_memory_counts_what_the_system_gives_back(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    (tmp_path / "meminfo").write_text("MemTotal: 100 kB\nMemFree: 10 kB\nMemAvailable:      40 kB\n")
    assert ms.models.memory.free_memory() == 40 * 1024
    (tmp_path / "memory.max").write_text("30000")
    (tmp_path / "memory.current").write_text("20000")
    (tmp_path / "memory.stat").write_text("inactive_file 5000\n")
    assert memory.free_memory() == 15000
    (tmp_path / "memory.max").write_text("max")
    assert memory.free_memory() == 40 * 1024


def test_a_device_without_float64_is_not_chosen(monkeypatch):
    monkeypatch.setattr(memory.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(memory.torch.backends.mps, "is_available", lambda: True)
    for able, expected in [(True, "mps"), (False, "cpu")]:
        monkeypatch.setattr(memory, "_has_float64", lambda device, able=able: able)
        assert memory.best_device() == expected
    monkeypatch.setattr(memory.torch.cuda, "is_available", lambda: True)
    assert memory.best_device() == "cuda"


def test_a_loader_that_runs_out_of_memory_says_so(monkeypatch):
    def boot(*_, **__):
        raise MemoryError

    monkeypatch.setattr("mechsteer.models.load._load_bridge", boot)
    with pytest.raises(ModelLoadError, match="not enough memory"):
        ms.load_model("voices")
