"""Datasets, their versions, and which a job has."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "datasets",
        sa.Column("seq", sa.Integer, primary_key=True),
        sa.Column("id", sa.String, nullable=False, unique=True),
        sa.Column("owner", sa.String, nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("created_by", sa.String, nullable=False),
        sa.Column("created_us", sa.Integer, nullable=False),
        sa.Column("last_number", sa.Integer, nullable=False),
        sa.UniqueConstraint("owner", "name"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "dataset_versions",
        sa.Column(
            "dataset_id", sa.String, sa.ForeignKey("datasets.id", ondelete="CASCADE"), primary_key=True
        ),
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("snapshot", sa.String, nullable=False),
        sa.Column("files", sa.Integer, nullable=False),
        sa.Column("bytes", sa.Integer, nullable=False),
        sa.Column("source", sa.String, nullable=False),
        sa.Column("created_by", sa.String, nullable=False),
        sa.Column("created_us", sa.Integer, nullable=False),
    )
    op.create_index("ix_dataset_versions_snapshot", "dataset_versions", ["snapshot"])
    op.create_table(
        "job_datasets",
        # Which versions keep their files for a job. What the job itself says stands in its own row.
        sa.Column("job_id", sa.String, sa.ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("dataset_id", sa.String, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("snapshot", sa.String, nullable=False),
    )
    op.create_index("ix_job_datasets_snapshot", "job_datasets", ["snapshot"])
    op.create_index("ix_job_datasets_dataset_id", "job_datasets", ["dataset_id", "version"])
    op.add_column("jobs", sa.Column("datasets", sa.Text, nullable=False, server_default="[]"))


def downgrade() -> None:
    op.drop_column("jobs", "datasets")
    op.drop_table("job_datasets")
    op.drop_table("dataset_versions")
    op.drop_table("datasets")
