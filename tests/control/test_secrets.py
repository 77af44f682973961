"""Who may do what with whose secrets, and which one is meant (safety.md A2, B6): also with teams, which
solo has none of."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import insert

from gradient_jupyter.control import secrets
from gradient_jupyter.control.access import Principal
from gradient_jupyter.resources.errors import Conflict, Forbidden, NotFound
from gradient_jupyter.resources.owner import Role
from gradient_jupyter.resources.secret import Scope, SecretValue
from gradient_jupyter.store import projects, users
from gradient_jupyter.store import secrets as rows
from gradient_jupyter.store.tables import members

VALUE = SecretValue("long enough")


class People:
    """ada owns a project and is in two teams; bob is in one of them and a member; eve has nothing."""

    def __init__(self, plane):
        self.plane = plane

    async def come(self):
        def work(connection):
            found = [users.ensure(connection, name, name) for name in ("ada", "bob", "eve", "vic")]
            project = projects.create(connection, f"user:{found[0].id}", "leaves", found[0].id)
            teams = projects.create(connection, "group:botany", "orchids", found[0].id)
            for user, role in ((found[1], Role.MEMBER), (found[3], Role.VIEWER)):
                connection.execute(
                    insert(members).values(project_id=project.id, principal=f"user:{user.id}", role=role)
                )
            return found, project.id, teams.id

        (ada, bob, eve, vic), self.project, self.of_team = await self.plane.database.write(work)
        self.ada = Principal(user_id=ada.id, name="ada", groups=("botany", "zoology"))
        self.bob = Principal(user_id=bob.id, name="bob", groups=("botany",))
        self.eve = Principal(user_id=eve.id, name="eve")
        self.vic = Principal(user_id=vic.id, name="vic")
        return self

    async def put(self, who, scope, of, name="s", value=VALUE):
        return await secrets.put(self.plane, who, scope, of, name, value)

    async def meant(self, who, project_id, name="s"):
        """The value that a job of ``who``'s there would get."""

        def work(connection):
            place = projects.place(connection, project_id)
            (bound,) = secrets.meant(connection, who, place, {"V": f"secret:{name}"}).values()
            return bound, rows.get(connection, bound)

        needed = await self.plane.database.read(work)
        return secrets.opened(self.plane.keyring, {"V": needed})["V"].reveal()


def test_a_projects_secrets_are_set_by_its_admins_and_named_to_its_members(with_plane):
    async def work(plane):
        people = await People(plane).come()
        place = (Scope.PROJECT, people.project)
        await people.put(people.ada, *place)
        for who, listed in ((people.ada, True), (people.bob, True), (people.vic, False), (people.eve, None)):
            if listed:
                (found,) = (await secrets.page(plane, who, *place)).items
                assert (found.name, found.scope, found.created_by) == ("s", Scope.PROJECT, people.ada.user_id)
            else:
                with pytest.raises(Forbidden if listed is False else NotFound):
                    await secrets.page(plane, who, *place)
        for who, error in ((people.bob, Forbidden), (people.vic, Forbidden), (people.eve, NotFound)):
            with pytest.raises(error):
                await people.put(who, *place)
            with pytest.raises(error):
                await secrets.delete(plane, who, *place, "s")
        assert await people.meant(people.bob, people.project) == VALUE.reveal()
        await secrets.delete(plane, people.ada, *place, "s")

    with_plane(work)


def test_a_teams_secrets_are_its_members_alone(with_plane):
    async def work(plane):
        people = await People(plane).come()
        team = (Scope.TEAM, "botany")
        await people.put(people.bob, *team)
        (found,) = (await secrets.page(plane, people.ada, *team)).items
        assert (found.scope, found.of, found.created_by) == (Scope.TEAM, "botany", people.bob.user_id)
        for who in (people.eve, people.vic):
            for act in (secrets.page(plane, who, *team), people.put(who, *team)):
                with pytest.raises(NotFound) as error:
                    await act
                assert error.value.code == "no-such-team"
            with pytest.raises(NotFound):
                await secrets.delete(plane, who, *team, "s")
            with pytest.raises(NotFound):
                await people.meant(who, people.project)
        assert await people.meant(people.bob, people.project) == VALUE.reveal()

    with_plane(work)


def test_ones_own_secrets_are_nobody_elses(with_plane):
    """Also not in a project of somebody else's, whose owner's secrets are not what a member means."""

    async def work(plane):
        people = await People(plane).come()
        await people.put(people.ada, Scope.USER, "")
        assert (await secrets.page(plane, people.bob, Scope.USER)).items == ()
        with pytest.raises(NotFound):
            await secrets.delete(plane, people.bob, Scope.USER, "", "s")
        with pytest.raises(NotFound):
            await people.meant(people.bob, people.project)
        assert await people.meant(people.ada, people.project) == VALUE.reveal()
        # Whoever is later given the old name of somebody does not inherit: owners are ids.
        assert (await secrets.page(plane, called(people.eve, "ada"), Scope.USER)).items == ()

    with_plane(work)


def called(who, name):
    return Principal(user_id=who.user_id, name=name, groups=who.groups)


def test_the_more_specific_secret_is_meant(with_plane):
    """The project's before one's own before a team's; the team that owns the project before others."""

    async def work(plane):
        people = await People(plane).come()
        ada = people.ada
        await people.put(ada, Scope.TEAM, "botany", value=SecretValue("of botany"))
        assert await people.meant(ada, people.project) == "of botany"
        await people.put(ada, Scope.TEAM, "zoology", value=SecretValue("of zoology"))
        assert await people.meant(ada, people.of_team) == "of botany"
        with pytest.raises(Conflict) as error:
            await people.meant(ada, people.project)
        assert error.value.code == "secret-ambiguous" and people.project in error.value.next
        await people.put(ada, Scope.USER, "", value=SecretValue("her own"))
        assert await people.meant(ada, people.project) == await people.meant(ada, people.of_team) == "her own"
        await people.put(ada, Scope.PROJECT, people.project, value=SecretValue("the project's"))
        assert await people.meant(ada, people.project) == "the project's"
        assert await people.meant(ada, people.of_team) == "her own"

    with_plane(work)


def test_there_are_not_more_secrets_than_anybody_needs(with_plane, monkeypatch):
    monkeypatch.setattr(secrets, "_MOST", 3)

    async def work(plane):
        people = await People(plane).come()
        for name in ("a", "b", "c"):
            await people.put(people.ada, Scope.USER, "", name)
        with pytest.raises(Conflict) as error:
            await people.put(people.ada, Scope.USER, "", "d")
        assert error.value.code == "too-many-secrets"
        await people.put(people.ada, Scope.USER, "", "a")
        await people.put(people.bob, Scope.USER, "", "a")

    with_plane(work)


def test_many_at_once_make_one_key_and_changes_of_it_lose_nothing(with_plane):
    """Fault: concurrent callers."""

    async def work(plane):
        people = await People(plane).come()
        await asyncio.gather(*(people.put(people.ada, Scope.USER, "", f"n{number}") for number in range(20)))
        assert len(plane.keyring.ids) == 1
        await asyncio.gather(
            *(secrets.rotate(plane) for _ in range(4)),
            *(people.put(people.ada, Scope.USER, "", f"n{number}") for number in range(20, 40)),
        )
        assert all(each.readable for each in (await secrets.page(plane, people.ada, Scope.USER)).items)
        assert len((await secrets.page(plane, people.ada, Scope.USER)).items) == 40
        used = await plane.database.read(rows.keys)
        assert set(used) <= set(plane.keyring.ids)
        assert {path.name for path in plane.keyring.path.iterdir()} == set(plane.keyring.ids)

    with_plane(work)
