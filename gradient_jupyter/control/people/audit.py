"""The audit record: what changed rights, destroyed or revealed something, stored with the change itself.

``record`` belongs into the transaction of what it tells of: either both are stored or neither. Who did it,
from where and in which request comes from ``context``. Requests with tokens that are none are only counted:
each address has at most one entry a minute, however many it sends.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING

from sqlalchemy import Connection

from gradient_jupyter.control import context
from gradient_jupyter.control.context import Asking
from gradient_jupyter.resources.audit import Audit, AuditQuery
from gradient_jupyter.resources.base import now_us
from gradient_jupyter.store import audit as rows
from gradient_jupyter.store import tokens as token_rows
from gradient_jupyter.store.database import Database

if TYPE_CHECKING:
    from gradient_jupyter.control.plane import Plane

log = logging.getLogger(__name__)

_WINDOW_S = 60.0
_ADDRESSES = 256
_LONGEST = 500
_DAY_US = 86_400_000_000


def record(
    connection: Connection,
    action: str,
    noun: str = "",
    id: str = "",
    *,
    detail: str = "",
    result: str = "done",
    by: Asking | None = None,
) -> None:
    """Notes that whoever asks has done ``action`` (``noun.verb``) to the thing of that id.

    ``detail``: a few words, never a secret; what users named goes in as it is and is cut.
    """
    who = by or context.current()
    rows.append(
        connection, time_us=now_us(), action=action, result=result, noun=noun, id=id[:_LONGEST],
        user_id=who.user_id, token_id=who.token_id, attempt=who.attempt, address=who.address,
        request_id=who.request_id, detail=detail[:_LONGEST],
    )  # fmt: skip


async def page(plane: Plane, query: AuditQuery, before: int | None) -> Audit:
    """Entries, newest first. That somebody read them is an entry, too; a page that goes on is not told
    again."""
    if before is None and not plane.read_only:
        await plane.database.write(partial(record, action="audit.read", noun="audit"))
    items, following = await plane.database.read(
        partial(rows.page, limit=query.limit, before=before, since_us=query.since_us)
    )
    return Audit(items=tuple(items), next=None if following is None else str(following))


def trim(connection: Connection, keep_days: float, keep_most: int) -> int:
    """Forgets what is older than it is kept, and tokens that ended as long ago. Returns how many entries."""
    before_us = now_us() - round(keep_days * _DAY_US)
    token_rows.forget(connection, before_us)
    return rows.trim(connection, before_us, keep_most)


class Refusals:
    """Requests that were refused for their token. Of one event loop."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._counted: dict[tuple[str, str, str], tuple[int, Asking]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._writing: asyncio.Task[None] | None = None
        self.total = 0

    def count(self, asking: Asking, code: str) -> None:
        self.total += 1
        key = (asking.address, asking.token_id, code)
        if key not in self._counted and len(self._counted) >= _ADDRESSES:
            key, asking = ("elsewhere", "", code), Asking(address="elsewhere")
        number, first = self._counted.get(key, (0, asking))
        self._counted[key] = (number + 1, first)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_WINDOW_S, self._due)

    async def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._writing is not None:
            await self._writing
        await self._write()

    def _due(self) -> None:
        self._timer = None
        self._writing = asyncio.create_task(self._write(), name="refusals")

    async def _write(self) -> None:
        counted, self._counted = self._counted, {}
        if not counted or self._database.read_only:
            return

        def work(connection: Connection) -> None:
            for (_, _, code), (number, first) in counted.items():
                told = code if number == 1 else f"{code}, {number:,} times within {_WINDOW_S:.0f} s"
                record(connection, "login", result="refused", detail=told, by=first)

        try:
            await self._database.write(work)
        except Exception as error:
            log.warning("%d refused requests are not in the audit record: %s", len(counted), error)
