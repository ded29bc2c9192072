"""The command line: help at once, every mistake one message with a hint and status 2, no traceback."""

import subprocess
import sys

import pytest

from mechsteer import cli
from mechsteer.adapters import ADAPTERS
from mechsteer.configs.fields import keys
from mechsteer.configs.schema import Settings


def run(*arguments):
    return subprocess.run([sys.executable, "-m", "mechsteer", *arguments], capture_output=True, text=True)


def test_help_lists_every_command_and_every_key(capsys):
    assert cli.main(["--help"]) == 0
    overview = capsys.readouterr().out
    for command in cli.COMMANDS:
        assert f"  {command} " in overview
        assert cli.main([command, "--help"]) == 0
    capsys.readouterr()
    assert cli.main(["study", "--help"]) == 0
    study = capsys.readouterr().out
    assert all(f"  {key.name}=" in study for key in keys(Settings))
    assert cli.main(["probe", "--help"]) == 0
    probe = capsys.readouterr().out
    assert "probe.n_splits=5" in probe
    assert "sae.d_sae" not in probe
    assert "data=pocket" not in probe  # a key of the stages it stands on
    assert "It stands on traces, capture, train, site" in probe
    assert "config=FILE" in probe
    assert cli.main(["heatmap", "--help"]) == 0
    assert {line.split("=")[0].strip() for line in capsys.readouterr().out.splitlines() if "heatmap." in line} >= {
        "heatmap.show",
        "heatmap.text",
        "heatmap.feature",
    }
    assert cli.main(["--version"]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["studdy"], "did you mean ['study"),
        (["study", "layer=3"], "unknown key 'layer'"),
        (["study", "model=no/such/folder/here", "out=OUT"], "no model folder at no/such/folder/here"),
        (["study", "layers=[99]", "out=OUT"], "no layer 99"),
        (["report", "out=OUT"], "nothing has run in"),
    ],
)
def test_mistakes_of_a_process_of_its_own(arguments, message, tmp_path):
    done = run(*[a.replace("OUT", str(tmp_path / "run")) for a in arguments])
    assert done.returncode == 2
    assert message in done.stderr
    assert "hint: " in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert not (tmp_path / "run").exists()


def test_models_are_listed(capsys):
    assert cli.main(["models"]) == 0
    assert "pocket" in capsys.readouterr().out


def test_a_closed_pipe_is_no_error():
    process = subprocess.Popen(
        [sys.executable, "-c", "import sys; from mechsteer import cli; sys.exit(cli.main(['study', '--help']))"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    with process.stderr as stderr:
        assert b"Traceback" not in stderr.read()
    assert process.wait() in (0, 120)  # 120: Python could not flush what nobody reads


def test_a_module_of_ones_own_is_imported_when_asked(tmp_path, monkeypatch, capsys):
    (tmp_path / "my_adapters.py").write_text(
        "import mechsteer as ms\n\n"
        "class Mine(ms.adapters.Static):\n    pass\n\n"
        "ms.adapters.register('my_vector', Mine)\n"
    )
    monkeypatch.chdir(tmp_path)
    assert cli.main(["report", "out=nothing", "--import=my_adapters"]) == 2
    assert "nothing" in capsys.readouterr().err
    assert ADAPTERS.pop("my_vector").__module__ == "my_adapters"
    assert cli.main(["report", "out=nothing", "--import=yours"]) == 2
    assert "cannot import 'yours'" in capsys.readouterr().err
