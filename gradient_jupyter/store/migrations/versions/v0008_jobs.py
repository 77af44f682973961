"""What jobs are further asked to be: where they are reached while they run."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("ports", sa.Text))
    op.create_index("ix_jobs_ports", "jobs", ["state"], sqlite_where=sa.text("ports IS NOT NULL"))


def downgrade() -> None:
    op.drop_index("ix_jobs_ports", "jobs")
    op.drop_column("jobs", "ports")
