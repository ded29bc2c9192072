"""Results of stages in short, as results.json, the command line and the records tell them."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd

from mechsteer.results import plain

LONG = 100  # entries of a list that is left to the stage's own file


def to_json(value: Any) -> str:
    """Plain data as JSON text."""
    return json.dumps(plain(value), indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def brief(result: Any) -> Any:
    """A result as plain data, for reading: without the long columns that only pictures need."""
    return _short(plain(result))


def _short(value: Any) -> Any:
    if isinstance(value, pd.DataFrame):
        return plain(value.to_dict("records"))
    if isinstance(value, dict):
        return {key: _short(item) for key, item in value.items() if not _is_long(item)}
    return [_short(item) for item in value if not _is_long(item)] if isinstance(value, list) else value


def _is_long(value: Any) -> bool:
    return isinstance(value, list) and len(value) > LONG
