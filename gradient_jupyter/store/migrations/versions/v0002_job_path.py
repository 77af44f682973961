"""The job path: priorities, retries, the longest run, tags, where files came from, how each attempt ended."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("priority", sa.Integer, nullable=False, server_default="0"))
    op.add_column("jobs", sa.Column("retries", sa.Integer, nullable=False, server_default="0"))
    op.add_column("jobs", sa.Column("max_duration_s", sa.Float))
    op.add_column("jobs", sa.Column("tags", sa.Text, nullable=False, server_default="[]"))
    op.add_column("jobs", sa.Column("source", sa.String, nullable=False, server_default=""))
    op.add_column("jobs", sa.Column("rerun_of", sa.String))
    op.add_column("jobs", sa.Column("progress", sa.Text))
    op.add_column("attempts", sa.Column("state", sa.String))
    op.add_column("attempts", sa.Column("reason", sa.Text))
    op.add_column("attempts", sa.Column("started_us", sa.Integer))
    op.create_index("ix_jobs_waiting", "jobs", ["owner", "seq"], sqlite_where=sa.text("state = 'Pending'"))
    op.create_index("ix_jobs_deleted", "jobs", ["seq"], sqlite_where=sa.text("target = 'deleted'"))
    # What nothing refers to any more is found by what would refer to it.
    op.create_index("ix_blobs_digest", "blobs", ["digest"])
    op.create_index("ix_snapshots_id", "snapshots", ["id"])
    op.create_index("ix_jobs_snapshot", "jobs", ["snapshot"])
    op.create_table(
        "checkouts",
        sa.Column("owner", sa.String, nullable=False),
        sa.Column("source", sa.String, nullable=False),
        sa.Column("snapshot", sa.String, nullable=False),
        sa.Column("warnings", sa.Text, nullable=False),
        sa.Column("created_us", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("owner", "source", name="pk_checkouts"),
        sa.ForeignKeyConstraint(
            ["owner", "snapshot"], ["snapshots.owner", "snapshots.id"], name="fk_checkouts_owner",
            ondelete="CASCADE",
        ),
    )  # fmt: skip
    op.create_index("ix_checkouts_owner", "checkouts", ["owner", "snapshot"])


def downgrade() -> None:
    op.drop_table("checkouts")
    for name in ("ix_jobs_snapshot", "ix_jobs_deleted", "ix_jobs_waiting"):
        op.drop_index(name, "jobs")
    op.drop_index("ix_snapshots_id", "snapshots")
    op.drop_index("ix_blobs_digest", "blobs")
    for name in ("started_us", "reason", "state"):
        op.drop_column("attempts", name)
    for name in ("progress", "rerun_of", "source", "tags", "max_duration_s", "retries", "priority"):
        op.drop_column("jobs", name)
