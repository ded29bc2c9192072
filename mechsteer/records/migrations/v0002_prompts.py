"""The prompt index, which needs pgvector."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from pgvector.sqlalchemy import Vector

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Make the tables."""
    op.execute("CREATE EXTENSION IF NOT EXISTS vector")
    op.create_table(
        "prompt_indexes",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.Text, nullable=False, unique=True),
        sa.Column("embedder", sa.Text, nullable=False),
        sa.Column("dimension", sa.Integer, nullable=False),
    )
    op.create_table(
        "prompts",
        sa.Column("id", sa.BigInteger, primary_key=True),
        sa.Column("index_id", sa.Integer, sa.ForeignKey("prompt_indexes.id", ondelete="CASCADE"), nullable=False),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("embedding", Vector(), nullable=False),
        sa.UniqueConstraint("index_id", "digest", name="prompts_index_id_digest"),
    )


def downgrade() -> None:
    """Drop them; the extension stays, which others may use."""
    op.drop_table("prompts")
    op.drop_table("prompt_indexes")
