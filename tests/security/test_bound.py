"""A token that opens one project: nothing beside it is seen, used or made, whatever else its person has.

Boundary B2; assets A1, A3; row 40 of the catalogue. ``inner`` and ``outer`` are tokens of the owner's, for
the project of the canaries and for another one.
"""

from __future__ import annotations

import sys

import pytest
from people import CANARY, People
from reader import Reader
from solo import PATIENCE_S

MLFLOW = "/mlflow/api/2.0/mlflow"
ARTIFACTS = "/mlflow/api/2.0/mlflow-artifacts/artifacts"
SHOW = "import os; print(os.environ['TOLD'])"


def submit(people: People, who: str, **fields: object):
    entries: list[object] = []
    snapshot = people.ask(who, "POST", "/api/v1/snapshots", body={"entries": entries}).json()["id"]
    host = {"python": sys.executable, "path": ["/usr/bin", "/bin"]}
    body = {"command": [sys.executable, "-c", SHOW], "snapshot": snapshot, "host": host, **fields}
    return people.ask(who, "POST", "/api/v1/jobs", body=body)


def test_its_jobs_are_given_the_projects_secrets_and_none_of_its_persons_own(people):
    """Else whoever bears it reads them in a log."""
    ids = people.ids
    refused = submit(people, "inner", project_id=ids["project"], env={"TOLD": f"secret:{ids['secret']}"})
    assert (refused.status, refused.json()["error"]["code"]) == (404, "no-such-secret")
    allowed = submit(
        people, "inner", project_id=ids["project"], env={"TOLD": f"secret:{ids['shared-secret']}"}
    )
    assert allowed.status == 201, allowed.data
    people.until(allowed.json()["id"], "Stopped")
    own = submit(people, "owner", project_id=ids["project"], env={"TOLD": f"secret:{ids['secret']}"})
    assert own.status == 201
    people.until(own.json()["id"], "Stopped")
    again = people.ask("inner", "POST", f"/api/v1/jobs/{own.json()['id']}/rerun", body={})
    assert (again.status, again.json()["error"]["code"]) == (404, "no-such-secret")
    people.quiet()


def test_no_password_of_its_persons_own_opens_a_repository_for_it(people):
    """Where the secret is its project's it comes as far as the address, which leads nowhere."""
    ids, url = people.ids, "git+https://nobody.invalid/x/y@main"
    before = people.state()
    for who, secret, project, expected in (
        ("inner", "secret", {}, 404),
        ("inner", "secret", {"project_id": ids["project"]}, 404),
        ("outer", "shared-secret", {"project_id": ids["project"]}, 404),
        ("outer", "shared-secret", {"project": f"project {CANARY}"}, 404),
        ("outer", "shared-secret", {}, 404),
        ("inner", "shared-secret", {}, 424),
        ("inner", "shared-secret", {"project_id": ids["project"]}, 424),
        ("inner", "shared-secret", {"project": f"project {CANARY}"}, 424),
        ("owner", "secret", {}, 424),
    ):
        body = {"url": url, "password": f"secret:{ids[secret]}", **project}
        answer = people.ask(who, "POST", "/api/v1/snapshots/git", body=body)
        assert answer.status == expected, (who, secret, project, answer.data)
    assert people.state() == before


def test_its_persons_datasets_do_not_exist_for_it_and_it_makes_none(people):
    ids, jobs = people.ids, "/api/v1/jobs"
    name = people.ask("owner", "GET", f"/api/v1/datasets/{ids['dataset']}").json()["name"]
    before = people.state()
    for who in ("inner", "outer"):
        assert people.ask(who, "GET", "/api/v1/datasets").json()["items"] == []
        for body in ({"name": "beside"}, {"name": "beside", "owner": f"user:{people.user_ids['owner']}"}):
            refused = people.ask(who, "POST", "/api/v1/datasets", body=body)
            assert (refused.status, refused.json()["error"]["code"]) == (403, "token-bound")
            url = {**body, "url": "https://nobody.invalid/x.zip"}
            assert people.ask(who, "POST", "/api/v1/datasets/fetch", body=url).status == 403
    assert people.state() == before
    for wanted in (name, ids["dataset"], f"{name}:1"):
        refused = submit(people, "inner", project_id=ids["project"], env={"TOLD": "x"}, datasets=[wanted])
        assert (refused.status, refused.json()["error"]["code"]) == (404, "no-such-dataset"), wanted
    assert people.ask("inner", "GET", jobs).status == 200


def test_mlflow_shows_it_its_project_alone_and_makes_nothing_beside_it(people):
    ids = people.ids

    def ask(who: str, what: str, body: object = None, method: str = "POST"):
        return people.ask(who, method, f"{MLFLOW}/{what}", body=body)

    for who, mine in (("inner", "project"), ("outer", "elsewhere")):
        listed = ask(who, "experiments/search", {}).json()["experiments"]
        assert [each["experiment_id"] for each in listed] == [ids[mine]]
        # Whoever has chosen no experiment has this one; no project called Default is made for them.
        default = ask(who, "experiments/get?experiment_id=0", method="GET").json()["experiment"]
        assert default["experiment_id"] == ids[mine]
        for chosen in ("0", "", ids[mine]):
            made = ask(who, "runs/create", {"experiment_id": chosen}).json()["run"]["info"]
            assert made["experiment_id"] == ids[mine]
            model = ask(who, "logged-models", {"experiment_id": chosen, "name": "m"}).json()["model"]
            assert model["info"]["experiment_id"] == ids[mine]
        refused = ask(who, "experiments/create", {"name": "beside"})
        assert (refused.status, refused.json()["code"]) == (403, "token-bound")
    both = {"experiment_ids": [ids["project"], ids["elsewhere"]]}
    for what, key in (("runs/search", "runs"), ("logged-models/search", "models")):
        inner, outer = (
            {each["info"]["experiment_id"] for each in ask(who, what, both).json()[key]}
            for who in ("inner", "outer")
        )
        assert (inner, outer) == ({ids["project"]}, {ids["elsewhere"]}), what
        assert CANARY not in ask("outer", what, both).data.decode()
    owner = people.ask("owner", "GET", "/api/v1/projects?limit=1000").json()["items"]
    assert not {"Default", "beside"} & {each["name"] for each in owner}
    assert people.ask("outer", "GET", f"{ARTIFACTS}/{ids['note']}").status == 404
    assert people.ask("inner", "GET", f"{ARTIFACTS}/{ids['note']}").data == CANARY.encode()


def test_what_is_made_through_it_is_its_projects_for_everybody_in_it(people):
    """It is no island: whoever shares the project sees what the token has made there, and can remove it."""
    run = people.ask("inner", "POST", f"{MLFLOW}/runs/create", body={"experiment_id": people.ids["project"]})
    run_id = run.json()["run"]["info"]["run_id"]
    assert people.ask("viewer", "GET", f"{MLFLOW}/runs/get?run_id={run_id}").status == 200
    assert people.ask("member", "POST", f"{MLFLOW}/runs/delete", body={"run_id": run_id}).status == 200
    secrets = f"/api/v1/projects/{people.ids['project']}/secrets"
    assert people.ask("inner", "PUT", f"{secrets}/by-token", body={"value": "word"}).status == 200
    named = people.ask("member", "GET", secrets).json()["items"]
    assert "by-token" in {each["name"] for each in named}
    assert people.ask("admin", "DELETE", f"{secrets}/by-token").status == 204


def test_it_says_who_is_in_its_project_and_in_no_other(people):
    project, guest = people.new_project(), people.ids["guest"]
    made = people.ask(
        "owner", "POST", "/api/v1/tokens", body={"name": "one", "scopes": ["access"], "project_id": project}
    ).json()
    people.tokens["one"] = made["token"]
    members = f"/api/v1/projects/{project}/members/{guest}"
    assert people.ask("one", "PUT", members, body={"role": "viewer"}).status == 200
    assert people.ask("one", "DELETE", members).status == 200
    other = f"/api/v1/projects/{people.ids['project']}/members/{guest}"
    assert people.ask("one", "PUT", other, body={"role": "viewer"}).status == 404
    # Sending jobs is another scope than saying who may do what.
    made = people.ask(
        "owner", "POST", "/api/v1/tokens", body={"name": "w", "scopes": ["read", "write"]}
    ).json()
    people.tokens["w"] = made["token"]
    for method, body in (("PUT", {"role": "viewer"}), ("DELETE", None)):
        refused = people.ask("w", method, members, body=body)
        assert (refused.status, refused.json()["error"]["code"]) == (403, "scope-missing")


@pytest.mark.parametrize("how", ["removed", "by themselves"])
def test_what_is_open_is_cut_at_once_when_a_member_is_taken_out(people, how):
    """Through the route: followed logs, metrics. What others have open goes on."""
    project = people.new_project()
    asked = {
        "command": ["sh", "-c", "echo up; exec sleep 3600"], "snapshot": people.ids["snapshot"],
        "project_id": project,
    }  # fmt: skip
    job = people.ask("owner", "POST", "/api/v1/jobs", body=asked).json()["id"]
    people.until(job, "Running")
    who = "viewer" if how == "removed" else "admin"
    paths = (f"/api/v1/jobs/{job}/logs?follow=true", f"/api/v1/jobs/{job}/metrics/stream")
    mine = [Reader(people, who, path) for path in paths]
    others = [Reader(people, "member", path) for path in paths]
    for reader in (*mine, *others):
        assert reader.began.wait(PATIENCE_S)
    member = f"/api/v1/projects/{project}/members/user:{people.user_ids[who]}"
    by = "owner" if how == "removed" else who
    assert people.ask(by, "DELETE", member).status == 200
    for reader in mine:
        assert reader.over.wait(PATIENCE_S)
        assert b"event: end" not in reader.content
    assert not any(reader.over.is_set() for reader in others)
    assert people.ask(who, "GET", f"/api/v1/jobs/{job}").status == 404
    assert people.ask("owner", "POST", f"/api/v1/jobs/{job}/stop").status == 202
    people.until(job, "Cancelled")
    people.quiet()


def test_a_download_through_mlflows_face_is_cut_when_its_reader_is_taken_out(people):
    """Its address names a run, not a job or a project: the route says itself what is asked again."""
    project = people.new_project()
    run = people.mlflow("runs/create", {"experiment_id": project})["run"]["info"]["run_id"]
    at = f"{ARTIFACTS}/{project}/{run}/artifacts/large"
    size = 64 << 20
    assert people.ask("owner", "PUT", at, data=bytes(size)).status == 200
    answer = people.http.request(
        "GET", people.runtime.url + at, preload_content=False,
        headers={"Authorization": f"Bearer {people.tokens['viewer']}"},
    )  # fmt: skip
    assert answer.status == 200 and len(answer.read(1)) == 1
    member = f"/api/v1/projects/{project}/members/{people.ids['seen']}"
    assert people.ask("owner", "DELETE", member).status == 200
    received = 1
    try:
        while chunk := answer.read(1 << 20):
            received += len(chunk)
    except Exception:
        pass  # cut
    answer.close()
    assert received < size
    assert people.ask("viewer", "GET", at).status == 404


def test_a_running_jobs_token_opens_its_metrics_and_run_and_nothing_of_secrets_data_and_members(people):
    """Boundary B5. The matrix has each route; here is what a script would try, with what it knows."""
    ids = people.ids
    job = f"/api/v1/jobs/{ids['running']}"
    point = {"points": [["of the job", 1.0, 0, 1_700_000_000_000_000]]}
    assert people.ask("job", "POST", f"{job}/metrics", body=point).status == 202
    assert people.ask("job", "PUT", f"{job}/progress", body={"fraction": 0.5}).status == 202
    own = people.ask("job", "GET", f"{MLFLOW}/runs/get?run_id={ids['running']}").json()["run"]
    assert "of the job" in {each["key"] for each in own["data"]["metrics"]}
    before = people.state()
    for method, path in (
        ("GET", "/api/v1/secrets/user"),
        ("GET", f"/api/v1/projects/{ids['project']}/secrets"),
        ("PUT", "/api/v1/secrets/user/mine"),
        ("GET", "/api/v1/datasets"),
        ("GET", f"/api/v1/datasets/{ids['dataset']}/files"),
        ("GET", f"/api/v1/projects/{ids['project']}/members"),
        ("PUT", f"/api/v1/projects/{ids['project']}/members/{ids['guest']}"),
        ("GET", "/api/v1/whoami"),
        ("GET", f"/api/v1/jobs/{ids['second']}/metrics"),
        ("POST", f"/api/v1/jobs/{ids['second']}/metrics"),
    ):
        for who, status in (("job", 403), ("push", 401)):
            assert people.ask(who, method, path).status == status, (who, method, path)
    assert people.state() == before
