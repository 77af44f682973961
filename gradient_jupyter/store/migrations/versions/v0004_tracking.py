"""What runs say of themselves: MLflow's runs, parameters, tags, inputs and logged models."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "runs",
        sa.Column("seq", sa.Integer, primary_key=True),
        sa.Column("id", sa.String, nullable=False, unique=True),
        sa.Column("project_id", sa.String, sa.ForeignKey("projects.id", ondelete="CASCADE"), nullable=False),
        sa.Column("job_id", sa.String, sa.ForeignKey("jobs.id", ondelete="CASCADE")),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("name", sa.String),
        sa.Column("status", sa.String, nullable=False),
        sa.Column("user", sa.String, nullable=False),
        sa.Column("created_by", sa.String, nullable=False),
        sa.Column("created_us", sa.Integer, nullable=False),
        sa.Column("start_us", sa.Integer, nullable=False),
        sa.Column("end_us", sa.Integer),
        sa.Column("deleted_us", sa.Integer),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_runs_project_id_start_us", "runs", ["project_id", "start_us"])
    op.create_index("ix_runs_job_id", "runs", ["job_id"])
    for name in ("run_params", "run_tags"):
        op.create_table(
            name,
            _of_run(),
            sa.Column("key", sa.String, primary_key=True),
            sa.Column("value", sa.Text, nullable=False),
        )
    op.create_table(
        "run_inputs",
        _of_run(),
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("digest", sa.String, primary_key=True),
        sa.Column("source_type", sa.String, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("schema", sa.Text),
        sa.Column("profile", sa.Text),
        sa.Column("tags", sa.Text, nullable=False),
    )
    op.create_table(
        "run_models",
        _of_run(),
        sa.Column("model_id", sa.String, primary_key=True),
        sa.Column("direction", sa.String, primary_key=True),
        sa.Column("step", sa.Integer, nullable=False),
    )
    op.create_table(
        "project_tags",
        sa.Column(
            "project_id", sa.String, sa.ForeignKey("projects.id", ondelete="CASCADE"), primary_key=True
        ),
        sa.Column("key", sa.String, primary_key=True),
        sa.Column("value", sa.Text, nullable=False),
    )
    op.create_table(
        "logged_models",
        sa.Column("seq", sa.Integer, primary_key=True),
        sa.Column("id", sa.String, nullable=False, unique=True),
        sa.Column("project_id", sa.String, sa.ForeignKey("projects.id", ondelete="CASCADE"), nullable=False),
        sa.Column("run_id", sa.String, sa.ForeignKey("runs.id", ondelete="CASCADE")),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("model_type", sa.String, nullable=False),
        sa.Column("status", sa.String, nullable=False),
        sa.Column("params", sa.Text, nullable=False),
        sa.Column("tags", sa.Text, nullable=False),
        sa.Column("created_us", sa.Integer, nullable=False),
        sa.Column("updated_us", sa.Integer, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_logged_models_project_id_seq", "logged_models", ["project_id", "seq"])
    op.create_index("ix_logged_models_run_id", "logged_models", ["run_id"])


def _of_run() -> sa.Column[str]:
    return sa.Column("run_id", sa.String, sa.ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)


def downgrade() -> None:
    for name in (
        "logged_models", "project_tags", "run_models", "run_inputs", "run_tags", "run_params", "runs"
    ):  # fmt: skip
        op.drop_table(name)
