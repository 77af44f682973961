"""Tokens people make, and the record of what was done."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_TEXTS = ("action", "result", "noun", "id", "user_id", "token_id", "attempt", "address", "request_id")


def upgrade() -> None:
    op.create_table(
        "tokens",
        sa.Column("seq", sa.Integer, primary_key=True),
        sa.Column("id", sa.String, nullable=False, unique=True),
        sa.Column("user_id", sa.String, sa.ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("digest", sa.String, nullable=False, unique=True),
        sa.Column("scopes", sa.Text, nullable=False),
        sa.Column("project_id", sa.String, sa.ForeignKey("projects.id", ondelete="CASCADE")),
        sa.Column("parent", sa.String, sa.ForeignKey("tokens.id", ondelete="CASCADE")),
        sa.Column("created_us", sa.Integer, nullable=False),
        sa.Column("expires_us", sa.Integer),
        sa.Column("last_used_us", sa.Integer),
        sa.Column("revoked_us", sa.Integer),
        sqlite_autoincrement=True,
    )
    for column in ("user_id", "parent", "project_id"):
        op.create_index(f"ix_tokens_{column}", "tokens", [column])
    op.create_table(
        "audit",
        sa.Column("seq", sa.Integer, primary_key=True),
        sa.Column("time_us", sa.Integer, nullable=False),
        *(sa.Column(name, sa.String, nullable=False) for name in _TEXTS),
        sa.Column("detail", sa.Text, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_audit_time_us", "audit", ["time_us"])
    op.execute(
        "CREATE TRIGGER audit_is_never_changed BEFORE UPDATE ON audit "
        "BEGIN SELECT RAISE(ABORT, 'the record of what was done is never changed'); END"
    )


def downgrade() -> None:
    op.execute("DROP TRIGGER audit_is_never_changed")
    op.drop_table("audit")
    op.drop_table("tokens")
