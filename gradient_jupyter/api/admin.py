"""Looking after the installation over HTTP: how full the disk is, clearing away, how everything does."""

from __future__ import annotations

from gradient_jupyter.api.routes import Call, Right, Route, cursor
from gradient_jupyter.control.keeping import doctor, usage
from gradient_jupyter.control.people import audit
from gradient_jupyter.resources.admin import Collect, Collected, Diagnosis, DiskUse
from gradient_jupyter.resources.audit import Audit, AuditQuery
from gradient_jupyter.resources.base import Request


class DiskQuery(Request, frozen=True, kw_only=True):
    collectable: bool = False


class DoctorQuery(Request, frozen=True, kw_only=True):
    full: bool = False


async def disk(call: Call) -> DiskUse:
    return await usage.disk_use(call.plane, collectable=call.query.collectable)


async def collect(call: Call) -> Collected:
    call.host.streams += 1  # the server is needed for as long as this takes
    try:
        return await call.plane.keeper.collect(dry_run=call.body.dry_run, trust_clock=call.body.trust_clock)
    finally:
        call.host.streams -= 1


async def diagnose(call: Call) -> Diagnosis:
    call.host.streams += 1
    try:
        return await doctor.examine_plane(call.plane, full=call.query.full)
    finally:
        call.host.streams -= 1


async def record(call: Call) -> Audit:
    return await audit.page(call.plane, call.query, cursor(call.query.cursor))


def routes() -> list[Route]:
    return [
        Route(
            "GET", "/admin/disk", Right.OPERATE, disk, query=DiskQuery, returns=DiskUse,
            summary="What takes how much of the disk",
        ),
        Route(
            "POST", "/admin/collect", Right.OPERATE, collect, body=Collect, returns=Collected,
            summary="Remove what nothing refers to any more, and jobs older than they are kept",
        ),
        Route(
            "GET", "/admin/doctor", Right.OPERATE, diagnose, query=DoctorQuery, returns=Diagnosis,
            summary="How the installation does, and what to do about it",
        ),
        Route(
            "GET", "/admin/audit", Right.OPERATE, record, query=AuditQuery, returns=Audit,
            summary="What changed rights, destroyed or revealed something, newest first",
        ),
    ]  # fmt: skip
