"""Who shares a project: only its admins decide, its owner stays, and nobody learns of what is not theirs."""

from __future__ import annotations

import pytest

from gradient_jupyter.control.data import snapshots
from gradient_jupyter.control.people import members, projects
from gradient_jupyter.control.people.access import Principal
from gradient_jupyter.control.plane import Plane
from gradient_jupyter.resources.errors import Conflict, Forbidden, GradientError, NotFound
from gradient_jupyter.resources.owner import Role
from gradient_jupyter.resources.snapshot import Manifest
from gradient_jupyter.store import events, users


async def people(plane: Plane, *names: str, groups: tuple[str, ...] = ()) -> list[Principal]:
    def arrive(connection):
        return [users.ensure(connection, f"{number}:{name}", name) for number, name in enumerate(names)]

    known = await plane.database.write(arrive)
    return [Principal(user_id=user.id, name=user.name, groups=groups) for user in known]


async def refusal(work, kind: type[GradientError], code: str = "") -> GradientError:
    with pytest.raises(kind) as refused:
        await work
    assert not code or refused.value.code == code
    return refused.value


def test_a_member_may_do_what_their_role_says(with_plane) -> None:
    async def work(plane: Plane) -> None:
        ann, ben, cat = await people(plane, "ann", "ben", "cat")
        project = await projects.create(plane, ann, "leaf")
        await refusal(projects.get(plane, ben, project.id), NotFound)
        await members.put(plane, ann, project.id, "ben", Role.VIEWER)
        assert (await projects.get(plane, ben, project.id)).name == "leaf"
        assert [each.id for each in (await projects.page(plane, ben, 10, None)).items] == [project.id]
        for who in (ben, cat):
            kind = Forbidden if who is ben else NotFound
            await refusal(members.put(plane, who, project.id, "cat", Role.VIEWER), kind)
            await refusal(members.remove(plane, who, project.id, "ben"), kind)
            await refusal(projects.rename(plane, who, project.id, "x"), kind)
        await refusal(members.page(plane, cat, project.id), NotFound)
        await members.put(plane, ann, project.id, f"user:{ben.user_id}", Role.ADMIN)
        await members.put(plane, ben, project.id, "cat", Role.MEMBER)
        listed = (await members.page(plane, cat, project.id)).items
        assert (listed[0].name, listed[0].owner, listed[0].role) == ("ann", True, Role.ADMIN)
        assert {(each.name, each.role) for each in listed[1:]} == {("ben", Role.ADMIN), ("cat", Role.MEMBER)}
        left = await members.remove(plane, ben, project.id, "ben")
        assert left.items == (), "who has left sees it no more"
        await refusal(projects.get(plane, ben, project.id), NotFound)

    with_plane(work)


def test_the_owner_stays_the_admin(with_plane) -> None:
    async def work(plane: Plane) -> None:
        ann, ben = await people(plane, "ann", "ben")
        project = await projects.create(plane, ann, "leaf")
        await members.put(plane, ann, project.id, "ben", Role.ADMIN)
        for who in (ann, ben):
            for name in ("ann", ann.owner):
                await refusal(members.put(plane, who, project.id, name, Role.VIEWER), Conflict, "owner-stays")
                await refusal(members.remove(plane, who, project.id, name), Conflict, "owner-stays")

    with_plane(work)


def test_only_who_is_known_can_be_named(with_plane) -> None:
    async def work(plane: Plane) -> None:
        ann, *_ = await people(plane, "ann", "ben", "ben", groups=("botany",))
        project = await projects.create(plane, ann, "leaf")

        def put(who: str):
            return members.put(plane, ann, project.id, who, Role.VIEWER)

        for who in ("nobody", "user:u000000000000", "user:", "", "' OR 1=1 --", "a" * 10_000, "user:\x00"):
            await refusal(put(who), NotFound, "no-such-user")
        for who in ("group:chemistry", "group:botany ", "group:BOTANY"):
            await refusal(put(who), NotFound, "no-such-group")
        told = await refusal(put("ben"), Conflict, "ambiguous-name")
        assert told.next.count("user:u") == 2
        assert (await put("group:botany")).members[0].principal == "group:botany"
        await refusal(members.remove(plane, ann, project.id, told.next.split()[5].rstrip(",.")), NotFound)
        shared = Principal(user_id="u1", name="dan", groups=("botany",))
        assert (await projects.get(plane, shared, project.id)).id == project.id
        later = Principal(user_id=ann.user_id, name="ann")
        await members.remove(plane, later, project.id, "group:botany")
        await refusal(projects.get(plane, shared, project.id), NotFound)

    with_plane(work)


def test_every_change_is_an_event_and_the_same_again_is_none(with_plane) -> None:
    async def work(plane: Plane) -> None:
        ann, _ben = await people(plane, "ann", "ben")
        project = await projects.create(plane, ann, "leaf")

        async def seen() -> int:
            return len(await plane.database.read(lambda c: events.after(c, ann.all, 0, 100)))

        before = await seen()
        await members.put(plane, ann, project.id, "ben", Role.VIEWER)
        await members.put(plane, ann, project.id, "ben", Role.VIEWER)
        assert await seen() == before + 1
        await members.put(plane, ann, project.id, "ben", Role.MEMBER)
        await projects.rename(plane, ann, project.id, "tree")
        await projects.rename(plane, ann, project.id, "tree")
        await members.remove(plane, ann, project.id, "ben")
        assert await seen() == before + 4

    with_plane(work)


def test_a_name_is_had_once_by_each_owner(with_plane) -> None:
    async def work(plane: Plane) -> None:
        ann, ben = await people(plane, "ann", "ben")
        await projects.create(plane, ann, "leaf")
        tree = await projects.create(plane, ann, "tree")
        await projects.create(plane, ben, "bark")
        await refusal(projects.rename(plane, ann, tree.id, "leaf"), Conflict, "name-taken")
        assert (await projects.rename(plane, ann, tree.id, "bark")).name == "bark"
        await snapshots.create(plane, ann, Manifest(entries=()))

    with_plane(work)
