"""A walk of wrong calls, as a user makes them: one message with a hint, status 2, nothing half-written."""

from __future__ import annotations

import json
import shutil

import pytest
import toys

from mechsteer import cli
from mechsteer.files import read_record, write_record

WRONG = [  # (arguments, words of the message); names in capitals are files of the `place`
    (["studdy"], "did you mean ['study"),
    (["study", "--agian"], "unknown option --agian"),
    (["study", "layer=3"], "unknown key 'layer'"),
    (["study", "xyzzy=3"], "unknown key 'xyzzy'"),
    (["study", "sae=3"], "sae is a section"),
    (["study", "out"], "'out' is no setting"),
    (["study", "=3"], "is no setting"),
    (["study", "out="], "out is ''"),
    (["study", "out=null"], "out is None"),
    (["study", "data="], "data is ''"),
    (["study", "data=null"], "data is None"),
    (["study", "model="], "the model's name is ''"),
    (["study", "model=pockett"], "did you mean ['pocket"),
    (["study", "model=no/such/folder/here"], "no model folder at no/such/folder/here"),
    (["study", "model=PLACE"], "has no config.json"),
    (["study", "model=BROKEN"], "cannot load"),
    (["traces", "data=missing.jsonl"], "missing.jsonl"),
    (["traces", "data=EMPTY.jsonl"], "holds no rows"),
    (["traces", "data=HALF.jsonl"], "HALF.jsonl, line 2"),
    (["traces", "data=PLACE"], "train.jsonl"),
    (["traces", "data=NOTES.bin"], "unknown kind '.bin'"),
    (["traces", "data=TEXTS.json", "metric=accuracy"], "cannot be verified"),
    (["traces", "data=LONG.jsonl"], "too long for the context of"),
    (["traces", "data=TEXTS.json", "prompt_tokens=5000"], "prompt_tokens is 5000"),
    (["study", "truncate=middle"], "truncate is 'middle'"),
    (["study", "layers=[99]"], "no layer 99"),
    (["study", "layers=[]"], "layers is empty"),
    (["study", "layers=x"], "layers is 'x'"),
    (["study", "device=gpu"], "device 'gpu' cannot be used here"),
    (["study", "device=cuda:99"], "device 'cuda:99' cannot be used here"),
    (["study", "device=meta"], "holds no weights"),
    (["study", "dtype=int8"], "dtype is 'int8'"),
    (["study", "backend=hoked"], "backend is 'hoked'"),
    (["study", "attribute.nulls=x"], "attribute.nulls is 'x'"),
    (["study", "attribute.nulls=-1"], "attribute.nulls is -1"),
    (["study", "traces.temperature=nan"], "traces.temperature is nan"),
    (["study", "seed=1.5"], "seed is 1.5"),
    (["study", "adapter.coeffs=[0]"], "adapter.coeffs holds 0"),
    (["study", "adapter.args=3"], "adapter.args is 3"),
    (["study", "adapter.kind=statik"], "no adapter 'statik'"),
    (["study", "adapter.sites=[resid_psot]"], "no point 'resid_psot'"),
    (["study", "adapter.path=none.safetensors"], "none.safetensors"),
    (["study", "observers=[drift@1]"], "no observer 'drift'"),
    (["study", "sae.k=65", "sae.d_sae=64"], "sae.k is 65"),
    (["study", "sae.path=no-such-sae"], "no-such-sae"),
    (["study", "vocabulary=none.yaml"], "none.yaml"),
    (["study", "preset=quik"], "no preset 'quik'"),
    (["study", "config=none.yaml"], "no configuration file"),
    (["study", "config=HALF.jsonl"], "cannot be read"),
    (["study", "config=LIST.yaml"], "holds a list"),
    (["study", "--multirun"], "without a key of several values"),
    (["study", "--multirun", "seed=1,x"], "seed is 'x'"),
    (["report", "--multirun", "seed=1,2"], "report runs once"),
    (["report"], "nothing has run in"),
    (["heatmap", "heatmap.show=all"], "heatmap.show is 'all'"),
    (["heatmap"], "nothing has run in"),
    (["models", "x=1"], "models takes no settings"),
    (["push", "NOTES.bin"], "push takes FILE TARGET"),
    (["push", "none.safetensors", "out"], "no steering file at none.safetensors"),
    (["pull", "none", "out"], "no steering file at none"),
    (["mix"], "mix takes a steering file"),
    (["mix", "none.safetensors", "text=a"], "no steering file at none.safetensors"),
    (["mix", "none.safetensors", "gain=[1]"], "mix has no key 'gain'"),
    (["study", "--import=no_such_module"], "cannot import 'no_such_module'"),
    (["traces", "out=NOTES.bin"], "NOTES.bin"),
    (["traces", "out=NOTES.bin/below"], "NOTES.bin"),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder of things that are not what is asked for."""
    place = tmp_path_factory.mktemp("place")
    (place / "EMPTY.jsonl").write_text("")
    (place / "HALF.jsonl").write_text('{"text": "One"}\n{"text": \n')
    (place / "NOTES.bin").write_bytes(b"\0\1")
    (place / "LIST.yaml").write_text("- a\n- b\n")
    (place / "TEXTS.json").write_text(json.dumps([f"{'word ' * 700}{i}" for i in range(60)]))
    rows = [{"question": f"{'word ' * 3000}{i}?", "answer": f"It is so.\n#### {i}"} for i in range(60)]
    (place / "LONG.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    broken = shutil.copytree(toys.folder("llama"), place / "BROKEN")
    (broken / "model.safetensors").write_bytes(b"no weights")
    return place


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def refused(arguments, capsys):
    """What a wrong call says: one message with one hint, on stderr."""
    capsys.readouterr()
    assert cli.main(arguments) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.count("error: ") == told.err.count("\n\nhint: ") == 1
    assert "Traceback" not in told.err
    return told.err


@pytest.mark.parametrize(("arguments", "words"), WRONG, ids=[" ".join(arguments) for arguments, _ in WRONG])
def test_a_wrong_call_is_one_message_and_leaves_nothing(arguments, words, place, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    given = []
    for argument in arguments:
        key, equals, name = argument.partition("=")
        named = name == "PLACE" or ((place / name.partition("/")[0]).exists() and name[:2].isupper())
        given.append(f"{key}={place / ('' if name == 'PLACE' else name)}" if equals and named else argument)
    before = contents(place)
    assert words in refused(given, capsys)
    assert list(tmp_path.iterdir()) == []
    assert contents(place) == before


@pytest.fixture(scope="module")
def run(place, tmp_path_factory):
    folder = tmp_path_factory.mktemp("walk") / "run"
    small = ["traces.n_problems=8", "traces.n_dev=4", "traces.n_samples=1", "max_new_tokens=8", "layers=[1]"]
    assert cli.main(["capture", f"out={folder}", f"data={place / 'TEXTS.json'}", *small]) == 0
    return folder


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def disagree(folder):
    """Two stages of different runs, and no settings."""
    (folder / "config.json").unlink()
    path = folder / "stages" / "capture.json"
    content = read_record(path)
    assert content is not None
    content["made_from"]["keys"] |= {"batch_size": 3}
    write_record(path, content)


@pytest.mark.parametrize(
    ("damage", "arguments", "words"),
    [
        (lambda run: flip(run / "config.json"), ["report"], "config.json is damaged"),
        (lambda run: (run / "config.json").write_text("{"), ["capture"], "config.json is damaged"),
        (lambda run: write_record(run / "config.json", {}), ["capture"], "holds no settings"),
        (lambda run: flip(run / "stages" / "traces.json"), ["report"], "traces.json"),
        (lambda run: (run / "stages" / "capture.json").write_text(""), ["capture"], "capture.json is damaged"),
        (lambda run: flip(run / "traces-train.jsonl"), ["capture"], "traces-train.jsonl is not as traces wrote it"),
        (disagree, ["capture"], "does not tell the settings that the others do"),
        (lambda run: None, ["capture", "data=gone.jsonl"], "gone.jsonl"),
        (lambda run: None, ["capture", "layers=[99]"], "no layer 99"),
        (lambda run: None, ["capture", "model=no/such/folder/here"], "no model folder"),
        (lambda run: None, ["probe", "device=gpu"], "device 'gpu'"),
    ],
)
def test_a_damaged_run_is_one_message_and_stays_as_it_is(damage, arguments, words, run, tmp_path, capsys):
    folder = shutil.copytree(run, tmp_path / "run")
    damage(folder)
    before = contents(folder)
    told = refused([*arguments, f"out={folder}"], capsys)
    assert words in told
    assert not {"remove", "delete"} & set(told.replace(".", " ").split())
    assert contents(folder) == before
