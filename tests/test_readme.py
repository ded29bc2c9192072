"""The README's example runs, offline, as it stands."""

import re
from pathlib import Path

import pytest

import mechsteer as ms
from mechsteer.models import bundled_models

README = Path(__file__).parents[1] / "README.md"


def test_the_example_runs_and_steers(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.S)
    names: dict = {}
    exec(compile(code, str(README), "exec"), names)
    plain, steered = capsys.readouterr().out.splitlines()
    assert plain != steered
    assert [name for name, _ in names["hooks"]] == [ms.Site(0.5, "resid_post").resolve(names["model"])]


def test_every_path_and_command_it_names_exists():
    text = README.read_text(encoding="utf-8")
    root = README.parent
    for path in re.findall(r"`((?:scripts|tests|mechsteer)/[\w./]+)`", text):
        assert (root / path).exists(), path
    makefile = (root / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"make (\w+)", text)):
        assert re.search(rf"^{target}:", makefile, flags=re.M), target


@pytest.mark.parametrize("name", ["pocket", "pocket-teacher"])
def test_bundled_models_have_a_card(name):
    card = (bundled_models()[name] / "README.md").read_text(encoding="utf-8")
    assert "measure" in card
