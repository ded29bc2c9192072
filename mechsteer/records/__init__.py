"""What runs leave behind, to be asked later: a log of records, a database of them, and an index of prompts.

`RunLog` appends records to a JSONL file, `Recorder` those of one run, to its log always and to a database as long as there
is one. A log is imported as often as one likes: a record goes in once.

    with open_database("embedded") as database:              a private PostgreSQL, or the address of one's own
        database.add(RunLog("runs/study/records.jsonl").read().records)
        index = PromptIndex(database, "gsm8k", ResidualEmbedder(model))
        like_these = index.select(prompts, ["A train leaves at noon ..."], n=200)

`Database`, `open_database`, `PromptIndex` and `Match` need the extra `mechsteer[records]`; the log needs nothing.
"""

from __future__ import annotations

import importlib
from typing import Any

from mechsteer.records.kinds import (
    KINDS,
    ActivationsRecord,
    ConfigRecord,
    EvaluationRecord,
    FeatureScoreRecord,
    MetricsRecord,
    Record,
    RunRecord,
    TraceRecord,
    config_of,
    id_of,
)
from mechsteer.records.log import LOG, LogContent, RunLog
from mechsteer.records.recorder import Recorder

__all__ = [
    "RunLog",
    "LogContent",
    "LOG",
    "Recorder",
    "Record",
    "KINDS",
    "RunRecord",
    "ConfigRecord",
    "MetricsRecord",
    "TraceRecord",
    "ActivationsRecord",
    "FeatureScoreRecord",
    "EvaluationRecord",
    "config_of",
    "id_of",
]

_LATE = {  # what loads when it is first asked for
    **dict.fromkeys(("Database", "open_database", "PromptIndex", "Match"), "library"),
    **dict.fromkeys(("Embedder", "ResidualEmbedder", "FunctionEmbedder", "EndpointEmbedder"), "embedders"),
}


def __getattr__(name: str) -> Any:
    if name not in _LATE:
        raise AttributeError(f"module 'mechsteer.records' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"mechsteer.records.{_LATE[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, *_LATE])
