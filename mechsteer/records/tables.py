"""The tables of the database: one per kind of record, its fields as columns; and those of the prompt index.

Rows go in and out as records. What PostgreSQL cannot hold is replaced there (the log keeps it): NUL characters and halves
of surrogate pairs by U+FFFD, within JSON columns NaN and infinity by null.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from pgvector.sqlalchemy import Vector
from sqlalchemy.dialects.postgresql import JSONB

from mechsteer.records.kinds import KINDS, SCHEMA, Record, id_of
from mechsteer.results import plain

METADATA = sa.MetaData()
_TYPES = {str: sa.Text, int: sa.BigInteger, float: sa.Double, bool: sa.Boolean}
_LOST = str.maketrans({"\0": "\ufffd", **{code: "\ufffd" for code in range(0xD800, 0xE000)}})


def _column(name: str, hint: Any) -> sa.Column[Any]:
    args = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    (kind,) = (arg for arg in args if arg is not type(None))
    nullable = type(None) in args
    if kind in _TYPES:
        return sa.Column(name, _TYPES[kind], nullable=nullable)
    return sa.Column(name, JSONB, nullable=nullable)


def _table(name: str, cls: type[Record]) -> sa.Table:
    hints = typing.get_type_hints(cls)
    fields = [_column(field.name, hints[field.name]) for field in dataclasses.fields(cls)]
    own = [sa.Column("id", sa.Text, primary_key=True), sa.Column("schema", sa.Integer, nullable=False)]
    indexed = "config_id" if name == "configurations" else "run_id"
    return sa.Table(name, METADATA, *own, *fields, sa.Index(f"{name}_{indexed}", indexed))


TABLES = {cls: _table(name, cls) for name, cls in KINDS.items()}

INDEXES = sa.Table(
    "prompt_indexes",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("name", sa.Text, nullable=False, unique=True),
    sa.Column("embedder", sa.Text, nullable=False),
    sa.Column("dimension", sa.Integer, nullable=False),
)
PROMPTS = sa.Table(
    "prompts",
    METADATA,
    sa.Column("id", sa.BigInteger, primary_key=True),
    sa.Column("index_id", sa.Integer, sa.ForeignKey("prompt_indexes.id", ondelete="CASCADE"), nullable=False),
    sa.Column("digest", sa.Text, nullable=False),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("embedding", Vector(), nullable=False),
    sa.UniqueConstraint("index_id", "digest", name="prompts_index_id_digest"),
)


def row_of(record: Record) -> dict[str, Any]:
    """A record as a row of its table; its id is that of what the log holds."""
    values = {field.name: _held(getattr(record, field.name)) for field in dataclasses.fields(record)}
    return {"id": id_of(record), "schema": SCHEMA, **values}


def record_of_row(cls: type[Record], row: Mapping[str, Any]) -> Record:
    """The record of a row."""
    return cls(**{field.name: row[field.name] for field in dataclasses.fields(cls)})


def text_held(text: str) -> str:
    """A text as PostgreSQL holds it."""
    return text.translate(_LOST)


def _held(value: Any) -> Any:
    if isinstance(value, str):
        return text_held(value)
    return _held_json(plain(value)) if isinstance(value, (dict, list, tuple)) else value


def _held_json(value: Any) -> Any:
    if isinstance(value, str):
        return text_held(value)
    if isinstance(value, dict):
        return {text_held(key): _held_json(item) for key, item in value.items()}
    return [_held_json(item) for item in value] if isinstance(value, list) else value
