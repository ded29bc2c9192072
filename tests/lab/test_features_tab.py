"""The features of a study in the lab: what its own report says of them, and which studies an attribution reads."""

from __future__ import annotations

import shutil

import extras
import pytest

from mechsteer.errors import ConfigError
from mechsteer.lab import attribution_tab, features_tab

pytestmark = extras.needs_lab


@pytest.fixture(scope="module")
def small_study(tmp_path_factory):
    """The features of a study of the smallest sizes."""
    extras.require_sae_lens()
    from mechsteer.configs.settings import explicit
    from mechsteer.studies.study import opened, stage

    out = tmp_path_factory.mktemp("runs") / "few"
    sizes = {
        "traces": {"n_problems": 24, "n_dev": 16, "n_samples": 2},
        "max_new_tokens": 120,
        "adapter": {"epochs": 1, "coeffs": [1.0], "n_samples": 16, "kind": "static"},
        "sae": {"d_sae": 32, "k": 4, "n_tokens": 2000, "seeds": 1},
    }
    with opened(explicit({"preset": "quick", "model": "pocket", "out": str(out), **sizes})) as run:
        stage(run, "falsify")
    return out


def test_the_features_of_a_study_are_its_reports(bench, small_study):
    page = features_tab.shown(str(small_study))
    for said in ("ReasonScore", "Are they features of reasoning, or of tokens?", "ordinary words"):
        assert said in page
    assert features_tab.place_of(bench, small_study) == small_study


def test_the_newest_study_is_found_and_a_folder_without_one_is_told(bench, small_study, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert features_tab.place_of(bench, None) is None
    shutil.copytree(small_study, bench.folder / "a")
    assert features_tab.place_of(bench, None) == bench.folder / "a"
    assert "ReasonScore" in features_tab.shown(str(bench.folder / "a"))
    for folder, said in ((" ", "no folder is named"), (str(tmp_path), "holds no run")):
        with pytest.raises(ConfigError, match=said):
            features_tab.shown(folder)
    (bench.folder / "a" / "stages" / "reasonscore.json").unlink()
    with pytest.raises(ConfigError, match="has no features: they have not been made"):
        features_tab.shown(str(bench.folder / "a"))


def test_a_study_of_another_model_is_not_read(bench, small_study):
    assert attribution_tab.usable(bench, 4, "") == (None, "")
    study, why = attribution_tab.usable(bench, 4, str(small_study))
    assert study is None
    assert "is of another model" in why
    assert "has no SAE" in attribution_tab.usable(bench, 4, str(bench.folder))[1]
