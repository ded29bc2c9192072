"""Runs, configurations, metrics, traces, activations, feature scores and evaluations."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0001"
down_revision = None

_TEXT, _WHOLE, _NUMBER, _TRUTH, _JSON = sa.Text, sa.BigInteger, sa.Double, sa.Boolean, JSONB
# table -> columns that are always there, and those that may be null
_TABLES = {
    "runs": (
        {
            **dict.fromkeys(("run_id", "name", "started", "folder", "model", "model_fingerprint", "config_id"), _TEXT),
            "versions": _JSON,
        },
        {},
    ),
    "configurations": ({"config_id": _TEXT, "settings": _JSON}, {}),
    "metrics": ({"run_id": _TEXT, "stage": _TEXT, "metrics": _JSON}, {"seconds": _NUMBER}),
    "traces": (
        {
            **{"run_id": _TEXT, "split": _TEXT, "row": _WHOLE, "item_id": _TEXT, "group": _TEXT},
            **{"prompt": _TEXT, "text": _TEXT, "source": _TEXT, "sample": _WHOLE},
        },
        {"correct": _TRUTH, "n_steps": _WHOLE, "style": _TEXT},
    ),
    "activations": (
        {
            **{"run_id": _TEXT, "path": _TEXT, "site": _TEXT, "d_model": _WHOLE, "dtype": _TEXT},
            **{"n_prompts": _WHOLE, "n_tokens": _WHOLE, "model_fingerprint": _TEXT},
        },
        {},
    ),
    "feature_scores": (
        {
            **{"run_id": _TEXT, "site": _TEXT, "score": _TEXT, "feature": _WHOLE, "rank": _WHOLE},
            "value": _NUMBER,
        },
        dict.fromkeys(("mu_pos", "mu_neg", "entropy"), _NUMBER),
    ),
    "evaluations": (
        {
            **{"run_id": _TEXT, "arm": _TEXT, "role": _TEXT, "metric": _TEXT, "n": _WHOLE, "score": _NUMBER},
        },
        dict.fromkeys(("difference", "low", "high", "p_value", "p_holm"), _NUMBER),
    ),
}


def upgrade() -> None:
    """Make the tables."""
    for name, (always, maybe) in _TABLES.items():
        op.create_table(
            name,
            sa.Column("id", sa.Text, primary_key=True),
            sa.Column("schema", sa.Integer, nullable=False),
            *(sa.Column(column, kind, nullable=False) for column, kind in always.items()),
            *(sa.Column(column, kind) for column, kind in maybe.items()),
        )
        indexed = "config_id" if name == "configurations" else "run_id"
        op.create_index(f"{name}_{indexed}", name, [indexed])


def downgrade() -> None:
    """Drop them with all that is in them."""
    for name in _TABLES:
        op.drop_table(name)
