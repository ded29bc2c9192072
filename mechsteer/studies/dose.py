"""Stage dose: the run's adapter and its rivals over a sweep of coefficients. Run where it is asked for."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mechsteer.baselines import Method, Steered, check_methods
from mechsteer.baselines import train as train_rivals
from mechsteer.configs.schema import Settings
from mechsteer.errors import ConfigError, MechsteerError, MechsteerWarning
from mechsteer.evaluation import DoseResponse, dose_response
from mechsteer.evaluation.dose import coefficients
from mechsteer.files.commits import commit
from mechsteer.studies.desk import Desk
from mechsteer.studies.falsify import neutral
from mechsteer.studies.kept import Kept
from mechsteer.studies.objectives import check_pairs, contrast
from mechsteer.studies.results import DoseResult, TrainResult
from mechsteer.tasks import load_questions
from mechsteer.tasks.asking import POCKET
from mechsteer.training import FitConfig

FOLDER = "dose"


def dose(desk: Desk, train: TrainResult) -> DoseResult:
    """dose/: the table of methods, every coefficient, every value, and the page of all.

    A rival that cannot be made is left out by name. Raises what the questions raise, and ModelMismatchError where a
    method at c = 0 is not the base model.
    """
    how = desk.settings.dose
    questions = load_questions(how.data, how.n, target=how.target, seed=desk.seed("questions"))
    texts, told = neutral(how.neutral, how.n_neutral, desk.seed("neutral texts"))
    own = [
        Steered(_name(train.kind, i, len(train.fitted)), desk.model, steering)
        for i, steering in enumerate(Kept(desk).steerings(train))
    ]
    rivals, left_out = _rivals(desk, how.methods)
    found = dose_response(
        desk.model,
        [*own, *rivals],
        questions,
        coeffs=how.coeffs,
        neutral=texts,
        n_boot=how.n_boot,
        batch_size=desk.settings.batch_size,
        seed=desk.settings.seed,
        commit=commit(),
        keep=lambda name, compute: desk.piece(f"method-{name}", compute),
    )
    _write(found, desk.write(FOLDER))
    return DoseResult(response=found, neutral=told, left_out=left_out)


def check_dose(settings: Settings, model: Any) -> None:
    """Raises ConfigError for rivals that nobody knows or this model cannot have, pairs and questions that are not there, and
    a sweep without −1, 0 and 1."""
    how = settings.dose
    check_methods(model, how.methods)
    check_pairs(settings)
    if len(set(how.methods)) < len(how.methods):
        raise ConfigError(f"dose.methods are {how.methods}", "name each once")
    if how.data not in POCKET and not Path(how.data).exists():
        raise ConfigError(f"dose.data is {how.data!r}: no file", f"choose one of {list(POCKET)}, or give a file")
    coefficients(how.coeffs)


def _rivals(desk: Desk, names: Sequence[str]) -> tuple[list[Method], dict[str, str]]:
    """(those that could be made, why the others could not)."""
    how, adapter = desk.settings.dose, desk.settings.adapter
    told = desk.settings.separation
    pairs = contrast(adapter.pairs, adapter.n_samples, told, seed=desk.seed("pairs"))[0] if names else []
    config = FitConfig(lr=how.lr, epochs=how.epochs, schedule="one_cycle")
    options: dict[str, Any] = {
        "loss": how.loss,
        "rank": how.rank,
        "config": config,
        "seed": desk.seed("rivals") % 2**31,
    }
    made: list[Method] = []
    left_out: dict[str, str] = {}
    for name in names:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", MechsteerWarning)  # said in the report
                made += train_rivals(desk.model, pairs, [name], progress=desk.progress, **options)
        except MechsteerError as error:
            left_out[name] = error.message
    return made, left_out


def _name(kind: str, i: int, n: int) -> str:
    return f"adapter ({kind})" if n < 2 else f"adapter ({kind}), seed {i}"


def _write(found: DoseResponse, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    found.save(folder / "dose.html")
    found.save(folder / "dose.md")
    found.save(folder / "methods.csv")
    found.point_frame().to_csv(folder / "points.csv", index=False)
    found.value_frame().to_csv(folder / "values.csv", index=False)
