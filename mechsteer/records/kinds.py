"""What is recorded of a run: one frozen dataclass per kind, the same for the log and for the database.

A record is its content: its id is a digest of its kind and fields, so that one that comes twice is one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from mechsteer.files import digest_of
from mechsteer.results import Result, from_plain, to_plain

SCHEMA = 1  # of a record's fields; a higher one is of a later mechsteer


@dataclass(frozen=True, kw_only=True)
class RunRecord(Result):
    """A run that has made something; one process is one run."""

    run_id: str
    name: str
    """what was asked for: study, or a name of your own"""
    started: str
    """ISO 8601, UTC"""
    folder: str = ""
    model: str = ""
    model_fingerprint: str = ""
    config_id: str = ""
    """of its `ConfigRecord`"""
    versions: dict[str, str] = field(default_factory=dict)
    """package -> version"""


@dataclass(frozen=True, kw_only=True)
class ConfigRecord(Result):
    """A resolved configuration; runs with equal settings share it."""

    config_id: str
    settings: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class MetricsRecord(Result):
    """Figures of one stage of a run."""

    run_id: str
    stage: str
    metrics: dict[str, Any]
    seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class TraceRecord(Result):
    """One text that was written in a run: the fields of `mechsteer.tasks.Trace`, and where it stands."""

    run_id: str
    split: str
    row: int
    """in its split, from 0"""
    item_id: str
    group: str
    prompt: str
    text: str
    correct: bool | None = None
    n_steps: int | None = None
    style: str | None = None
    source: str = ""
    sample: int = 0


@dataclass(frozen=True, kw_only=True)
class ActivationsRecord(Result):
    """Activations that were kept at one site; the values stay in their files."""

    run_id: str
    path: str
    site: str
    d_model: int
    dtype: str
    n_prompts: int
    n_tokens: int
    model_fingerprint: str = ""


@dataclass(frozen=True, kw_only=True)
class FeatureScoreRecord(Result):
    """The score of one SAE feature."""

    run_id: str
    site: str
    score: str
    """its name: reason_score, ratio, or one of your own"""
    feature: int
    rank: int
    """among all features, from 0"""
    value: float
    mu_pos: float | None = None
    mu_neg: float | None = None
    entropy: float | None = None


@dataclass(frozen=True, kw_only=True)
class EvaluationRecord(Result):
    """One arm on the held-out problems, and its comparison with base where there is one."""

    run_id: str
    arm: str
    role: str
    metric: str
    n: int
    score: float
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    """ends of the interval of the difference"""
    p_value: float | None = None
    p_holm: float | None = None


Record = (
    RunRecord | ConfigRecord | MetricsRecord | TraceRecord | ActivationsRecord | FeatureScoreRecord | EvaluationRecord
)
# what a kind is called in a log, which is the name of its table -> its class
KINDS: dict[str, type[Record]] = {
    "runs": RunRecord,
    "configurations": ConfigRecord,
    "metrics": MetricsRecord,
    "traces": TraceRecord,
    "activations": ActivationsRecord,
    "feature_scores": FeatureScoreRecord,
    "evaluations": EvaluationRecord,
}
NAMES = {cls: name for name, cls in KINDS.items()}


def config_of(settings: dict[str, Any]) -> ConfigRecord:
    """The record of a configuration, whose id is a digest of it.

    >>> config_of({"seed": 0}).config_id == config_of({"seed": 0}).config_id != config_of({"seed": 1}).config_id
    True
    """
    return ConfigRecord(config_id=digest_of(to_plain(settings)), settings=settings)


def content_of(record: Record) -> dict[str, Any]:
    """A record as plain data, with its schema version and kind."""
    return {"schema": SCHEMA, "kind": NAMES[type(record)], **to_plain(record)}


def id_of(record: Record) -> str:
    """Digest (32 hex digits) of all that a record says."""
    return digest_of(content_of(record))


def record_of(content: dict[str, Any]) -> Record:
    """The inverse of `content_of`. Raises FileFormatError for fields that are not those of the kind."""
    fields = {key: value for key, value in content.items() if key not in ("schema", "kind")}
    return from_plain(KINDS[content["kind"]], fields)
