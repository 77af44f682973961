"""Secrets over HTTP, and in jobs."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
import sys

import pytest

#: What a job says of its variables: enough to know that they are right, and nothing of what they hold.
TELL = (
    "import hashlib, os, sys\n"
    "for name in sys.argv[1:]: print(name, hashlib.sha256(os.environ[name].encode()).hexdigest())"
)


def told(solo, job, name):
    for line in solo.text(job["id"]).splitlines():
        if line.startswith(name + " "):
            return line.partition(" ")[2]
    raise AssertionError(solo.text(job["id"]))


def digest(text):
    return hashlib.sha256(text.encode()).hexdigest()


def put(solo, path, value):
    answer = solo.request("PUT", path, json_body={"value": value})
    assert answer.status == 200, answer.data
    return answer.json()


def project(solo, name):
    answer = solo.request("POST", "/projects", json_body={"name": name})
    assert answer.status == 201, answer.data
    return answer.json()["id"]


def refusal(answer):
    error = answer.json()["error"]
    assert error["message"]
    return answer.status, error["code"]


def test_a_secret_is_set_listed_replaced_and_deleted_and_its_value_never_comes_out(solo):
    first = put(solo, "/secrets/user/api.key_1-x", "canary-one")
    second = put(solo, "/secrets/user/api.key_1-x", "canary-two")
    assert first["created_us"] == second["created_us"] < second["changed_us"]
    answer = solo.request("GET", "/secrets/user")
    (listed,) = [each for each in answer.json()["items"] if each["name"] == "api.key_1-x"]
    assert listed == second
    assert listed["scope"] == "user" and listed["readable"] and listed["masked"]
    assert b"canary" not in answer.data
    assert solo.request("GET", "/secrets/user/api.key_1-x").status == 405
    assert solo.request("DELETE", "/secrets/user/api.key_1-x").status == 204
    assert refusal(solo.request("DELETE", "/secrets/user/api.key_1-x")) == (404, "no-such-secret")


@pytest.mark.parametrize("name", ["a%20b", "%2E%2E", "a%2Fb", "x" * 101, "%C3%A4", "a%00b", "a%0Ab", "..."])
def test_a_name_is_letters_digits_and_three_signs(solo, name):
    answer = solo.request("PUT", f"/secrets/user/{name}", json_body={"value": "long enough"})
    assert answer.status in (400, 404)
    assert answer.json()["error"]["code"] in ("bad-secret-name", "no-such-route", "bad-http")


@pytest.mark.parametrize(
    "body",
    [
        {}, {"value": ""}, {"value": None}, {"value": "a\0b"}, {"value": "x" * 65537}, {"value": "ä" * 40000},
        {"value": "canary", "more": 1},
    ],
)  # fmt: skip
def test_a_value_that_no_variable_can_hold_is_refused_without_repeating_it(solo, body):
    answer = solo.request("PUT", "/secrets/user/odd", json_body=body)
    assert answer.status == 400
    assert answer.json()["error"]["code"] in ("bad-body", "bad-secret-value")
    assert b"canary" not in answer.data and b"xxx" not in answer.data


def test_a_short_secret_is_stored_and_said_to_be_shown_in_logs(solo):
    assert put(solo, "/secrets/user/short", "abc")["masked"] is False
    job = solo.job(sys.executable, "-c", "import os; print(os.environ['S'])", env={"S": "secret:short"})
    assert solo.finished(job["id"])["state"] == "Stopped"
    assert solo.text(job["id"]).endswith("abc\n")


def test_a_job_gets_the_value_and_everybody_else_the_name(solo):
    value = "hf_ÄbCdEf GhIj/+%'\"\nsecond line of it"
    put(solo, "/secrets/user/hf", value)
    job = solo.job(
        sys.executable, "-c", TELL + "\nprint(os.environ['HF_TOKEN'])", "HF_TOKEN", "PLAIN",
        env={"HF_TOKEN": "secret:hf", "PLAIN": "not secret:hf"},
    )  # fmt: skip
    final = solo.finished(job["id"])
    assert final["state"] == "Stopped", solo.text(job["id"])
    assert told(solo, job, "HF_TOKEN") == digest(value)
    assert told(solo, job, "PLAIN") == digest("not secret:hf")
    assert final["env"] == {"HF_TOKEN": "secret:hf", "PLAIN": "not secret:hf"}
    assert solo.text(job["id"]).endswith("\n***\n")


def test_the_way_gradients_specification_files_write_it_is_understood(solo):
    put(solo, "/secrets/user/spec", "from a file")
    job = solo.job(sys.executable, "-c", TELL, "TOKEN", env={"TOKEN": "SECRET:spec"})
    solo.finished(job["id"])
    assert told(solo, job, "TOKEN") == digest("from a file")


def test_what_a_job_names_and_nobody_set_is_refused_at_once(solo):
    empty = solo.request("POST", "/snapshots", json_body={"entries": []}).json()["id"]
    asked = {"command": ["true"], "snapshot": empty, "project": "never made"}
    answer = solo.request("POST", "/jobs", json_body={**asked, "env": {"A": "secret:nobody"}})
    assert refusal(answer) == (404, "no-such-secret")
    assert "gradient secrets set nobody" in answer.json()["error"]["next"]
    assert refusal(solo.request("POST", "/jobs", json_body={**asked, "env": {"A": "secret:no name"}})) == (
        400, "bad-secret-name",
    )  # fmt: skip
    names = [each["name"] for each in solo.request("GET", "/projects?limit=1000").json()["items"]]
    assert "never made" not in names


def test_the_projects_secret_is_meant_before_ones_own(solo):
    mine, theirs = project(solo, "precedence"), project(solo, "precedence elsewhere")
    put(solo, "/secrets/user/both", "my own one")
    put(solo, f"/projects/{mine}/secrets/both", "the project's")
    said = {}
    for place in (mine, theirs):
        job = solo.job(
            sys.executable, "-c", TELL, "V", project=None, project_id=place, env={"V": "secret:both"}
        )
        solo.finished(job["id"])
        said[place] = told(solo, job, "V")
    assert said == {mine: digest("the project's"), theirs: digest("my own one")}
    (listed,) = solo.request("GET", f"/projects/{mine}/secrets").json()["items"]
    assert (listed["scope"], listed["of"]) == ("project", mine)


def test_a_projects_secrets_go_with_it(own_solo):
    own_solo.start()
    place = project(own_solo, "short-lived")
    put(own_solo, f"/projects/{place}/secrets/gone", "canary")
    assert own_solo.request("DELETE", f"/projects/{place}").status == 202
    install = own_solo.request("GET", "/server").json()["install"]
    for _, _, event in own_solo.events("/events", headers={"Last-Event-ID": f"{install}-0"}):
        if (event["noun"], event["id"], event["action"]) == ("project", place, "deleted"):
            break
    assert refusal(own_solo.request("GET", f"/projects/{place}/secrets")) == (404, "no-such-project")
    diagnosis = own_solo.request("GET", "/admin/doctor").json()
    (line,) = [each for each in diagnosis["checks"] if each["name"] == "secrets"]
    assert line["message"] == "None."


def test_whose_things_are_not_ones_own_do_not_exist(solo):
    """Asset A2: a foreign project, or a team one is not in, is a 404 like one that is not there."""
    for path in ("/projects/pr000000000000/secrets", "/teams/others/secrets"):
        for method, name in (("GET", ""), ("PUT", "/x"), ("DELETE", "/x")):
            body = {"value": "long enough"} if method == "PUT" else None
            answer = solo.request(method, path + name, json_body=body)
            assert answer.status == 404, (method, path)
            assert answer.json()["error"]["code"] in ("no-such-project", "no-such-team")


def test_a_running_job_can_neither_see_nor_set_nor_delete_secrets(solo):
    """Asset A2, boundary B5: what a job was given it has; it gets no others."""
    script = (
        "import os; open(os.environ['GRADIENT_STORAGE_DIR'] + '/of-secrets', 'w')"
        ".write(os.environ['GRADIENT_JOB_TOKEN']); print('up', flush=True); input() if 0 else None\n"
        "import time; time.sleep(600)"
    )
    job = solo.job(sys.executable, "-c", script)
    solo.printed(job["id"], "up\n")
    mine = {"Authorization": f"Bearer {(solo.storage() / 'of-secrets').read_text()}"}
    place = job["project_id"]
    for method, path in (
        ("GET", "/secrets/user"), ("PUT", "/secrets/user/x"), ("DELETE", "/secrets/user/x"),
        ("GET", f"/projects/{place}/secrets"), ("PUT", f"/projects/{place}/secrets/x"),
        ("GET", "/teams/t/secrets"), ("POST", "/admin/secrets/rotate"),
        ("POST", f"/jobs/{job['id']}/rerun"),
    ):  # fmt: skip
        body = {"value": "long enough"} if method == "PUT" else None
        answer = solo.request(method, path, json_body=body, headers=mine, token=None)
        assert refusal(answer) == (403, "attempt-token"), path
    solo.request("POST", f"/jobs/{job['id']}/stop")


def test_a_secret_overrules_no_variable_of_the_platforms(solo):
    put(solo, "/secrets/user/fake", "not a job id")
    job = solo.job(
        sys.executable,
        "-c",
        "import os; print(os.environ['GRADIENT_JOB_ID'], os.environ['GRADIENT_JOB_URL'])",
        env=dict.fromkeys(("GRADIENT_JOB_ID", "GRADIENT_JOB_URL", "GRADIENT_JOB_TOKEN"), "secret:fake"),
    )
    assert solo.finished(job["id"])["state"] == "Stopped"
    assert f"{job['id']} {solo.runtime.url}/api/v1/jobs/{job['id']}\n" in solo.text(job["id"])


def test_a_rerun_means_secrets_anew(solo):
    put(solo, "/secrets/user/again", "the first one")
    first = solo.job(sys.executable, "-c", TELL, "V", env={"V": "secret:again"})
    solo.finished(first["id"])
    put(solo, "/secrets/user/again", "the second one")
    put(solo, "/secrets/user/other", "another one")
    again = solo.request("POST", f"/jobs/{first['id']}/rerun", json_body={}).json()
    changed = solo.request(
        "POST", f"/jobs/{first['id']}/rerun", json_body={"env": {"V": "secret:other"}}
    ).json()
    for job, value in ((again, "the second one"), (changed, "another one")):
        assert solo.finished(job["id"])["state"] == "Stopped"
        assert told(solo, job, "V") == digest(value)
    solo.request("DELETE", "/secrets/user/again")
    assert refusal(solo.request("POST", f"/jobs/{first['id']}/rerun", json_body={})) == (
        404,
        "no-such-secret",
    )
    plain = solo.request(
        "POST", f"/jobs/{first['id']}/rerun", json_body={"unset": ["V"], "command": ["true"]}
    )
    assert plain.status == 201


def test_a_job_whose_secret_was_deleted_while_it_waited_ends_with_a_reason(own_solo):
    """Also with ``retries``: it would be the same each time."""
    own_solo.start()
    put(own_solo, "/secrets/user/gone", "long enough")
    blocker = own_solo.job("sleep", "600")
    job = own_solo.job("true", env={"V": "secret:gone"}, retries=3)
    assert job["state"] == "Pending"
    own_solo.request("DELETE", "/secrets/user/gone")
    own_solo.request("POST", f"/jobs/{blocker['id']}/stop")
    final = own_solo.finished(job["id"])
    assert (final["state"], final["attempt"]) == ("Error", 1)
    assert final["reason"]["code"] == "no-such-secret"
    assert "gradient secrets set gone" in final["reason"]["next"]


def test_a_job_whose_sender_may_only_look_by_now_ends_with_a_reason(own_solo):
    """Asset: the project's secrets, against who was a member. The project is somebody else's by then."""
    own_solo.start()
    place = project(own_solo, "shared")
    put(own_solo, f"/projects/{place}/secrets/prod", "long enough")
    blocker = own_solo.job("sleep", "600")
    job = own_solo.job("env", project_id=place, project=None, env={"V": "secret:prod"}, retries=3)
    own_solo.kill()
    with contextlib.closing(sqlite3.connect(own_solo.data / "gradient.sqlite")) as database:
        ((owner,),) = database.execute("SELECT owner FROM projects WHERE id = ?", (place,))
        database.execute("UPDATE projects SET owner = 'user:other' WHERE id = ?", (place,))
        database.execute("INSERT INTO members VALUES (?, ?, 'viewer')", (place, owner))
        database.commit()
    own_solo.start()
    own_solo.request("POST", f"/jobs/{blocker['id']}/stop")
    final = own_solo.finished(job["id"])
    assert (final["state"], final["attempt"]) == ("Error", 1)
    assert final["reason"]["code"] == "secret-withheld" and final["reason"]["next"]
    assert "long enough" not in own_solo.text(job["id"])


def test_what_is_set_while_a_job_waits_is_what_it_gets(own_solo):
    own_solo.start()
    put(own_solo, "/secrets/user/changed", "the old one")
    blocker = own_solo.job("sleep", "600")
    job = own_solo.job(sys.executable, "-c", TELL, "V", env={"V": "secret:changed"})
    put(own_solo, "/secrets/user/changed", "the new one")
    # A more specific one that comes later is not meant: what a job means was decided when it was sent.
    put(own_solo, f"/projects/{job['project_id']}/secrets/changed", "the project's")
    own_solo.request("POST", f"/jobs/{blocker['id']}/stop")
    assert own_solo.finished(job["id"])["state"] == "Stopped"
    assert told(own_solo, job, "V") == digest("the new one")


def test_a_job_from_before_there_were_secrets_keeps_its_words(own_solo):
    """Fault: an upgrade while it waits. What looks like a reference was none when it was sent."""
    own_solo.start()
    blocker = own_solo.job("sleep", "600")
    job = own_solo.job("sh", "-c", 'echo "$V, $W"', env={"V": "?", "W": "?"})
    own_solo.kill()
    with contextlib.closing(sqlite3.connect(own_solo.data / "gradient.sqlite")) as database:
        env = json.dumps({"V": "secret:a b", "W": "secret:hf"})
        database.execute("UPDATE jobs SET env = ? WHERE id = ?", (env, job["id"]))
        database.commit()
    own_solo.start()
    own_solo.request("POST", f"/jobs/{blocker['id']}/stop")
    assert own_solo.finished(job["id"])["state"] == "Stopped"
    assert own_solo.text(job["id"]).endswith("secret:a b, secret:hf\n")
