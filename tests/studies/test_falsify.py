"""`mechsteer falsify` on a run folder: classes beside features, neutral texts of one's own."""

import json

import extras
import pytest
from study_toys import TEXTS, prompts_file, stage_result

from mechsteer import cli
from mechsteer.errors import DataError
from mechsteer.studies.falsify import neutral

CHEAP = ["adapter.epochs=1", "falsify.n_texts=10", "falsify.n_boot=50", "sae.seeds=1", "sae.n_tokens=2000"]
KINDS = {"token-driven", "partly token-driven", "context-driven", "unclear"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    extras.require_sae_lens()
    folder = tmp_path_factory.mktemp("falsify")
    words = folder / "words.json"
    words.write_text(json.dumps({"is": ["is"], "says": ["says"]}))
    options = [option for option in TEXTS if not option.startswith(("adapter.epochs", "sae."))]
    given = [f"data={prompts_file(folder / 'texts.json')}", f"vocabulary={words}", *options, *CHEAP]
    assert cli.main(["falsify", f"out={folder / 'run'}", "sae.d_sae=32", "sae.k=4", *given]) == 0
    return folder / "run"


def test_every_feature_of_the_report_has_a_class(run):
    found = stage_result(run, "falsify")["falsification"]
    top = [feature["feature"] for feature in stage_result(run, "reasonscore")["top"]]
    assert [row["feature"] for row in found["features"]] == top
    assert {row["kind"] for row in found["features"]} <= KINDS
    assert all(len(row["effects"]) == 6 for row in found["features"] if row["f_max"] > 0)
    page = (run / "report.md").read_text()
    assert "Are they features of reasoning, or of tokens?" in page
    assert "| class |" in page
    assert "not tested" not in page
    assert not (run / "stages" / "evaluate.json").exists()


def test_texts_of_ones_own_run_it_again(run, tmp_path, capsys):
    own = tmp_path / "own.txt"
    own.write_text("\n".join(f"the cat and the dog sleep in the garden, number {i}" for i in range(9)))
    assert cli.main(["falsify", f"out={run}", f"falsify.text={own}"]) == 0
    assert json.loads(capsys.readouterr().out)["falsification"]["neutral"] == "lines of own.txt"


def test_neutral_texts_hold_no_sums():
    texts, named = neutral(None, 20, seed=1)
    assert len(texts) == 20
    assert "without sums" in named
    assert not any(char.isdigit() or "Statement:" in text for text in texts for char in text)
    assert neutral(None, 20, seed=1)[0] == texts != neutral(None, 20, seed=2)[0]


def test_a_short_file_is_refused(tmp_path):
    (tmp_path / "few.txt").write_text("one\n\ntwo\n")
    with pytest.raises(DataError, match="holds 2 texts"):
        neutral(str(tmp_path / "few.txt"), 10, seed=0)
