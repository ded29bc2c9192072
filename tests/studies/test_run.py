"""A run folder: finished stages are read back, what changed runs again and is named, damage is never read."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from study_toys import opened, result, toy

from mechsteer.errors import ConfigError, FileFormatError, StorageError
from mechsteer.studies.graph import Declaration
from mechsteer.studies.run import Stage


def test_needs_run_first_and_nothing_runs_twice(tmp_path):
    calls = []
    made = result(tmp_path, calls)
    assert made["words"] == ["one", "two"]
    assert calls == ["first", "second"]
    assert result(tmp_path, calls) == made
    assert calls == ["first", "second"]
    (tmp_path / "stages" / "second.json").unlink()
    assert result(tmp_path, calls) == made
    assert calls == ["first", "second", "second"]


def test_the_folder_keeps_its_settings(tmp_path):
    result(tmp_path, [], "seed=7", "adapter.lr=0.5")
    calls = []
    assert result(tmp_path, calls)["of"]["seed"] == 7
    with opened(tmp_path, calls) as run:
        assert (run.settings.seed, run.settings.adapter.lr) == (7, 0.5)
    assert calls == []


def test_a_changed_key_reruns_what_it_concerns_and_names_it(tmp_path):
    result(tmp_path, [])
    calls, said = [], []
    result(tmp_path, calls, "adapter.lr=0.5", said=said)
    assert calls == ["second"]
    assert "second runs again: adapter.lr changed" in said
    calls, said = [], []
    result(tmp_path, calls, "seed=1", said=said)
    assert calls == ["first", "second"]
    assert {"first runs again: seed changed", "second runs again: what first gave changed"} <= set(said)
    calls = []
    result(tmp_path, calls, "seed=1", "batch_size=3", "heatmap.text=x", "device=cpu")  # no stage's concern
    assert calls == []


def test_another_model_reruns_all_and_is_named(tmp_path):
    result(tmp_path, [])
    calls, said = [], []
    result(tmp_path, calls, said=said, model="another")
    assert calls == ["first", "second"]
    assert any("first runs again: it was made with another model" in text for text in said)


def test_what_a_file_holds_counts_as_its_name_does(tmp_path):
    words = tmp_path / "words.yaml"
    words.write_text("a: [b]\n")
    result(tmp_path / "run", [], f"vocabulary={words}")
    words.write_text("a: [c]\n")
    calls, said = [], []
    result(tmp_path / "run", calls, said=said)
    assert calls == ["second"]
    assert "second runs again: vocabulary changed" in said


def test_a_stage_can_be_run_again(tmp_path):
    result(tmp_path, [], "seed=4")
    calls = []
    result(tmp_path, calls, again={"second"})
    assert calls == ["second"]
    with opened(tmp_path, calls, again={"first", "second"}) as run:
        assert run.settings.seed == 0  # all of it: the settings too are those given


def test_stages_made_with_other_settings_are_left_out_of_the_report(tmp_path):
    result(tmp_path, [])
    result(tmp_path, [], "seed=1", name="first")
    said = []
    with opened(tmp_path, [], said=said) as run:
        assert set(run.finished()) == {"first"}
    assert any("second is left out: what first gave changed" in text for text in said)


def test_a_lost_file_is_named_and_made_again(tmp_path):
    made = result(tmp_path, [])
    (tmp_path / "numbers.json").unlink()
    calls, said = [], []
    assert result(tmp_path, calls, said=said) == made
    assert calls == ["first"]  # it came out as it was, so the second stands
    assert any("numbers.json is gone" in text for text in said)


def test_a_changed_file_is_refused_with_the_stage_that_makes_it(tmp_path):
    made = result(tmp_path, [])
    (tmp_path / "numbers.json").write_text("three\n")
    with pytest.raises(
        FileFormatError, match=r"numbers\.json is not as first wrote it(?s:.*)mechsteer first out=.* --again"
    ):
        result(tmp_path, [])
    assert result(tmp_path, [], again={"first"}) == made


def test_a_damaged_stage_file_is_named_with_the_stage_that_makes_it(tmp_path):
    result(tmp_path, [])
    path = tmp_path / "stages" / "first.json"
    path.write_text('{"half')
    with pytest.raises(FileFormatError, match=r"first\.json is damaged(?s:.*)mechsteer first out=.* --again"):
        result(tmp_path, [])


@pytest.mark.parametrize("error", [ConfigError("no"), KeyboardInterrupt()])
def test_a_first_stage_that_fails_leaves_nothing(tmp_path, error):
    def fail(_desk) -> dict[str, Any]:
        raise error

    stages = {"first": Stage(declared=Declaration(about="first", keys=()), function=fail)}
    (tmp_path / "mine").mkdir()
    for folder in (tmp_path / "mine", tmp_path / "new"):
        with pytest.raises(type(error)):
            result(folder, [], stages=stages, name="first")
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]
    assert not list((tmp_path / "mine").iterdir())


def test_a_later_stage_that_fails_keeps_what_is_done_and_the_settings(tmp_path):
    calls = []
    result(tmp_path, calls, name="first")
    with pytest.raises(ZeroDivisionError):
        result(tmp_path, calls, "adapter.lr=0.5", stages=toy(calls, fail=ZeroDivisionError()))
    with opened(tmp_path, calls) as run:
        assert run.settings.adapter.lr is None
        run.result("second")
    assert calls == ["first", "second", "second"]


def with_pieces(computed, *, stop):
    def stage(desk) -> dict[str, Any]:
        def piece(i):
            computed.append(i)
            if len(computed) == stop:
                raise KeyboardInterrupt
            return [i, 0.1 + 0.2]

        return {"pieces": [desk.piece(f"{i}", lambda i=i: piece(i)) for i in range(3)]}

    return {"first": Stage(declared=Declaration(about="first", keys=("seed",)), function=stage)}


def test_pieces_outlive_an_interruption_and_go_when_the_stage_is_done(tmp_path):
    computed = []
    stages = with_pieces(computed, stop=2)
    with pytest.raises(KeyboardInterrupt):
        result(tmp_path, [], "seed=5", stages=stages, name="first")
    assert result(tmp_path, [], stages=stages, name="first") == {"pieces": [[i, 0.1 + 0.2] for i in range(3)]}
    assert computed == [0, 1, 1, 2]
    assert not list((tmp_path / "checkpoints").iterdir())
    with opened(tmp_path, [], stages=stages) as run:
        assert run.settings.seed == 5  # there was something to resume, so the settings were kept


def test_pieces_of_other_settings_and_damaged_ones_are_not_used(tmp_path):
    computed = []
    with pytest.raises(KeyboardInterrupt):
        result(tmp_path, [], stages=with_pieces(computed, stop=3), name="first")
    (piece,) = tmp_path.glob("checkpoints/*/1.json")
    piece.write_text(piece.read_text().replace("1,", "7,"))
    with pytest.raises(KeyboardInterrupt):
        result(tmp_path, [], stages=with_pieces(computed, stop=5), name="first")
    assert computed == [0, 1, 2, 1, 2]
    computed.clear()
    result(tmp_path, [], "seed=1", stages=with_pieces(computed, stop=9), name="first")
    assert computed == [0, 1, 2]


@pytest.mark.parametrize(
    "ask", [lambda desk: desk.read("x"), lambda desk: desk.write("x"), lambda desk: desk.settings.sae.k]
)
def test_anything_undeclared_is_refused(tmp_path, ask):
    def nosy(desk) -> dict[str, Any]:
        return ask(desk)

    stages = {"first": Stage(declared=Declaration(about="first", keys=("seed",)), function=nosy)}
    with pytest.raises(AssertionError, match="does not declare"):
        result(tmp_path, [], stages=stages, name="first")


HOLD = """
import sys
from pathlib import Path
from typing import Any
from mechsteer.files import folder_lock
with folder_lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_two_processes_on_one_folder(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(StorageError, match=f"in use by process {other.pid}"):
            result(tmp_path, [])
        assert not (tmp_path / "stages").exists()
        other.kill()
        other.wait()
        assert (tmp_path / ".lock").exists()  # what it left is taken over
        assert result(tmp_path, [])["words"]
    assert not (tmp_path / ".lock").exists()


def test_seeds_differ_by_purpose_and_not_by_run(tmp_path):
    a, b = (result(tmp_path / name, [], name="first") for name in "ab")
    assert a == b
    assert a["draw"] != result(Path(tmp_path / "a"), [], "seed=1", name="first")["draw"]


def test_what_a_killed_process_had_begun_to_write_is_cleared(tmp_path):
    result(tmp_path, [])
    for place in (tmp_path, tmp_path / "stages"):
        (place / ".timings.json.1.partial").write_text("{")
    result(tmp_path, [])
    assert not list(tmp_path.rglob("*.partial"))
