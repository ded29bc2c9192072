"""Problems that are too long for the model's context: refused, left out or cut, and counted where the run is told."""

import json

import pytest
from study_toys import stage_result

import mechsteer as ms
from mechsteer import cli
from mechsteer.models import tokenize

SMALL = ["traces.n_problems=20", "traces.n_dev=4", "traces.n_samples=1", "traces.n_dev_samples=1", "max_new_tokens=8"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Sixty problems, every third too long."""
    path = tmp_path_factory.mktemp("data") / "problems.jsonl"
    rows = [
        {"question": f"Problem {i}: {'apple ' * (900 if i % 3 == 0 else 3)}?", "answer": f"So.\n#### {i}"}
        for i in range(60)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def traces(data, folder, *more):
    assert cli.main(["traces", f"out={folder}", f"data={data}", *SMALL, *more]) == 0
    return stage_result(folder, "traces"), [
        json.loads(line)
        for split in ("train", "dev")
        for line in (folder / f"traces-{split}.jsonl").read_text().splitlines()
    ]


def is_long(trace):
    return int(trace["prompt"].split()[2].rstrip(":")) % 3 == 0


def test_refused_unless_the_study_is_told(data, tmp_path, capsys):
    assert cli.main(["traces", f"out={tmp_path / 'run'}", f"data={data}", *SMALL]) == 2
    told = capsys.readouterr().err
    assert "of 20 texts are too long for the context of" in told
    assert "train split" in told
    assert "truncate=drop leaves them out" in told


def test_left_out(data, tmp_path):
    result, written = traces(data, tmp_path / "run", "truncate=drop")
    assert result["cut"] == 0
    assert 0 < result["left_out"] < 24
    assert len(written) == 24 - result["left_out"]
    assert not any(is_long(trace) for trace in written)
    page = (tmp_path / "run" / "report.md").read_text()
    assert f"{result['left_out']} were too long for the context and left out" in page


def test_cut_at_an_end(data, tmp_path):
    model = ms.load_model("pocket")
    for side in ("right", "left"):
        result, written = traces(data, tmp_path / side, f"truncate={side}")
        assert result["left_out"] == 0
        assert len(written) == 24
        sizes = [len(tokenize(model, [trace["prompt"]])[0]) for trace in written]
        assert result["cut"] == sum(size > 100 for size in sizes) > 0
        assert max(sizes) == model.cfg.n_ctx - 8  # what is to be written has its room
        assert all(trace["prompt"].startswith("Question: Problem") for trace in written) == (side == "right")
        assert all(trace["prompt"].endswith("Answer:") for trace in written) == (side == "left")
        assert f"Of {result['cut']} problems only a part was given" in (tmp_path / side / "report.md").read_text()


def test_texts_are_cut_after_their_first_tokens_anyway(data, tmp_path):
    path = tmp_path / "texts.json"
    path.write_text(json.dumps([f"{i} {'word ' * (900 if i % 3 == 0 else 3)}" for i in range(60)]))
    result, written = traces(path, tmp_path / "run")
    assert result["left_out"] == 0
    assert result["cut"] == sum(int(trace["prompt"].split()[0]) % 3 == 0 for trace in written) > 0
