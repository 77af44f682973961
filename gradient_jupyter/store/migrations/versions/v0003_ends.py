"""How long a log was when its attempt ended, and which idempotency keys have had their job."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("attempts", sa.Column("log_bytes", sa.Integer))
    # A key is its sender's, whoever owns the project the job is in.
    op.create_index("ix_jobs_created_by", "jobs", ["created_by", "idempotency_key"])
    op.create_table(
        "spent_keys",
        sa.Column("seq", sa.Integer, primary_key=True),
        sa.Column("created_by", sa.String, nullable=False),
        sa.Column("key", sa.String, nullable=False),
        sa.Column("job_id", sa.String, nullable=False),
        sa.UniqueConstraint("created_by", "key"),
        sqlite_autoincrement=True,
    )


def downgrade() -> None:
    op.drop_table("spent_keys")
    op.drop_index("ix_jobs_created_by", "jobs")
    op.drop_column("attempts", "log_bytes")
