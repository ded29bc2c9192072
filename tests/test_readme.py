"""The README's example runs, offline, as it stands."""

import contextlib
import io
import re
from pathlib import Path

import pytest
from doc_pages import blocks

import mechsteer as ms
from mechsteer.models import bundled_models

README = Path(__file__).parents[1] / "README.md"


def test_the_example_steers_every_prompt_and_shows_it():
    code, shown = blocks(README)[1:3]
    assert (code.language, shown.text) == ("python", code.printed)
    names: dict = {}
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(code.text, str(README), "exec"), names)
    assert printed.getvalue() == shown.text
    assert all(before != after for before, after in zip(names["base"], names["steered"], strict=True))
    assert [name for name, _ in names["hooks"]] == [ms.Site(0.75, "resid_post").resolve(names["model"])]


def test_every_path_and_command_it_names_exists():
    text = README.read_text(encoding="utf-8")
    root = README.parent
    for path in re.findall(r"`((?:scripts|tests|mechsteer)/[\w./]+)`", text):
        assert (root / path).exists(), path
    makefile = (root / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"make (\w+)", text)):
        assert re.search(rf"^{target}:", makefile, flags=re.M), target


@pytest.mark.parametrize("name", ["pocket", "pocket-teacher", "voices"])
def test_bundled_models_have_a_card(name):
    card = (bundled_models()[name] / "README.md").read_text(encoding="utf-8")
    assert "measure" in card
