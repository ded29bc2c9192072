"""A study where sae-lens is missing: it goes as far as it needs no SAE, and says what the SAE needs."""

import json

import pytest

from mechsteer import cli
from mechsteer.features import sae_library

SMALL = [
    *("traces.n_problems=24", "traces.n_dev=12", "traces.n_samples=3", "adapter.epochs=1", "adapter.coeffs=[1.0]"),
    *("layers=[0.5]", "evaluate.n_problems=12", "evaluate.n_random=2", "max_new_tokens=120", "sae.n_tokens=6000"),
]


@pytest.mark.skipif(sae_library.is_installed(), reason="sae-lens is installed: whole studies are tested")
def test_evaluates_and_says_what_the_sae_needs(tmp_path, capsys):
    assert cli.main(["evaluate", f"out={tmp_path / 'run'}", *SMALL]) == 0
    assert json.loads(capsys.readouterr().out)
    assert cli.main(["sae", f"out={tmp_path / 'run'}", *SMALL]) == 2
    told = capsys.readouterr().err
    assert "needs sae-lens" in told
    assert "pip install 'mechsteer[sae]'" in told
