"""alembic's way in. It runs on the connection that ``schema.migrate`` hands over."""

from __future__ import annotations

from alembic import context

from gradient_jupyter.store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=False,  # ``schema.migrate`` holds the one transaction around all steps
)
context.run_migrations()
