"""Every Python block of the documentation runs, page by page in one namespace, offline; what it shows is what it prints.

A text block right behind a Python block is its output ("..." stands for anything). A block that cannot run here has a
comment `<!-- not run: why -->` above it, and is counted below. Commands in console blocks are checked, not run.
"""

from __future__ import annotations

import contextlib
import doctest
import io
import shlex

import extras
import pytest
from doc_pages import PAGES, ROOT, blocks

from mechsteer.adapters import registry
from mechsteer.cli import COMMANDS, FLAGS, IMPORT, SUITE
from mechsteer.configs.settings import apart, explicit
from mechsteer.equaliser import MixCommand
from mechsteer.records import embedded
from mechsteer.records.command import RecordsCommand
from mechsteer.records.prompts_command import PromptsCommand
from mechsteer.sharing.certify_command import CertifyCommand
from mechsteer.studies import configure

# page -> Python blocks that are not run: a study takes its time, so do Ray's workers, DSPy is an extra
NOT_RUN = {"docs/guides/study.md": 1, "docs/guides/sae.md": 1, "docs/guides/cluster.md": 1}
NEEDS_SAE_LENS = ("docs/guides/sae.md",)
NEEDS_DATABASE = ("docs/guides/records.md",)  # the embedded one is then that of the tests
LANGUAGES = {"python", "console", "sh", "text", "json", "yaml"}
_CHECKER = doctest.OutputChecker()


@pytest.fixture
def _as_a_reader(monkeypatch, tmp_path):
    """In an empty folder; what a page registers is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    before = [(known, dict(known)) for known in (registry.ADAPTERS, registry.OBSERVERS)]
    yield
    for known, kept in before:
        known.clear()
        known.update(kept)


@pytest.mark.usefixtures("_as_a_reader")
@pytest.mark.parametrize("name", PAGES)
def test_every_python_block_runs_and_prints_what_the_page_shows(name, request, monkeypatch):
    if name in NEEDS_SAE_LENS:
        extras.require_sae_lens()
    if name in NEEDS_DATABASE:
        folder = request.getfixturevalue("server").folder
        monkeypatch.setattr(embedded, "default_folder", lambda: folder)
    names: dict = {"__name__": "page"}
    for block in blocks(PAGES[name]):
        if block.language != "python" or block.not_run:
            continue
        printed = io.StringIO()
        code = compile("\n" * (block.line - 1) + block.text, str(PAGES[name]), "exec")
        with contextlib.redirect_stdout(printed):
            exec(code, names)
        if block.printed is not None:
            shown, found = block.printed, printed.getvalue()
            assert _CHECKER.check_output(shown, found, doctest.ELLIPSIS), f"{name}:{block.line} printed\n{found}"


def test_blocks_that_are_not_run_are_few_and_named():
    found = {name: sum(bool(block.not_run) for block in blocks(page)) for name, page in PAGES.items()}
    assert {name: n for name, n in found.items() if n} == NOT_RUN


@pytest.mark.parametrize("name", PAGES)
def test_every_block_says_what_it_is(name):
    source = PAGES[name].read_text(encoding="utf-8")
    found = blocks(PAGES[name])
    assert {block.language for block in found} <= LANGUAGES
    assert source.count("```") == 2 * len(found)  # none that the expression above does not see


@pytest.mark.parametrize("name", PAGES)
def test_every_command_is_one(name):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for block in blocks(PAGES[name]):
        if block.language not in ("console", "sh"):
            continue
        for line in block.text.splitlines():
            words = shlex.split(line.removeprefix("$ "), comments=True)
            if words[:1] == ["make"]:
                assert f"\n{words[1]}:" in makefile, line
            elif words[:1] == ["python"]:
                assert (ROOT / words[1]).is_file(), line
            elif words[:1] == ["mechsteer"]:
                assert words[1] in COMMANDS, line
                settings = [word for word in words[2:] if not word.startswith("--")]
                flags = [word for word in words[2:] if word.startswith("--") and not word.startswith(IMPORT)]
                assert set(flags) <= {*FLAGS, "--help"}, line
                if words[1] == "mix":
                    MixCommand.of(settings)
                elif words[1] == "certify":
                    CertifyCommand.of(settings)
                elif words[1] == "records":
                    RecordsCommand.of(settings)
                elif words[1] == "prompts":
                    PromptsCommand.of(settings)
                elif words[1] == "configure":
                    assert {word.partition("=")[0] for word in settings} <= {*configure.KEYS}, line
                elif words[1] == "suite":
                    apart([word for word in settings if not word.startswith("config=")], SUITE)
                elif not {"--multirun", "--ablate"} & set(flags):
                    explicit(None, [word for word in settings if not word.startswith("config=")])


def test_a_page_that_shows_what_is_not_printed_is_found():
    assert not _CHECKER.check_output("a\n", "b\n", doctest.ELLIPSIS)
    assert _CHECKER.check_output("a ... c\n", "a b c\n", doctest.ELLIPSIS)
