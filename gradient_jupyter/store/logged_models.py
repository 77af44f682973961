"""MLflow's logged models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Connection, delete, func, insert, select, update
from sqlalchemy.engine import Row

from gradient_jupyter.resources.base import now_us
from gradient_jupyter.resources.decoding import decode
from gradient_jupyter.resources.tracking import LoggedModel
from gradient_jupyter.store.tables import logged_models


def create(connection: Connection, model: LoggedModel) -> None:
    connection.execute(
        insert(logged_models).values(
            id=model.id, project_id=model.project_id, run_id=model.run_id, name=model.name,
            model_type=model.model_type, status=model.status, params=_json(model.params),
            tags=_json(model.tags), created_us=model.created_us, updated_us=model.updated_us,
        )
    )  # fmt: skip


def count(connection: Connection, project_id: str) -> int:
    return connection.execute(
        select(func.count()).select_from(logged_models).where(logged_models.c.project_id == project_id)
    ).scalar_one()


def get(connection: Connection, model_id: str) -> LoggedModel | None:
    row = connection.execute(select(logged_models).where(logged_models.c.id == model_id)).first()
    return _model(row) if row else None


def change(
    connection: Connection,
    model: LoggedModel,
    *,
    status: str | None = None,
    params: dict[str, str] | None = None,
    tags: dict[str, str] | None = None,
) -> LoggedModel:
    changed = msgspec.structs.replace(
        model, status=status or model.status, params=model.params if params is None else params,
        tags=model.tags if tags is None else tags, updated_us=now_us(),
    )  # fmt: skip
    connection.execute(
        update(logged_models)
        .where(logged_models.c.id == model.id)
        .values(
            status=changed.status, params=_json(changed.params), tags=_json(changed.tags),
            updated_us=changed.updated_us,
        )
    )  # fmt: skip
    return changed


def erase(connection: Connection, model_id: str) -> None:
    connection.execute(delete(logged_models).where(logged_models.c.id == model_id))


def of_runs_or_projects(connection: Connection, scope: ColumnElement[bool]) -> Sequence[LoggedModel]:
    """Newest first."""
    query = select(logged_models).where(scope).order_by(logged_models.c.seq.desc())
    return [_model(row) for row in connection.execute(query)]


def _model(row: Row[Any]) -> LoggedModel:
    return LoggedModel(
        id=row.id, project_id=row.project_id, run_id=row.run_id, name=row.name, model_type=row.model_type,
        status=row.status, params=decode(row.params, type=dict[str, str]),
        tags=decode(row.tags, type=dict[str, str]), created_us=row.created_us, updated_us=row.updated_us,
    )  # fmt: skip


def _json(value: dict[str, str]) -> str:
    return msgspec.json.encode(value).decode()
