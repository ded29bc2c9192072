"""The features of a finished run, read from its folder alone: no model is loaded, and nothing is written.

feature_sections("runs/study")     the ReasonScore table with null and classes, contexts, falsification
newest_run("runs")                 the newest folder below that has them
small_features(out)                a small run on the bundled model, for want of another: about half a minute
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mechsteer.bases import Basis, from_sae
from mechsteer.configs.settings import explicit
from mechsteer.errors import ConfigError, MechsteerError
from mechsteer.features.sae import load_sae
from mechsteer.models import model_fingerprint
from mechsteer.report import Section
from mechsteer.results import from_plain
from mechsteer.studies.folder import STAGE_FILES, Folder, made_from_of, read_settings
from mechsteer.studies.graph import STAGES
from mechsteer.studies.kept import SAE
from mechsteer.studies.page import StageResults, sections
from mechsteer.studies.results import FalsifyResult, ReasonscoreResult, SaeResult
from mechsteer.studies.run import Say
from mechsteer.studies.study import opened, stage

KINDS = {"sae": SaeResult, "reasonscore": ReasonscoreResult, "falsify": FalsifyResult}
MAKE = "`mechsteer falsify preset=quick model=pocket out=runs/features` makes them in half a minute"


def feature_sections(folder: str | Path) -> list[Section]:
    """What the run in a folder says of its SAE's features, as its own report says it.

    Raises ConfigError for a folder without a run, or whose features are not there or no longer stand; FileFormatError
    for damaged files.
    """
    settings, done, left = _standing(folder)
    found = {name: from_plain(kind, done[name]["result"]) for name, kind in KINDS.items() if name in done}
    if not {"sae", "reasonscore"} <= found.keys():
        why = next((left[name] for name in ("sae", "reasonscore") if name in left), "they have not been made")
        raise ConfigError(f"{folder} has no features: {why}", MAKE)
    return sections(StageResults(**found), settings)


def sae_basis(folder: str | Path, model: Any) -> dict[str, Basis]:
    """The features of the SAE of the run in a folder, as a basis by name.

    Raises ConfigError where there is none, ModelMismatchError where it is another model's; else as `feature_sections`.
    """
    settings, done, _ = _standing(folder)
    if "sae" not in done:
        raise ConfigError(f"{folder} has no SAE", MAKE)
    site = from_plain(SaeResult, done["sae"]["result"]).site
    path = Path(folder) / SAE if settings.sae.path is None else Path(settings.sae.path)
    return {f"SAE features at {site}": from_sae(load_sae(path, fingerprint=model_fingerprint(model), site=str(site)))}


def sae_place(folder: str | Path) -> tuple[str | None, str | None]:
    """(fingerprint of the model, site) of the SAE of the run in a folder; None where there is none."""
    try:
        _, done, _ = _standing(folder)
    except MechsteerError:
        return None, None
    if "sae" not in done:
        return None, None
    return made_from_of(done["sae"]).get("model"), str(from_plain(SaeResult, done["sae"]["result"]).site)


def newest_run(below: str | Path) -> Path | None:
    """The folder of the newest run below a folder that has scored features; None where there is none."""
    scored = list(Path(below).glob(f"**/{STAGE_FILES}/reasonscore.json"))
    return max(scored, key=lambda path: path.stat().st_mtime).parents[1] if scored else None


def small_features(out: str | Path, *, say: Say | None = None) -> Path:
    """Run a small study as far as its features, on the bundled model `pocket`; returns its folder. Too small for claims."""
    with opened(explicit({"preset": "quick", "model": "pocket", "out": str(out)}), say=say) as run:
        stage(run, "falsify")
    return Path(out)


def _standing(folder: str | Path) -> tuple[Any, dict[str, dict[str, Any]], dict[str, str]]:
    """(settings, stages that stand, why others do not)."""
    settings = read_settings(Path(folder), STAGES)
    if settings is None:
        raise ConfigError(f"{folder} holds no run", MAKE)
    # the folder may have been moved, and was named from another place then
    at = Folder(settings, STAGES)
    at.path = Path(folder)
    done, left = at.standing(at.recorded_fingerprint())
    return settings, done, left
