"""Every analysis: headings, commands that parse, figures that are the answer's; the frame's rule, cells and verification."""

import math
import re
import shlex
from dataclasses import replace
from pathlib import Path

import common
import pages
import pytest
import verify
import yaml
from common import Cells, Claim, Finding, Found, Settled

from mechsteer.errors import ConfigError, DataError, FileFormatError
from mechsteer.results import to_json

FOLDERS = sorted(path.parent for path in common.HERE.glob("*/run.py"))
ROOT = common.HERE.parent


@pytest.fixture(params=FOLDERS, ids=lambda folder: folder.name)
def folder(request):
    return request.param


def test_every_folder_has_its_four_files(folder):
    assert {path.name for path in folder.iterdir()} >= {"README.md", "config.yaml", "run.py", "answer.json"}
    assert (folder / "run.py").read_text("utf-8").count("\n") <= 200
    assert "quick" in yaml.safe_load((folder / "config.yaml").read_text("utf-8"))


def test_the_headings_are_there(folder):
    found = re.findall(r"^## (.+)$", (folder / "README.md").read_text("utf-8"), flags=re.M)
    assert tuple(found) == pages.HEADINGS


def test_every_claim_is_quoted_in_the_readme(folder):
    text = (folder / "README.md").read_text("utf-8")
    for claim in verify.load(folder).CLAIMS:
        assert claim.text in text
        assert claim.key in text


@pytest.mark.parametrize("readme", sorted(common.HERE.rglob("README.md")), ids=lambda path: path.parent.name)
def test_every_command_parses(readme):
    text = readme.read_text("utf-8")
    (block, *more) = re.findall(r"```bash\n(.*?)```", text, flags=re.S)
    assert not more
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for line in block.splitlines():
        program, *words = shlex.split(line, comments=True)
        if program == "make":
            assert re.search(rf"^{words[0]}:", makefile, flags=re.M)
            continue
        assert program == "python"
        assert (ROOT / words[0]).is_file()
        if words[0].endswith("run.py"):
            common.resolve((ROOT / words[0]).parent, words[1:])
        else:
            assert (common.HERE / words[1] / "run.py").is_file()


def test_the_readmes_figures_are_the_answers(folder):
    answer = common.read_answer(folder / "answer.json")
    assert [each.claim for each in answer.settled] == list(verify.load(folder).CLAIMS)
    for path, block in (
        (folder / "README.md", pages.answer_block(answer)),
        (common.HERE / "README.md", pages.table(pages.answers())),
    ):
        text = path.read_text("utf-8")
        assert pages.filled(text, block, path) == text
    for each in answer.settled:
        assert each.outcome in common.OUTCOMES
        assert each.outcome == each.claim.outcome(each.finding)


CLAIM = Claim(key="a", text="a holds", source="nobody", decides="more than one half", bound=0.5)


def finding(value=0.7, low=0.6, high=0.8, **more):
    return Finding(**({"value": value, "low": low, "high": high, "n_seeds": 5, "null": "none"} | more))


@pytest.mark.parametrize(
    ("low", "high", "at_least", "at_most"),
    [
        (0.6, 0.8, "holds", "does not hold"),
        (0.2, 0.4, "does not hold", "holds"),
        (0.4, 0.6, "undecided at this power", "undecided at this power"),
        (0.5, 0.5, "holds", "holds"),
        (math.nan, 0.6, "not testable here", "not testable here"),
    ],
)
def test_the_rule(low, high, at_least, at_most):
    measured = finding((low + high) / 2, low, high)
    assert CLAIM.outcome(measured) == at_least
    assert replace(CLAIM, at_most=True).outcome(measured) == at_most
    assert CLAIM.outcome(replace(measured, outcome="holds")) == "holds"


def test_few_seeds_decide_nothing():
    assert CLAIM.outcome(finding(n_seeds=4)) == "undecided at this power"


def test_settings_come_from_the_file_the_quick_part_and_the_command_line(tmp_path):
    (tmp_path / "config.yaml").write_text("seeds: 5\nmodel: pocket\nks: [1, 2]\nquick:\n  seeds: 1\n", "utf-8")
    assert common.resolve(tmp_path, [])[0] == {"seeds": 5, "model": "pocket", "ks": [1, 2]}
    settings, own = common.resolve(tmp_path, ["quick=true", "model=tiny", "ks=[4]"])
    assert settings == {"seeds": 1, "model": "tiny", "ks": [4]}
    assert own["quick"] is True
    assert common.changed(tmp_path, settings) == ["seeds=1", "model=tiny", "ks=[4]"]
    for argument, told in (
        ("sed=3", "unknown key 'sed'"),
        ("seeds", "'seeds' is no setting"),
        ("seeds=many", "seeds is 'many'"),
        ("seeds=true", "seeds is True"),
        ("seeds=0", "seeds is 0"),
    ):
        with pytest.raises(ConfigError, match=told):
            common.resolve(tmp_path, [argument])
    (tmp_path / "config.yaml").write_text("model: pocket\n", "utf-8")
    with pytest.raises(ConfigError, match="no key seeds"):
        common.resolve(tmp_path, [])


def test_cells_are_computed_once_also_after_damage(tmp_path):
    calls = []

    def compute():
        calls.append(1)
        return {"value": math.nan, "n": len(calls)}

    cells = Cells(tmp_path)
    first = cells.of({"seed": 0}, compute)
    assert math.isnan(first["value"])
    assert cells.of({"seed": 0}, compute)["n"] == 1
    assert cells.of({"seed": 1}, compute)["n"] == 2
    for path in tmp_path.iterdir():
        path.write_text("{}", "utf-8")
    assert Cells(tmp_path).of({"seed": 0}, compute)["n"] == 3


def analysis(tmp_path: Path, found: Found):
    folder = tmp_path / "some_claim"
    folder.mkdir(exist_ok=True)
    (folder / "config.yaml").write_text("seeds: 2\nquick: {}\n", "utf-8")
    own = common.OWN | {"out": str(tmp_path / "run")}
    return verify.settle(folder, [CLAIM], lambda settings, cells: found, {"seeds": 2}, own)


def test_an_answer_is_written_read_and_equal_in_bytes(tmp_path):
    found = Found(
        findings={"a": finding()}, model="tiny", links=("../x",), tables={"t": [{"<i>evil": 1.0, "n": "</script><i>"}]}
    )
    answer, out = analysis(tmp_path, found)
    assert answer.settled[0].outcome == "holds"
    assert common.read_answer(out / "answer.json") == answer
    page = (out / "report.html").read_text("utf-8")
    assert "a holds" in page
    assert "<i>" not in page
    before = {path.name: path.read_bytes() for path in out.glob("*.*")}
    analysis(tmp_path, found)
    assert {path.name: path.read_bytes() for path in out.glob("*.*")} == before
    with pytest.raises(DataError, match="nothing was found for \\['a'\\]"):
        analysis(tmp_path, Found(findings={}, model="tiny"))
    own_rule = replace(found, findings={"a": finding(outcome="not testable here")})
    assert analysis(tmp_path, own_rule)[0].settled[0].outcome == "not testable here"


@pytest.mark.parametrize(
    ("after", "same_machine", "told"),
    [
        (finding(0.71, 0.61, 0.81), True, "same"),
        (finding(0.75, 0.65, 0.85), True, "different"),
        (finding(0.75, 0.65, 0.85), False, "undecidable"),
        (finding(0.3, 0.2, 0.4), False, "different"),
        (finding(0.7, 0.4, 0.8), True, "different"),  # another outcome
        (finding(0.7, 0.4, 0.8), False, "undecidable"),
    ],
)
def test_verification(after, same_machine, told):
    before = Settled.of(CLAIM, finding())
    assert verify.compare(before, Settled.of(CLAIM, after), same_machine=same_machine) == told


def test_a_claim_without_an_answer_is_told_and_agrees_with_nothing():
    waiting = common.unanswered(CLAIM)
    assert waiting.outcome == "not run yet"
    assert waiting.outcome == CLAIM.outcome(waiting.finding)
    assert verify.compare(waiting, Settled.of(CLAIM, finding()), same_machine=True) == "undecidable"
    assert verify.compare(waiting, waiting, same_machine=True) == "undecidable"


COUNTING = """
from common import Claim, Finding, Found

CLAIMS = (Claim(key="a", text="a holds", source="nobody", decides="more than one half", bound=0.5, least_seeds=1),)


def measure(settings, cells):
    value = cells.of({"seeds": settings["seeds"]}, lambda: {"value": VALUE})["value"]
    kept = cells.of({"kept in": settings["study"]}, lambda: {"study": settings["study"]})["study"]
    finding = Finding(value=value, low=value - 0.1, high=value + 0.1, n_seeds=settings["seeds"], null="none")
    return Found(findings={"a": finding}, model="tiny", figures={"study": kept})
"""


@pytest.fixture
def counting(tmp_path, monkeypatch):
    """An analysis of one claim whose value is written in its run.py: counting(value) writes it."""
    folder = tmp_path / "analyses" / "counting"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("seeds: 5\nstudy: runs/first\nquick: {}\n", "utf-8")
    monkeypatch.setattr(verify, "HERE", tmp_path / "analyses")
    monkeypatch.chdir(tmp_path)

    def write(value):
        (folder / "run.py").write_text(COUNTING.replace("VALUE", str(value)), "utf-8")
        return folder

    return write


def test_verification_computes_again(counting, capsys):
    folder = counting(0.8)
    module = verify.load(folder)
    answer, out = verify.settle(folder, module.CLAIMS, module.measure, {"seeds": 3, "study": "runs/first"}, common.OWN)
    assert answer.command == "python analyses/counting/run.py seeds=3"
    (folder / "answer.json").write_bytes((out / "answer.json").read_bytes())
    assert verify.main(["counting"]) == 0
    again = Path("runs/analyses/counting-again")
    assert common.read_answer(again / "answer.json").figures == {
        "study": str(again / "study")
    }  # not the one that is kept
    counting(0.75)  # another value: what the first verification kept says nothing
    assert verify.main(["counting"]) == 1
    told = capsys.readouterr().out
    assert "different    a                      0.800 [0.700, 0.900] -> 0.750 [0.650, 0.850]" in told
    assert verify.main(["counting", "--answer", str(out / "answer.json")]) == 1
    (again / "answer.json").unlink()  # interrupted: what it had computed is read back
    counting(0.8)
    assert verify.main(["counting"]) == 1


def test_what_cannot_be_verified_is_told(counting, capsys):
    folder = counting(0.8)
    module = verify.load(folder)
    answer, out = verify.settle(folder, module.CLAIMS, module.measure, {"seeds": 3, "study": "x"}, common.OWN)
    mine = ["counting", "--answer", str(out / "answer.json")]

    def error():
        assert verify.main(mine) == 2
        return capsys.readouterr().err

    (folder / "config.yaml").write_text("seeds: 5\nstudy: x\nmodel: pocket\nquick: {}\n", "utf-8")
    assert "now differ in ['model']" in error()
    (folder / "run.py").write_text(COUNTING.replace("bound=0.5", "bound=0.6"), "utf-8")
    assert "answers other claims" in error()
    (out / "answer.json").write_text(to_json(replace(answer, analysis="other")), "utf-8")
    assert "answers other" in error()
    mine[-1] = "runs/analyses/counting-again/answer.json"
    assert "no answer at" in error()


def test_what_is_missing_is_told(capsys, tmp_path):
    assert verify.main(["no_such_analysis"]) == 2
    assert "planted_mechanisms" in capsys.readouterr().err
    with pytest.raises(FileFormatError, match="no answer"):
        common.read_answer(tmp_path / "answer.json")
    with pytest.raises(FileFormatError, match="no markers"):
        pages.filled("text", "block", tmp_path)


def test_planted_mechanisms_run_quick(tmp_path, monkeypatch, capsys):
    folder = common.HERE / "planted_mechanisms"
    module = verify.load(folder)
    monkeypatch.setattr(module, "COMPETITORS", ("default", "gradient x delta", "encoder difference", "cosine"))
    arguments = ["quick=true", "families=[linear,illusions,nulls]", f"out={tmp_path}"]
    assert module.main(str(folder / "run.py"), module.CLAIMS, module.measure, arguments) == 0
    lines = capsys.readouterr().out
    answer = common.read_answer(tmp_path / "answer.json")
    outcomes = {each.claim.key: each.outcome for each in answer.settled}
    assert outcomes["finds what carries"] == "undecided at this power"  # one seed is one seed
    assert outcomes["finds saturated"] == "not testable here"  # left out of the families
    values = {each.claim.key: each.finding.value for each in answer.settled}
    assert values["finds what carries"] == values["nothing is nothing"] == 1
    assert values["likeness tells"] < 0.95
    assert all(key in lines for key in outcomes)
    assert module.main(str(folder / "run.py"), module.CLAIMS, module.measure, ["sed=1"]) == 2
