"""`mechsteer records` and `mechsteer prompts`, as they are typed."""

from __future__ import annotations

import json

import pytest
import record_toys
from record_toys import RUN, one_of_each, run, trace

from mechsteer import cli
from mechsteer.prompts import PromptSet
from mechsteer.records import RunLog
from mechsteer.records.command import RecordsCommand
from mechsteer.records.prompts_command import PromptsCommand

OTHER = "q" * 32


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    RunLog("runs/a/records.jsonl").append(one_of_each())
    RunLog("runs/deep/b/records.jsonl").append([run(OTHER, "2031-01-01T00:00:00+00:00"), trace(0, run_id=OTHER)])
    return tmp_path / "runs"


def typed(capsys, *words):
    status = cli.main(list(words))
    done = capsys.readouterr()
    return status, done.out, done.err


def test_runs_are_listed_oldest_first(runs, capsys):
    status, out, _ = typed(capsys, "records")
    assert status == 0
    lines = out.splitlines()
    assert [line.split()[0] for line in lines] == [RUN[:8], OTHER[:8]]
    assert lines[0].endswith("study  pocket  6 records  runs/study")
    assert typed(capsys, "records", "list", "runs/deep")[1].splitlines() == lines[1:]


def test_a_run_is_shown_with_all_that_it_has(runs, capsys):
    _, out, _ = typed(capsys, "records", "show", "rr")
    told = json.loads(out)
    assert told["run"]["run_id"] == RUN
    assert told["settings"] == record_toys.CONFIG.settings
    assert told["metrics"]["train"]["loss"] == 0.1 + 0.2
    assert told["evaluations"][0]["arm"] == "adapter"
    assert (told["records"]["traces"], told["records"]["runs"]) == (1, 1)


def test_logs_are_imported_and_asked_for_there(runs, capsys, address, tmp_path):
    torn = runs / "a" / "records.jsonl"
    torn.write_bytes(torn.read_bytes() + b'{"dig')
    where = f"database={address}"
    _, out, _ = typed(capsys, "records", "import", "runs", where)
    assert "runs/a/records.jsonl: 7 records, 7 of them new" in out
    assert "line 8: 5 bytes of a record that was not finished" in out
    assert "7 records, 0 of them new" in typed(capsys, "records", "import", "runs/a", where)[1]
    assert typed(capsys, "records", "list", where)[1] == typed(capsys, "records", "list")[1]
    shown = [typed(capsys, "records", "show", "rr", *more)[1] for more in ([where], [])]
    assert json.loads(shown[0]) == json.loads(shown[1])  # PostgreSQL has an order of keys of its own


def test_what_a_terminal_would_obey_is_not_printed(runs, capsys):
    hostile = run(OTHER, "2031-01-01T00:00:00+00:00").to_dict() | {"name": "\x1b[2Jgone\n", "model": "\u202eevil"}
    RunLog("runs/c/records.jsonl").append(
        [type(run()).from_dict(hostile | {"run_id": "z" * 32}), trace(0, run_id="z" * 32)]
    )
    _, listed, _ = typed(capsys, "records")
    _, shown, _ = typed(capsys, "records", "show", "zz")
    assert len(listed.splitlines()) == 3
    for text in (listed, shown):
        assert "\x1b" not in text
        assert "\u202e" not in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["lst"], "did you mean ['list'"),
        (["show"], "no run is named"),
        (["import"], "no log is named"),
        (["list", "databse=embedded"], "takes no 'databse=embedded'"),
        (["list", "--all"], "takes no '--all'"),
        (["list", "nowhere"], "there is no log at nowhere"),
        (["show", "xyz"], "0 runs begin with 'xyz'"),
        (["show", ""], "2 runs begin with ''"),
    ],
)
def test_mistakes(words, message, runs, capsys):
    status, out, err = typed(capsys, "records", *words)
    assert (status, out) == (2, "")
    assert message in err
    assert "hint: " in err


def test_words_are_read():
    command = RecordsCommand.of(["import", "a", "b", "database=embedded", "folder=x"])
    assert (command.action, command.words, command.database, command.folder) == ("import", ("a", "b"), "embedded", "x")


# prompts


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    texts = ["Tom is happy.", "Mia is sad.", "Tom is happy.", "3+4=7", "5+6=11", "Ann has 3 apples and buys 4 more."]
    rows = [{"q": {"text": text}, "who": i % 2, "ok": i > 2} for i, text in enumerate(texts)]
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


def test_prompts_are_chosen_by_length_and_chance(data, capsys):
    status, out, _ = typed(
        capsys, "prompts", "data.jsonl", "text=q.text", "group=who", "label=ok", "max_tokens=8", "n=3", "out=some.jsonl"
    )
    assert status == 0
    assert "6 prompts, 5 of them different" in out
    chosen = PromptSet.read("some.jsonl", group="group", label="label")
    assert len(chosen) == 3
    assert "Ann has 3 apples and buys 4 more." not in chosen.texts
    before = (data / "some.jsonl").read_bytes()
    typed(
        capsys, "prompts", "data.jsonl", "text=q.text", "group=who", "label=ok", "max_tokens=8", "n=3", "out=some.jsonl"
    )
    assert (data / "some.jsonl").read_bytes() == before  # the same seed, the same prompts


def test_prompts_are_chosen_by_likeness(data, capsys, address):
    words = ("data.jsonl", "text=q.text", "like=7+8=15", "n=2", "out=sums.jsonl", f"database={address}")
    status, _, err = typed(capsys, "prompts", *words)
    assert (status, err) == (0, "")
    assert set(PromptSet.read("sums.jsonl").texts) == {"3+4=7", "5+6=11"}
    (data / "these.txt").write_text("8+1=9\n2+2=4\n")
    words = ("data.jsonl", "text=q.text", "like=these.txt", "n=2", "out=more.jsonl", f"database={address}")
    assert typed(capsys, "prompts", *words)[0] == 0
    assert set(PromptSet.read("more.jsonl").texts) == {"3+4=7", "5+6=11"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["out=x.jsonl"], "no source is given"),
        (["data.jsonl"], "no out is given"),
        (["data.jsonl", "out=x.csv"], "out is 'x.csv'"),
        (["data.jsonl", "out=x.jsonl", "min_token=3"], "prompts has no key 'min_token'"),
        (["data.jsonl", "out=x.jsonl", "n=many"], "n is 'many'"),
        (["data.jsonl", "out=x.jsonl", "n=-1"], "n is -1"),
        (["data.jsonl", "out=x.jsonl", "text=q.txt"], "data.jsonl, line 1: there is no field 'q.txt'"),
        (["data.jsonl", "out=x.jsonl", "text=q.text", "n=9"], "cannot sample 9 of 5"),
        (["data.jsonl", "out=x.jsonl", "text=q.text", "like=x"], "like= without n="),
        (["data.jsonl", "out=x.jsonl", "text=q.text", "like=x", "n=1", "endpoint=ollama"], "endpoint is 'ollama'"),
        (["data.jsonl", "out=x.jsonl", "text=q.text", "min_tokens=99"], "no text has 99 to any number of tokens"),
    ],
)
def test_mistakes_of_prompts(words, message, data, capsys):
    status, out, err = typed(capsys, "prompts", *words)
    assert (status, out) == (2, "")
    assert message in err
    assert not (data / "x.jsonl").exists()


def test_defaults_of_prompts():
    assert PromptsCommand.of(["a", "out=b.jsonl"]).text == "text"
