"""`mechsteer mix`: three texts, the page, what a terminal shows, and every mistake one message with status 2."""

from __future__ import annotations

import io
import re

import extras
import pytest
import torch
import toys
from mixing_toys import GENERATED, PROMPT, K, dictionary

import mechsteer as ms
from mechsteer import cli
from mechsteer.adapters import Dictionary
from mechsteer.equaliser import MixCommand, mix, mix_command, page
from mechsteer.equaliser.command import gains_of
from mechsteer.equaliser.terminal import LiveBars, bar_lines
from mechsteer.errors import ConfigError
from mechsteer.steering import atoms_of, gain_presets, mixed, read_steering, save_gain_preset
from tests.report.test_report import Parsed

HOW = {"max_new_tokens": 8, "stop_tokens": ()}
TEXT, MIA = "Hello there", "Mia is sad at home. Mia says:"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a steering file of the toy model, d.safetensors, which keeps a preset."""
    monkeypatch.chdir(tmp_path)
    model = ms.load_model(toys.folder("llama"))
    ms.save_steering(dictionary(), "d.safetensors", model)
    ms.save_steering(ms.Intervention(ms.adapters.Static(toys.vector(1)), 1), "s.safetensors", model)
    save_gain_preset("d.safetensors", "calm", [0, 0, 0.5, 0])
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "s.safetensors").read_bytes()[:300])
    return tmp_path


def said(arguments, capsys, status=0):
    capsys.readouterr()
    assert cli.main(["mix", *arguments]) == status
    told = capsys.readouterr()
    return told.err if status else told.out


@pytest.mark.parametrize("backend", ["bridge", "hooked"])
def test_three_texts(backend):
    if backend == "hooked" and not extras.has_hooked():
        pytest.skip(extras.NO_HOOKED)
    model, site = ms.load_model("pocket", backend=backend), ms.Site(0.75)
    happy = ms.directions.extract(model, ms.pocket.contrast_pairs("happy", 16, seed=0), site, "mean_difference")
    adapter = Dictionary(model.cfg.d_model, model.cfg.d_model, n_atoms=2, weighting="sigmoid")
    with torch.no_grad():
        for p in adapter.router.parameters():
            p.zero_()
        adapter.atoms[1] = 9 * happy.vector  # at a weight of a half
    trained = ms.Intervention(adapter, site)
    wanted = mixed(trained, {1: 0.5})
    result = mix(model, wanted, MIA, **HOW)
    assert [result.base, result.trained, result.mixed] == [
        ms.generate(model, [MIA], s, **HOW).texts[0] for s in ((), trained, wanted)
    ]
    assert "hate" in result.base
    assert "good" in result.trained
    assert result.mixed not in (result.base, result.trained)
    assert result.weights.means().tolist() == [0.5, 0.5]
    off = mix(model, mixed(wanted, "off"), MIA, **HOW)
    assert off.mixed == off.base == result.base
    on = mix(model, mixed(wanted, "trained"), MIA, **HOW)
    assert on.mixed == on.trained == result.trained


def test_drawn_tokens_have_one_seed():
    model = toys.shared("llama")
    drawn = mix(model, mixed(dictionary(), "off"), PROMPT, temperature=1.0, seed=3, **HOW)
    assert drawn.mixed == drawn.base != drawn.trained


def test_the_page_shows_everything_and_escapes_it():
    model = toys.shared("llama")
    result = mix(model, mixed(dictionary(), {0: 0}), "</script><img src=x onerror=alert(1)>", **HOW)
    report = page(result, file="<d>.safetensors", command="mechsteer mix '<b>'")
    parsed = Parsed(report.to_html())
    assert not [tag for tag, _ in parsed.elements if tag in ("img", "b", "d")]
    assert not [key for _, attributes in parsed.elements for key in attributes if key.startswith("on")]
    assert len(parsed.raw["script"]) == 3  # circuitsvis, its calls, our own
    text = report.to_html()
    for part in (
        "The texts",
        "trained",
        "mixed",
        "Mean weight of each atom",
        "token-bars",
        "Token heatmaps of the 3 atoms",
    ):
        assert part in text
    assert text.count("CircuitsVis.render(") == 3
    assert not re.search(r"""(?:src|href)=["']?https?:""", text)


def test_a_file_alone_is_a_table(here, capsys):
    told = said(["d.safetensors"], capsys)
    assert re.search(r"^2 +resid_post@1 +1\.00 +\d", told, re.MULTILINE)
    for line in ("trained: [1, 1, 1, 1]", "off: [0, 0, 0, 0]", "calm: [0, 0, 0.5, 0]"):
        assert f"  {line}\n" in told
    told = said(["d.safetensors", "preset=calm", "gains={0:2}"], capsys)
    assert [line.split()[2] for line in told.splitlines()[1:5]] == ["2.00", "0.00", "0.50", "0.00"]
    assert sorted(p.name for p in here.iterdir()) == ["cut.safetensors", "d.safetensors", "s.safetensors"]


def test_gains_are_kept_and_written(here, capsys):
    before = (here / "d.safetensors").read_bytes()
    told = said(["d.safetensors", "gains=[1,0,0,2]", "out=new/n.safetensors"], capsys)
    assert "steering: new/n.safetensors" in told
    assert (here / "d.safetensors").read_bytes() == before
    assert atoms_of(read_steering("new/n.safetensors")).gains == (1, 0, 0, 2)
    said(["new/n.safetensors", "save_preset=loud"], capsys)
    assert gain_presets("new/n.safetensors") == {"calm": (0, 0, 0.5, 0), "loud": (1, 0, 0, 2)}


def test_a_text_is_written_three_times(here, capsys):
    how = [f"model={toys.folder('llama')}", f"text={TEXT}", "max_new_tokens=6"]
    told = said(["d.safetensors", "preset=calm", "page=p/mix.html", *how], capsys)
    assert re.search(r"base:.*\ntrained:.*\nmixed:.*\n\nmean weight", told, re.DOTALL)
    assert "page: p/mix.html" in told
    html = (here / "p" / "mix.html").read_text()
    assert "preset=calm" in html
    assert TEXT in html
    model = ms.load_model(toys.folder("llama"))
    steering = mixed(ms.load_steering("d.safetensors", model), [0, 0, 0.5, 0])
    expected = mix(model, steering, TEXT, max_new_tokens=6)
    assert page(expected, file="d.safetensors", command="x").to_html().count(expected.mixed) == html.count(
        expected.mixed
    )


def test_a_terminal_is_drawn_on_and_left_clean(here):
    stream = io.StringIO()
    words = ["d.safetensors", f"model={toys.folder('llama')}", f"text={TEXT}", "max_new_tokens=3"]
    told = mix_command(words, stream)
    assert "\x1b" not in told
    drawn = stream.getvalue()
    assert drawn.count("█") > 3
    assert drawn.count("\x1b[0J") >= 1
    ups = [int(n) for n in re.findall(r"\x1b\[(\d+)A", drawn)]
    assert set(ups) == {K + 1}  # the text and a line for each atom
    assert drawn.count("\n") == sum(ups)  # every line that was drawn is taken away
    assert mix_command(words) == told


def test_bars_of_a_terminal():
    lines = bar_lines(["a", "long \x1b[2J name"], [1.0, 0.5])
    assert [line.count("█") for line in lines] == [30, 15]
    assert not any("\x1b" in line for line in lines)
    assert len({line.index("█") for line in lines}) == 1
    assert bar_lines(["a"], [float("nan")])[0].endswith(".")
    assert bar_lines(["a"], [7.0])[0].count("█") == 30
    stream = io.StringIO()
    with LiveBars(stream, ["a"]) as live:
        live("x\x1b[2J" + "y" * 90, torch.tensor([0.5]))
    assert stream.getvalue().count("\x1b") == 2  # its own: up, and clear


WRONG = [
    (["d.safetensors", "gains=[1,2]"], "2 gains for 4 atoms"),
    (["d.safetensors", "gains=[1,1,1,nan]"], "the gains are [1.0, 1.0, 1.0, nan]"),
    (["d.safetensors", "gains={9:1}"], "there is no atom 9"),
    (["d.safetensors", "gains=[1,x]"], "gains is '[1,x]'"),
    (["d.safetensors", "gains=[1,1"], "gains is '[1,1'"),
    (["d.safetensors", "gains={1}"], "gains is '{1}'"),
    (["d.safetensors", "gains=1:0", "gains=2:0"], "in quotes, which a shell leaves alone"),
    (["d.safetensors", "preset=clam"], "the nearest are ['calm'"),
    (["d.safetensors", "preset=calm", "gains=[1,1,1,1]"], "both a preset and all gains"),
    (["d.safetensors", "save_preset=off", "text=a"], "every steering has a preset 'off'"),
    (["d.safetensors", "out=new.bin"], "ends in .safetensors"),
    (["d.safetensors", "max_new_tokens=none"], "max_new_tokens is 'none'"),
    (["d.safetensors", "texts=a"], "mix has no key 'texts'"),
    (["d.safetensors", "text="], "text is ''"),
    (["d.safetensors", "s.safetensors"], "file is given twice"),
    (["d.safetensors", "--again"], "file is given twice"),
    (["--again"], "file is '--again'"),
    (["cut.safetensors"], "truncated or no safetensors file"),
    (["s.safetensors"], "no adapter of this steering has atoms"),
    (["d.safetensors", "text=a", "model=MODEL"], "was made for another model"),
    (["d.safetensors", "--import=no_such_module"], "cannot import 'no_such_module'"),
    (["d.safetensors", "text=a", "model=OWN", "page=s.safetensors/p.html"], "s.safetensors"),
    (["d.safetensors", "text=a", "model=OWN", "max_new_tokens=9999", "save_preset=x"], "exceed the context"),
]


@pytest.mark.parametrize(("arguments", "words"), WRONG, ids=[" ".join(arguments) for arguments, _ in WRONG])
def test_a_wrong_call_is_one_message_and_changes_nothing(arguments, words, here, capsys):
    folders = {"MODEL": toys.folder("gpt2"), "OWN": toys.folder("llama")}
    given = [re.sub("MODEL|OWN", lambda m: str(folders[m[0]]), word) for word in arguments]
    before = {p.name: p.read_bytes() for p in here.iterdir()}
    told = said(given, capsys, status=2)
    assert words in told
    assert told.count("error: ") == told.count("\n\nhint: ") == 1
    assert {p.name: p.read_bytes() for p in here.iterdir()} == before


def test_gains_as_they_are_written():
    assert gains_of("[1, 0,-.5]") == gains_of("1,0,-0.5") == [1, 0, -0.5]
    assert gains_of("{3: 0, 1:2}") == gains_of("3:0,1:2") == {3: 0, 1: 2}
    command = MixCommand.of(["f", "text=a=b, [c]", "gains=1:0"])
    assert (command.text, command.gains, command.model) == ("a=b, [c]", {1: 0.0}, "pocket")
    with pytest.raises(ConfigError, match="gains is ''"):
        gains_of("")


def test_help_tells_every_key(capsys):
    assert cli.main(["mix", "--help"]) == 0
    told = capsys.readouterr().out
    for key in MixCommand.__dataclass_fields__:
        assert key == "file" or f"  {key}=" in told


def test_scope_is_kept():
    assert mixed(dictionary(), "off").interventions[0].scope == GENERATED
