"""The record of what was done. Asset A7 (integrity of records); boundary B2; rows 41, 45, abuse case 18."""

from __future__ import annotations

import asyncio
import sqlite3
from functools import partial

import pytest
from people import CANARY, People

from gradient_jupyter.control import context
from gradient_jupyter.control.context import Asking
from gradient_jupyter.control.people import audit as control
from gradient_jupyter.resources.base import now_us
from gradient_jupyter.store import audit as rows
from gradient_jupyter.store import schema
from gradient_jupyter.store.database import Database


def entries(people: People, **query: object) -> list[dict[str, object]]:
    text = "&".join(f"{name}={value}" for name, value in {"limit": 1000, **query}.items())
    return people.ask("operator", "GET", f"/api/v1/admin/audit?{text}").json()["items"]


def test_what_changes_rights_or_destroys_says_who_what_when_and_from_where(people):
    began = now_us()
    made = people.ask(
        "owner", "POST", "/api/v1/tokens", body={"name": "recorded"}, headers={"X-Request-Id": "my-own.1"}
    ).json()
    token = made["info"]["id"]
    people.ask("owner", "DELETE", f"/api/v1/tokens/{token}")
    job = people.finished_job()
    people.ask("admin", "DELETE", f"/api/v1/jobs/{job}/artifacts/model.bin")
    people.ask("admin", "DELETE", f"/api/v1/jobs/{job}")
    people.gone(f"/api/v1/jobs/{job}")
    project = people.new_project()
    people.ask("owner", "DELETE", f"/api/v1/projects/{project}")
    people.ask("operator", "POST", "/api/v1/admin/collect", body={"dry_run": False})
    found = {(each["action"], each["id"]): each for each in entries(people, since_us=began)}
    for action, thing, who in (
        ("token.create", token, "owner"),
        ("token.revoke", token, "owner"),
        ("artifact.delete", job, "admin"),
        ("job.delete", job, "admin"),
        ("project.delete", project, "owner"),
        ("server.collect", "", "operator"),
        ("audit.read", "", "operator"),
    ):
        each = found[action, thing]
        assert each["user_id"] == people.user_ids[who]
        assert each["token_id"] == people.ids.get(f"token-{who}", "")
        assert (each["address"], each["result"]) == ("127.0.0.1", "done")
        assert began <= each["time_us"] <= now_us()
        assert each["request_id"]
    assert found["token.create", token]["request_id"] == "my-own.1"
    people.quiet()


def test_members_secrets_data_runs_and_names_are_recorded_without_any_value(people):
    """Each in the transaction of the change; what was set already, or is named so already, is no change."""
    began, ids = now_us(), people.ids
    project = people.new_project()
    at = f"/api/v1/projects/{project}"
    guest = f"{at}/members/{ids['guest']}"

    def ask(who: str, method: str, path: str, body: object = None) -> None:
        assert people.ask(who, method, path, body=body).status < 300, (who, method, path)

    for role in ("viewer", "viewer", "member"):
        ask("admin", "PUT", guest, {"role": role})
    ask("admin", "DELETE", guest)
    value = "a value that nobody is told"
    ask("admin", "PUT", f"{at}/secrets/recorded", {"value": value})
    ask("admin", "DELETE", f"{at}/secrets/recorded")
    ask("owner", "PUT", "/api/v1/secrets/user/recorded", {"value": value})
    ask("operator", "POST", "/api/v1/admin/secrets/rotate")
    ask("owner", "PATCH", at, {"name": "renamed once"})
    ask("owner", "PATCH", at, {"name": "renamed once"})
    mlflow = "/mlflow/api/2.0/mlflow"
    ask(
        "owner",
        "POST",
        f"{mlflow}/experiments/update",
        {"experiment_id": project, "new_name": "renamed twice"},
    )
    ask(
        "owner",
        "POST",
        f"{mlflow}/experiments/update",
        {"experiment_id": project, "new_name": "renamed twice"},
    )
    dataset, run, model = people.new_dataset(), people.new_run(), people.new_model()
    ask("owner", "DELETE", f"/api/v1/datasets/{dataset}")
    note = people.new_note("recorded.txt")
    ask("member", "DELETE", f"{mlflow}-artifacts/artifacts/{note}")
    ask("member", "POST", f"{mlflow}/runs/delete", {"run_id": run})
    ask("member", "DELETE", f"{mlflow}/logged-models/{model}")
    ask("owner", "POST", f"{mlflow}/experiments/delete", {"experiment_id": project})
    found = entries(people, since_us=began)
    told = [(each["action"], each["id"], each["user_id"]) for each in reversed(found)]
    owner, admin, member = (people.user_ids[who] for who in ("owner", "admin", "member"))
    keys = people.root / "config" / "gradient_jupyter"
    (rotated,) = (each["id"] for each in found if each["action"] == "secret.rotate")
    assert rotated and keys.exists()
    assert [each for each in told if each[0] not in ("audit.read", "login")] == [
        ("member.set", project, admin),
        ("member.set", project, admin),
        ("member.remove", project, admin),
        ("secret.set", "recorded", admin),
        ("secret.delete", "recorded", admin),
        ("secret.set", "recorded", owner),
        ("secret.rotate", rotated, people.user_ids["operator"]),
        ("project.rename", project, owner),
        ("project.rename", project, owner),
        ("dataset.delete", dataset, owner),
        ("artifact.delete", ids["run"], member),
        ("run.delete", run, member),
        ("model.delete", model, member),
        ("project.delete", project, owner),
    ]
    details = {(each["action"], each["user_id"]): str(each["detail"]) for each in reversed(found)}
    assert details["member.set", admin] == f"{ids['guest']} as member"
    assert details["secret.set", admin] == f"of project:{project}"
    assert details["secret.set", owner] == f"of user:{owner}"
    assert not any(value in str(each) for each in found)
    assert all(each["address"] == "127.0.0.1" and each["request_id"] for each in found)


def test_what_a_run_does_to_its_own_is_not_recorded_as_a_persons_deed(people):
    """Scripts begin and delete nested runs by the hundred: that is work, and would push out what matters."""
    began = now_us()
    mlflow = "/mlflow/api/2.0/mlflow/runs"
    made = people.ask("job", "POST", f"{mlflow}/create", body={"experiment_id": "0"}).json()["run"]["info"]
    assert people.ask("job", "POST", f"{mlflow}/delete", body={"run_id": made["run_id"]}).status == 200
    assert {each["action"] for each in entries(people, since_us=began)} == {"audit.read"}


def test_what_was_refused_or_undone_leaves_no_entry_that_it_was_done(people):
    """The entry and the change are one transaction."""
    began = now_us()
    project, job = people.ids["project"], people.ids["done"]
    assert people.ask("owner", "DELETE", f"/api/v1/projects/{project}").status == 409
    assert people.ask("member", "DELETE", f"/api/v1/jobs/{job}").status == 403
    assert people.ask("stranger", "DELETE", f"/api/v1/jobs/{job}").status == 404
    assert people.ask("owner", "POST", f"/api/v1/jobs/{job}/stop").status == 202  # it had ended already
    done = [each for each in entries(people, since_us=began) if each["result"] == "done"]
    assert {each["action"] for each in done} == {"audit.read"}


def test_the_record_pages_without_a_gap_and_newest_first(people):
    for number in range(5):
        people.ask("owner", "POST", "/api/v1/tokens", body={"name": f"page {number}"})
    whole = entries(people)
    assert [each["seq"] for each in whole] == sorted((each["seq"] for each in whole), reverse=True)
    paged, cursor = [], ""
    while cursor is not None:
        page = people.ask(
            "operator", "GET", f"/api/v1/admin/audit?limit=3{cursor and '&cursor=' + cursor}"
        ).json()
        paged += page["items"]
        cursor = page["next"]
    assert [each["seq"] for each in paged if each["seq"] <= whole[0]["seq"]] == [
        each["seq"] for each in whole
    ]


def test_a_flood_of_wrong_tokens_is_counted_and_does_not_fill_the_record(people):
    """Each address has one entry a minute for each reason. It is on disk at the latest when the server
    ends."""
    began = now_us()
    for _ in range(300):
        assert people.ask("wrong", "GET", "/api/v1/jobs").status == 401
    for _ in range(3):
        assert people.ask("revoked", "GET", "/api/v1/jobs").status == 401
        assert people.ask("none", "GET", "/api/v1/jobs").status == 401
    people.stop()
    people.start()
    refused = [each for each in entries(people, since_us=began) if each["result"] == "refused"]
    assert all(each["action"] == "login" and each["address"] == "127.0.0.1" for each in refused)
    wrong = [each for each in refused if each["detail"].startswith("wrong-token")]
    assert 1 <= len(wrong) <= 3  # a minute may have ended in between
    (revoked,) = (each for each in refused if each["detail"].startswith("token-revoked"))
    assert (revoked["token_id"], revoked["user_id"]) == (
        people.ids["token-revoked"],
        people.user_ids["owner"],
    )
    assert not any("no-token" in each["detail"] for each in refused)
    assert people.tokens["wrong"] not in people.log() and people.tokens["revoked"] not in people.log()


def test_no_entry_is_ever_changed(people):
    entries(people)
    database = sqlite3.connect(people.data / "gradient.sqlite", timeout=60)
    with pytest.raises(sqlite3.IntegrityError, match="never changed"):
        database.execute("UPDATE audit SET user_id = 'somebody else'")
    database.close()


async def kept(database: Database) -> list[int]:
    return [
        each.seq
        for each in (await database.read(partial(rows.page, limit=1000, before=None, since_us=None)))[0]
    ]


def test_the_oldest_entries_go_and_the_newest_stay(tmp_path):
    async def scenario() -> None:
        path = tmp_path / "gradient.sqlite"
        schema.prepare(path)
        database = Database(path)
        database.start()
        old = dict.fromkeys(
            ("result", "noun", "id", "user_id", "token_id", "attempt", "address", "request_id", "detail"), ""
        )
        for age_days in (400, 366, 364, 0, 0):
            time_us = now_us() - age_days * 86_400_000_000
            await database.write(partial(rows.append, time_us=time_us, action="x", **old))
        assert await database.write(partial(control.trim, keep_days=365, keep_most=1000)) == 2
        assert await kept(database) == [5, 4, 3]
        assert await database.write(partial(control.trim, keep_days=365, keep_most=2)) == 1
        assert await kept(database) == [5, 4]
        database.close()

    asyncio.run(scenario())


def test_who_asks_is_known_in_the_stores_thread_and_is_not_mixed_up(tmp_path):
    """Writes of several requests share a transaction: each entry bears its own request."""

    async def one(database: Database, number: int) -> None:
        context.enter(Asking(request_id=f"rq{number}", user_id=f"u{number}"))
        await database.write(partial(control.record, action="x", id=str(number)))

    async def scenario() -> None:
        path = tmp_path / "gradient.sqlite"
        schema.prepare(path)
        database = Database(path)
        database.start()
        await asyncio.gather(*(asyncio.create_task(one(database, number)) for number in range(200)))
        found, _ = await database.read(partial(rows.page, limit=1000, before=None, since_us=None))
        assert len(found) == 200
        assert all((each.request_id, each.user_id) == (f"rq{each.id}", f"u{each.id}") for each in found)
        database.close()

    asyncio.run(scenario())


def test_what_others_named_is_cut_and_stays_text(people):
    name = "n" * 200
    people.ask("owner", "POST", "/api/v1/tokens", body={"name": name})
    assert all(len(each["detail"]) <= 500 for each in entries(people))
    assert any(CANARY not in each["detail"] and name in each["detail"] for each in entries(people))
