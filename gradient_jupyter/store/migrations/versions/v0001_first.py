"""The first tables: projects, snapshots, jobs, the ledger, artifacts, events."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "facts",
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("value", sa.String, nullable=False),
    )
    op.create_table(
        "users",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("external", sa.String, nullable=False, unique=True),
        sa.Column("created_us", sa.Integer, nullable=False),
    )
    op.create_table(
        "projects",
        sa.Column("seq", sa.Integer, primary_key=True),
        sa.Column("id", sa.String, nullable=False, unique=True),
        sa.Column("owner", sa.String, nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("created_by", sa.String, nullable=False),
        sa.Column("created_us", sa.Integer, nullable=False),
        sa.Column("deleting", sa.Boolean, nullable=False),
        sa.Column("last_number", sa.Integer, nullable=False),
        sa.UniqueConstraint("owner", "name"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "members",
        sa.Column(
            "project_id", sa.String, sa.ForeignKey("projects.id", ondelete="CASCADE"), primary_key=True
        ),
        sa.Column("principal", sa.String, primary_key=True),
        sa.Column("role", sa.String, nullable=False),
    )
    op.create_table(
        "blobs",
        sa.Column("owner", sa.String, primary_key=True),
        sa.Column("digest", sa.String, primary_key=True),
        sa.Column("size", sa.Integer, nullable=False),
        sa.Column("created_us", sa.Integer, nullable=False),
    )
    op.create_table(
        "snapshots",
        sa.Column("owner", sa.String, primary_key=True),
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("files", sa.Integer, nullable=False),
        sa.Column("bytes", sa.Integer, nullable=False),
        sa.Column("created_us", sa.Integer, nullable=False),
    )
    op.create_table(
        "jobs",
        sa.Column("seq", sa.Integer, primary_key=True),
        sa.Column("id", sa.String, nullable=False, unique=True),
        sa.Column("project_id", sa.String, sa.ForeignKey("projects.id"), nullable=False),
        sa.Column("owner", sa.String, nullable=False),
        sa.Column("created_by", sa.String, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("created_us", sa.Integer, nullable=False),
        sa.Column("command", sa.Text, nullable=False),
        sa.Column("snapshot", sa.String, nullable=False),
        sa.Column("machine_type", sa.String, nullable=False),
        sa.Column("env", sa.Text, nullable=False),
        sa.Column("host", sa.Text),
        sa.Column("target", sa.String, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("phase", sa.String, nullable=False),
        sa.Column("reason", sa.Text),
        sa.Column("exit_code", sa.Integer),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("engine", sa.String, nullable=False),
        sa.Column("started_us", sa.Integer),
        sa.Column("ended_us", sa.Integer),
        sa.Column("warnings", sa.Text, nullable=False),
        sa.Column("history", sa.Text, nullable=False),
        sa.Column("idempotency_key", sa.String),
        sa.UniqueConstraint("owner", "idempotency_key"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_jobs_project_id_seq", "jobs", ["project_id", "seq"])
    op.create_index("ix_jobs_state_seq", "jobs", ["state", "seq"])
    op.create_table(
        "attempts",
        sa.Column("job_id", sa.String, sa.ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("attempt", sa.Integer, primary_key=True),
        sa.Column("key", sa.String, nullable=False, unique=True),
        sa.Column("engine", sa.String, nullable=False),
        sa.Column("created_us", sa.Integer, nullable=False),
        sa.Column("ended_us", sa.Integer),
        sa.Column("exit_code", sa.Integer),
    )
    op.create_table(
        "claims",
        sa.Column("job_id", sa.String, sa.ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("attempt", sa.Integer, primary_key=True),
        sa.Column("node", sa.String, nullable=False),
        sa.Column("machine_type", sa.String, nullable=False),
        sa.Column("cpus", sa.Float, nullable=False),
        sa.Column("memory_bytes", sa.Integer, nullable=False),
        sa.Column("gpus", sa.Text, nullable=False),
        sa.Column("created_us", sa.Integer, nullable=False),
    )
    op.create_table(
        "artifacts",
        sa.Column("job_id", sa.String, sa.ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("path", sa.String, primary_key=True),
        sa.Column("size", sa.Integer, nullable=False),
        sa.Column("modified_us", sa.Integer, nullable=False),
        sa.Column("digest", sa.String, nullable=False),
    )
    op.create_table(
        "events",
        sa.Column("seq", sa.Integer, primary_key=True),
        sa.Column("time_us", sa.Integer, nullable=False),
        sa.Column("owner", sa.String, nullable=False),
        sa.Column("project_id", sa.String, nullable=False),
        sa.Column("noun", sa.String, nullable=False),
        sa.Column("id", sa.String, nullable=False),
        sa.Column("action", sa.String, nullable=False),
        sa.Column("resource", sa.LargeBinary, nullable=False),
        sqlite_autoincrement=True,
    )


def downgrade() -> None:
    for table in (
        "events", "artifacts", "claims", "attempts", "jobs", "snapshots", "blobs", "members",
        "projects", "users", "facts",
    ):  # fmt: skip
        op.drop_table(table)
