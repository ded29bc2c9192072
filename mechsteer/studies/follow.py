"""What a worker does of a run: it follows a stage (`mechsteer.runtime.followed`) on what lies in the run's folder."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mechsteer.cluster import DESK
from mechsteer.configs.settings import over
from mechsteer.errors import FileFormatError
from mechsteer.runtime.followed import Follower
from mechsteer.studies.folder import read_settings
from mechsteer.studies.graph import STAGES
from mechsteer.studies.run import Run
from mechsteer.studies.study import has_stage, stages


def piece_maker(setup: Mapping[str, Any]) -> Callable[[Any], None]:
    """Load the model, and return what computes a piece of the stage. Raises FileFormatError for a run that is gone."""
    folder = Path(setup["folder"])
    settings = read_settings(folder, STAGES)
    if settings is None:
        raise FileFormatError(f"{folder} holds no run", "start it again")
    here: dict[str, Any] = {"out": str(folder), "launcher": "local", "workers": None}
    if settings.gpus > 0:
        here["device"] = "cuda"  # whichever this worker was given
    run = Run(over(here, settings), stages(), steers=has_stage)
    aside = folder / DESK / f"{socket.gethostname()}-{os.getpid()}"
    return Follower(run.follow(setup["stage"], setup["checkpoints"], aside)).piece
