"""Secrets, encrypted, and which of them a job's variables mean."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "secrets",
        sa.Column("owner", sa.String, primary_key=True),
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("project_id", sa.String, sa.ForeignKey("projects.id", ondelete="CASCADE")),
        sa.Column("key_id", sa.String, nullable=False),
        sa.Column("sealed", sa.LargeBinary, nullable=False),
        sa.Column("masked", sa.Boolean, nullable=False),
        sa.Column("created_us", sa.Integer, nullable=False),
        sa.Column("created_by", sa.String, nullable=False),
        sa.Column("changed_us", sa.Integer, nullable=False),
        sa.Column("changed_by", sa.String, nullable=False),
    )
    op.create_index("ix_secrets_project_id", "secrets", ["project_id"])
    op.create_table(
        "job_secrets",
        sa.Column("job_id", sa.String, sa.ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("variable", sa.String, primary_key=True),
        sa.Column("owner", sa.String, nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("through", sa.String, nullable=False),
    )


def downgrade() -> None:
    op.drop_table("job_secrets")
    op.drop_index("ix_secrets_project_id", "secrets")
    op.drop_table("secrets")
