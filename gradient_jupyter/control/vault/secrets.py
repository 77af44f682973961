"""Secrets: set, listed by name, removed; meant by a job's variables; opened when a run starts.

A value comes in by ``put`` and goes out by ``opened`` alone: to the engine when a run starts, and by
``value`` to a repository's host that the server visits for whoever asks. Which secret a variable means is
decided when the job is sent, by who sends it: the project's before their own before their team's. What is set
later under that name is what a later run gets; what is set elsewhere under the same name is not.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Set
from typing import TYPE_CHECKING

import msgspec
from sqlalchemy import Connection

from gradient_jupyter.control.people import access, audit
from gradient_jupyter.control.people.access import Principal
from gradient_jupyter.control.vault.sealing import Unopened, seal, unseal
from gradient_jupyter.resources.errors import Conflict, Forbidden, GradientError, NotFound, ServerError
from gradient_jupyter.resources.job import Job
from gradient_jupyter.resources.owner import Role
from gradient_jupyter.resources.secret import (
    Rotated,
    Scope,
    Secret,
    Secrets,
    SecretValue,
    check_name,
    is_masked,
    mentions,
    references,
)
from gradient_jupyter.store import projects as project_rows
from gradient_jupyter.store import secrets as rows
from gradient_jupyter.store.database import refusal
from gradient_jupyter.store.projects import Place
from gradient_jupyter.store.secrets import Bound, Sealed
from gradient_jupyter.workspace import durable

if TYPE_CHECKING:
    from gradient_jupyter.control.plane import Plane
    from gradient_jupyter.control.vault.keyring import Keyring

log = logging.getLogger(__name__)

_MOST = 1000
"""Secrets of one owner."""


class Withheld:
    """In place of a secret that is there, and not for whoever sent the job."""


_NOT = Withheld()


class Unreadable(GradientError):
    """It is stored and cannot be opened."""

    status = 409
    default_code = "secret-unreadable"


async def page(plane: Plane, principal: Principal, scope: Scope, of: str = "") -> Secrets:
    """Names, and whether their values can still be read."""

    def work(connection: Connection) -> Secrets:
        owner = _owner(connection, principal, scope, of, Role.MEMBER)
        return Secrets(
            items=tuple(
                msgspec.structs.replace(secret, readable=_opens(plane.keyring, sealed))
                for secret, sealed in rows.of(connection, owner)
            )
        )

    return await plane.database.read(work)


async def put(
    plane: Plane, principal: Principal, scope: Scope, of: str, name: str, value: SecretValue
) -> Secret:
    """Stores it, in place of the one of that name. Returns when it is durable."""
    check_name(name)
    await plane.on_files(plane.keyring.read)

    def work(connection: Connection) -> Secret:
        owner = _owner(connection, principal, scope, of, Role.ADMIN)
        if not rows.owners(connection, [owner], name) and rows.count(connection, owner) >= _MOST:
            raise Conflict(
                f"There are {_MOST:,} secrets here already, as many as there may be.",
                next="Delete some that are not needed any more: gradient secrets list",
                code="too-many-secrets",
            )
        key_id = _current(plane.keyring, connection)
        key = plane.keyring.key(key_id)
        assert key is not None, "the current key is one of the keyring's"
        sealed = seal(value, key, owner=owner, name=name, key_id=key_id)
        audit.record(connection, "secret.set", "secret", name, detail=f"of {owner}")
        return rows.put(connection, owner, name, key_id, sealed, is_masked(value), principal.user_id)

    secret = await plane.database.write(work)
    log.info("%s set the secret %s of %s %s", principal.user_id, name, secret.scope, secret.of)
    return secret


async def delete(plane: Plane, principal: Principal, scope: Scope, of: str, name: str) -> None:
    check_name(name)

    def work(connection: Connection) -> str:
        owner = _owner(connection, principal, scope, of, Role.ADMIN)
        if not rows.remove(connection, owner, name):
            raise _absent(name)
        audit.record(connection, "secret.delete", "secret", name, detail=f"of {owner}")
        return owner

    owner = await plane.database.write(work)
    log.info("%s deleted the secret %s of %s", principal.user_id, name, owner)


def meant(
    connection: Connection,
    principal: Principal,
    project: Place,
    env: Mapping[str, str],
    theirs: Set[str] = frozenset(),
) -> dict[str, Bound]:
    """Which secrets the variables of a job in ``project`` mean, that ``principal`` sends. Those in ``theirs``
    somebody else has written: they mean the project's secrets alone.

    Raises ``NotFound`` for one that there is not, ``Conflict`` for one that two teams have, and ``Forbidden``
    for one that somebody else has written and that would mean a secret of the sender's.
    """
    found = {}
    for variable, name in references(env).items():
        bound = found[variable] = _meant(connection, principal, project, name)
        if variable in theirs and not bound.owner.startswith("project:"):
            raise Forbidden(
                f"{variable} would give the secret {name!r} of your own to a job that somebody else has "
                "written.",
                next=f"If you trust it: --env {variable}=secret:{name}. Without it: --unset {variable}.",
                code="secret-of-ones-own",
            )
    return found


async def value(
    plane: Plane, principal: Principal, name: str, find: Callable[[Connection], Place | None]
) -> SecretValue:
    """What ``name`` means to whoever asks now, in the project that ``find`` finds: for what the server does
    on their behalf. Raises as ``meant`` and ``opened`` do."""

    def work(connection: Connection) -> tuple[Bound, Sealed | None]:
        bound = _meant(connection, principal, find(connection), name)
        return bound, rows.get(connection, bound)

    return opened(plane.keyring, {name: await plane.database.read(work)})[name]


def _meant(connection: Connection, principal: Principal, project: Place | None, name: str) -> Bound:
    # Through a token that opens one project, that project's alone: neither the person's own nor their teams'.
    free = principal.bound is None
    own = [principal.owner] if free else []
    teams = [f"group:{group}" for group in principal.groups] if free else []
    # The project's own team first: it is the more specific one.
    first = own if project is None else [f"project:{project.id}", *own, project.owner]
    asked = [owner for owner in first if owner.startswith("project:") or owner in (*own, *teams)]
    there = rows.owners(connection, [*asked, *teams], name)
    for owner in asked:
        if owner in there:
            return Bound(owner, name)
    having = [team for team in teams if team in there]
    if len(having) > 1:
        where = f" --projectId {project.id}" if project is not None else ""
        raise Conflict(
            f"{len(having)} of your teams have a secret {name!r}, and it is not clear which is meant.",
            next=f"Set the one you mean for the project or for yourself: gradient secrets set {name}{where}",
            code="secret-ambiguous",
        )
    if not having:
        raise _absent(name)
    return Bound(having[0], name)


def opened(
    keyring: Keyring, needed: Mapping[str, tuple[Bound, Sealed | Withheld | None]]
) -> dict[str, SecretValue]:
    """The values for a job's variables. Raises ``NotFound``, ``Unreadable`` and ``Forbidden`` for what cannot
    be had."""
    return {variable: _opened(keyring, bound, sealed) for variable, (bound, sealed) in needed.items()}


async def needed(plane: Plane, job: Job) -> dict[str, tuple[Bound, Sealed | Withheld | None]]:
    """What the variables of a job mean, as far as it is still there and its sender may still use it. Those of
    a job that was sent before there were secrets mean what they say."""
    if not mentions(job.env):
        return {}

    def work(connection: Connection) -> dict[str, tuple[Bound, Sealed | Withheld | None]]:
        return {
            variable: (bound, rows.get(connection, bound) if _may(connection, job, bound, through) else _NOT)
            for variable, (bound, through) in rows.meant(connection, job.id).items()
        }

    found = await plane.database.read(work)
    sealed = [each for _, each in found.values() if isinstance(each, Sealed)]
    if any(plane.keyring.key(each.key_id) is None for each in sealed):
        await plane.on_files(plane.keyring.read)  # somebody may have put the key back
    return found


def _may(connection: Connection, job: Job, bound: Bound, through: str) -> bool:
    """Whether who sent the job is still where that secret is used. Who is in a group is known only while they
    ask; a group that is in the project no more is known at any time."""
    kind, _, identity = bound.owner.partition(":")
    if kind != "project":
        return True
    held = project_rows.role(connection, [f"user:{job.created_by}", through], identity)
    return held is not None and held.includes(Role.MEMBER)


async def rotate(plane: Plane) -> Rotated:
    """A new key, and every secret that can be read encrypted under it. What cannot be read stays as it is.

    Cut off anywhere it has lost nothing: the new key is on the disk before anything is encrypted under it,
    the secrets change in one transaction, and an old key goes when no secret names it any more. The next
    start of the server finishes it.
    """
    if plane.read_only:
        raise refusal(plane.read_only)
    async with plane.keyring.changing:
        used = await plane.database.read(rows.keys)
        await plane.on_files(plane.keyring.read)
        await plane.on_files(plane.keyring.make, used)
        return await _settle(plane, "secret.rotate")


async def _settle(plane: Plane, action: str = "") -> Rotated:
    """Brings every secret under the current key, and removes the keys that are of no more use. As ``action``
    it is recorded."""
    keyring = plane.keyring
    current = keyring.current
    if current is None:
        return Rotated(key_id="", secrets=0, unreadable=0)
    key = keyring.key(current)
    assert key is not None, "the current key is one of the keyring's"

    def work(connection: Connection) -> dict[str, int]:
        for old in rows.elsewhere(connection, current):
            try:
                value = _opened(keyring, Bound(old.owner, old.name), old)
            except Unreadable:
                continue
            sealed = seal(value, key, owner=old.owner, name=old.name, key_id=current)
            rows.reseal(connection, old, current, sealed)
        if action:
            audit.record(connection, action, "key", current)
        return rows.keys(connection)

    used = await plane.database.write(work)
    await plane.on_files(keyring.remove, [each for each in keyring.ids if each not in used])
    rest = sum(used.values()) - used.get(current, 0)
    return Rotated(key_id=current, secrets=used.get(current, 0), unreadable=rest)


async def finish(plane: Plane) -> None:
    """At the start: a change of the key that was cut off is brought to its end."""
    if len(plane.keyring.ids) > 1 and not plane.read_only:
        try:
            async with plane.keyring.changing:
                await _settle(plane)
        except (GradientError, OSError) as error:
            log.warning("the change of the key for secrets cannot be finished now: %s", error)
    for problem in await trouble(plane):
        log.warning("%s", problem)


async def trouble(plane: Plane) -> tuple[str, ...]:
    """What is wrong with secrets and their keys, in sentences with the way out."""
    await plane.on_files(plane.keyring.read)
    try:
        used = await plane.database.read(rows.keys)
    except ServerError as error:  # a damaged page: what else is there is served all the same
        return (f"The secrets cannot be read: {error}",)
    problem = missing(plane.keyring, used)
    return (problem, *plane.keyring.trouble) if problem else plane.keyring.trouble


def missing(keyring: Keyring, used: Mapping[str, int]) -> str:
    """What is to be said where secrets are under keys that are not there; empty when none is."""
    gone = {key_id: count for key_id, count in used.items() if key_id not in keyring.ids}
    lost = {key_id: count for key_id, count in gone.items() if keyring.key(key_id) is None}
    if gone and not lost:
        return (
            f"The key {', '.join(sorted(gone))} for secrets is gone from {keyring.path}; this server alone "
            "still has it, and when it ends they are lost. Put it back from a backup, or make a new one now: "
            "gradient admin rotate-key"
        )
    if not lost:
        return ""
    many = sum(lost.values())
    return (
        f"{many} {'secret' if many == 1 else 'secrets'} cannot be read: the key {', '.join(sorted(lost))} is "
        f"not in {keyring.path}. Put it back from a backup, or set them anew (gradient secrets list "
        "shows which)."
    )


def _current(keyring: Keyring, connection: Connection) -> str:
    """The key to encrypt under. One is made when no secret exists, and never in place of one that is lost."""
    if keyring.current is not None:
        return keyring.current
    used = rows.keys(connection)
    if used:
        raise Conflict(
            f"The key for secrets is missing: {', '.join(sorted(used))} is not in {keyring.path}. "
            "None is made in its place, because what is stored could not be read any more.",
            next="Put it back from a backup. If it is lost, gradient admin rotate-key makes a new one; then "
            "set the secrets anew.",
            code="secrets-key-missing",
        )
    try:
        return keyring.make()
    except OSError as error:
        if error.errno in durable.NO_SPACE:
            raise
        raise ServerError(
            f"A key for secrets cannot be made in {keyring.path}: {error.strerror}. Nothing was stored.",
            next="The administrator makes it a directory that the server alone may write.",
            code="secrets-key-unwritable",
        ) from error


def _opens(keyring: Keyring, sealed: Sealed) -> bool:
    try:
        _opened(keyring, Bound(sealed.owner, sealed.name), sealed)
    except Unreadable:
        return False
    return True


def _opened(keyring: Keyring, bound: Bound, sealed: Sealed | Withheld | None) -> SecretValue:
    kind, _, identity = bound.owner.partition(":")
    if isinstance(sealed, Withheld):
        raise Forbidden(
            f"The secret {bound.name!r} is given to the project's members, and who sent this job is none any "
            "more.",
            next="Somebody who is a member can run it again: gradient jobs rerun JOB",
            code="secret-withheld",
        )
    if sealed is None:
        raise NotFound(
            f"The secret {bound.name!r} that this job needs was deleted after it was sent.",
            next=f"Set it again, {_set(kind, identity, bound.name)}, and run the job again.",
            code="no-such-secret",
        )
    key = keyring.key(sealed.key_id)
    if key is None:
        raise Unreadable(
            f"The secret {bound.name!r} cannot be read: the key {sealed.key_id} it is encrypted under is "
            "missing on the server.",
            next="The administrator can put the key back (gradient admin doctor says where); or set the "
            f"secret anew, {_set(kind, identity, bound.name)}.",
        )
    try:
        return unseal(sealed.sealed, key, owner=sealed.owner, name=sealed.name, key_id=sealed.key_id)
    except Unopened:
        raise Unreadable(
            f"The secret {bound.name!r} cannot be read: what is stored of it is damaged.",
            next=f"Set it anew, {_set(kind, identity, bound.name)}, and run the job again.",
        ) from None


def _set(kind: str, identity: str, name: str) -> str:
    whose = {"project": f" --projectId {identity}", "group": f" --team {identity}"}.get(kind, "")
    return f"gradient secrets set {name}{whose}"


def _owner(connection: Connection, principal: Principal, scope: Scope, of: str, role: Role) -> str:
    """Whose secrets these are, if ``principal`` has that role there. Raises ``NotFound``, ``Forbidden``."""
    match scope:
        case Scope.USER:
            access.check_unbound(principal)
            return principal.owner
        case Scope.PROJECT:
            return f"project:{access.project(connection, principal, of, role).id}"
        case Scope.TEAM:
            if f"group:{of}" not in principal.all:
                raise NotFound(
                    f"There is no team {of!r}.",
                    next="A secret may be yours or a project's: gradient secrets set NAME [--project NAME]",
                    code="no-such-team",
                )
            return f"group:{of}"


def _absent(name: str) -> NotFound:
    return NotFound(
        f"There is no secret {name!r}.",
        next=f"gradient secrets list shows what there is; gradient secrets set {name} sets it.",
        code="no-such-secret",
    )
