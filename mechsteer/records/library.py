"""What needs the extra `mechsteer[records]` (SQLAlchemy, psycopg, Alembic, pgvector) is reached from here.

Its modules load when one of their names is first asked for; where the extra is missing, asking raises ConfigError.
"""

from __future__ import annotations

import functools
import importlib
from typing import Any

from mechsteer.errors import ConfigError

_PLACES = {
    "Database": "mechsteer.records.database",
    "open_database": "mechsteer.records.database",
    "PromptIndex": "mechsteer.records.index",
    "Match": "mechsteer.records.index",
}
NAMES = tuple(_PLACES)


@functools.cache
def _why_not() -> str | None:
    """Why there can be no database here; None if there can."""
    try:
        for name in ("sqlalchemy", "psycopg", "alembic", "pgvector"):
            importlib.import_module(name)
    except ImportError as error:
        return str(error)
    return None


def require() -> None:
    """Raises ConfigError where the extra is not installed."""
    if why := _why_not():
        raise ConfigError(
            f"a database of records needs packages that are not there ({why})",
            "pip install 'mechsteer[records]'; the log records.jsonl needs none, and is imported later",
        )


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    require()
    value = getattr(importlib.import_module(_PLACES[name]), name)
    globals()[name] = value
    return value
