"""Who may do what with whose secrets, and which one is meant (safety.md A2, B6): also with teams, which
solo has none of."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest
from sqlalchemy import insert

sys.path.insert(0, str(Path(__file__).parent))

from sending import send

from gradient_jupyter.control import jobs
from gradient_jupyter.control.people import members as members_of
from gradient_jupyter.control.people.access import Principal
from gradient_jupyter.control.vault import secrets
from gradient_jupyter.resources.errors import Conflict, Forbidden, NotFound
from gradient_jupyter.resources.job import CreateJob, RerunJob
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


async def waiting(people, who, name="s"):
    """A job of ``who``'s in ada's project that names a secret and has not started."""
    snapshot = await send(people.plane, {"a": b"a"}, who)
    asked = CreateJob(
        command=("true",), snapshot=snapshot, project_id=people.project, env={"V": f"secret:{name}"}
    )  # fmt: skip
    return await jobs.submit(people.plane, who, asked, None)


async def given(plane, job):
    """What the job would get if it started now."""
    return secrets.opened(plane.keyring, await secrets.needed(plane, job))["V"].reveal()


def test_a_projects_secret_is_not_given_to_a_job_whose_sender_was_taken_out(with_plane):
    """Asset: the project's secrets (A2), against who was a member. Also the value that is set afterwards, and
    for who may only look by now."""

    async def work(plane):
        people = await People(plane).come()
        await people.put(people.ada, Scope.PROJECT, people.project)
        job, hers = await waiting(people, people.bob), await waiting(people, people.ada)
        assert await given(plane, job) == await given(plane, hers) == VALUE.reveal()
        await members_of.put(plane, people.ada, people.project, f"user:{people.bob.user_id}", Role.VIEWER)
        for change in (None, members_of.remove(plane, people.ada, people.project, "bob")):
            if change is not None:
                await change
            await people.put(people.ada, Scope.PROJECT, people.project, value=SecretValue("the new one"))
            with pytest.raises(Forbidden) as error:
                await given(plane, job)
            assert error.value.code == "secret-withheld" and "rerun" in error.value.next
            assert await given(plane, hers) == "the new one"
        await members_of.put(plane, people.ada, people.project, "bob", Role.MEMBER)
        assert await given(plane, job) == "the new one"

    with_plane(work)


def test_whoever_is_a_member_through_a_team_is_one_as_long_as_the_team_is(with_plane):
    async def work(plane):
        people = await People(plane).come()
        await people.put(people.ada, Scope.PROJECT, people.project)
        await members_of.put(plane, people.ada, people.project, "group:zoology", Role.MEMBER)
        await members_of.put(plane, people.ada, people.project, "group:botany", Role.MEMBER)
        await members_of.remove(plane, people.ada, people.project, "bob")
        job = await waiting(people, people.bob)
        assert await given(plane, job) == VALUE.reveal()
        await members_of.remove(plane, people.ada, people.project, "group:botany")
        with pytest.raises(Forbidden):
            await given(plane, job)

    with_plane(work)


def test_a_rerun_gives_ones_own_secrets_to_nobody_elses_code(with_plane):
    """Asset: a person's and a team's secrets (A2), against who wrote the job that they run again."""

    async def work(plane):
        people = await People(plane).come()
        ada, bob = people.ada, people.bob
        await people.put(bob, Scope.USER, "")
        job = await waiting(people, bob)

        async def rerun(who, **changes):
            return await jobs.rerun(plane, who, job.id, RerunJob(**changes), None)

        assert await given(plane, await rerun(bob)) == VALUE.reveal()
        for place in ((Scope.USER, ""), (Scope.TEAM, "botany")):
            await people.put(ada, *place, value=SecretValue("her own"))
            for changes in ({}, {"command": ("env",)}, {"env": {"W": "1"}}):
                with pytest.raises(Forbidden) as error:
                    await rerun(ada, **changes)
                assert error.value.code == "secret-of-ones-own"
                assert "--env V=secret:s" in error.value.next
            assert (await rerun(ada, unset=("V",))).env == {}
            assert await given(plane, await rerun(ada, env={"V": "secret:s"})) == "her own"
            await secrets.delete(plane, ada, *place, "s")
        await people.put(ada, Scope.PROJECT, people.project, value=SecretValue("the project's"))
        assert await given(plane, await rerun(ada)) == "the project's"

    with_plane(work)
