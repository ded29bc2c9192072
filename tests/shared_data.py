"""Real data sets, for tests that use them where they are: $MECHSTEER_SHARED/data, or ../shared/data beside the repository."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

SHARED = Path(os.environ.get("MECHSTEER_SHARED") or Path(__file__).parents[2] / "shared")


def data_file(name: str) -> Path:
    """The file or folder `name` of the shared data; skips the test where it is absent (the repository ships none)."""
    path = SHARED / "data" / name
    if not path.exists():
        pytest.skip(f"{path} is not here: set MECHSTEER_SHARED to a folder with data/{name}")
    return path
