"""Role × route × method, over the running server. Boundary B2 (user → control plane) and B5 (run → control
plane); assets A1, A3, A7; rows 29, 31, 32, 35-37, 40-42 of the catalogue, abuse cases 3, 4, 15."""

from __future__ import annotations

import itertools
import re
from urllib.parse import unquote

import msgspec
import pytest
from matrix import BODIES, DATA, FOREIGN, NO_THING, TABLE
from people import CANARY, NOBODY, ROLES, People

from gradient_jupyter.api.app import all_routes
from gradient_jupyter.api.door import OPENS, check_right
from gradient_jupyter.api.routes import Right
from gradient_jupyter.control.people.access import Principal
from gradient_jupyter.resources.errors import Forbidden
from gradient_jupyter.resources.token import Scope

METHODS = ("GET", "HEAD", "POST", "DELETE", "PATCH", "PUT", "OPTIONS")
_fresh = itertools.count()


class Line:
    def __init__(self, text: str) -> None:
        words = text.split()
        self.method, self.path = words[0], words[1]
        self.nobody = int(words[2])
        self.roles = dict(zip(ROLES, map(int, words[3:]), strict=True))

    @property
    def name(self) -> str:
        return f"{self.method} {self.path.partition('?')[0]}"

    @property
    def source(self) -> str:
        """Under which its body stands."""
        return self.name.replace("/ajax-api/", "/api/")

    @property
    def things(self) -> list[str]:
        """What is put in, in the address and in the body."""
        return re.findall(r"\{([a-z-]+)\}", self.path + msgspec.json.encode(BODIES.get(self.source)).decode())


def lines() -> list[Line]:
    """Those of MLflow's API once more under its second prefix, which is the same."""
    texts = [text for text in TABLE.strip().splitlines() if not text.startswith("#")]
    again = [text.replace("/mlflow/api/", "/mlflow/ajax-api/") for text in texts if "/mlflow/api/" in text]
    return [Line(text) for text in texts + again]


LINES = lines()


def shape(address: str) -> str:
    """An address without what its placeholders are called."""
    return re.sub(r"\{[^}]*\}", "{}", address.partition("?")[0])


def test_every_route_has_its_line_and_every_line_its_route():
    """A route that nobody has thought about does not get in."""
    served = {(route.method, shape(route.address)) for route in all_routes()}
    listed = [(line.method, shape(line.path)) for line in LINES]
    assert len(listed) == len(set(listed))
    missing = served - set(listed)
    assert not missing, f"write a line in tests/security/matrix.py for each of: {sorted(missing)}"
    assert set(listed) == served
    assert {line.name for line in LINES} >= BODIES.keys() | DATA.keys()


def made(people: People, name: str) -> str:
    """A thing for one request to change."""
    if name == "new-job":
        job = people.finished_job()
        people.quiet()
        return job
    match name:
        case "new-project":
            return people.new_project()
        case "new-secret":
            return people.new_secret()
        case "new-shared-secret":
            return people.new_secret(people.ids["project"])
        case "new-dataset":
            return people.new_dataset()
        case "new-run":
            return people.new_run()
        case "new-model":
            return people.new_model()
        case "new-note":
            return people.new_note(f"note-{next(_fresh)}.txt")
        case "new-tag":
            people.mlflow("runs/set-tag", {"run_id": people.ids["running"], "key": "made", "value": "x"})
            return "made"
        case "new-experiment-tag":
            body = {"experiment_id": people.ids["project"], "key": "made", "value": "x"}
            people.mlflow("experiments/set-experiment-tag", body)
            return "made"
        case "new-model-tag":
            tags = {"tags": [{"key": "made", "value": "x"}]}
            people.mlflow(f"logged-models/{people.ids['model']}/tags", tags, "PATCH")
            return "made"
    body = {"name": "to be revoked", "scopes": ["read"]}
    return str(people.ask("owner", "POST", "/api/v1/tokens", body=body).json()["info"]["id"])


#: What stands for a thing that is only made where a request succeeds.
SHARED = {
    "new-job": "done", "new-token": "token-reader", "new-project": "project", "new-secret": "secret",
    "new-shared-secret": "shared-secret", "new-dataset": "dataset", "new-run": "run", "new-model": "model",
    "new-note": "note", "new-tag": "tag-of-run", "new-experiment-tag": "tag-of-experiment",
    "new-model-tag": "tag-of-model",
}  # fmt: skip


def filled(people: People, text: str, succeeds: bool, who: str = "owner") -> str:
    def put(match: re.Match[str]) -> str:
        name = match[1]
        if name == "fresh":
            return f"fresh {next(_fresh)}"
        if name == "fresh-name":
            return f"fresh-{next(_fresh)}"
        if name == "bearer":
            return people.tokens[who] or "none"
        if name == "labels":
            return "job/x"
        if name == "file":
            return "model.bin"
        if name in SHARED and succeeds:
            return made(people, name)
        return people.ids[SHARED.get(name, name)]

    return re.sub(r"\{([a-z-]+)\}", put, text)


def body_of(people: People, line: Line, succeeds: bool = False) -> object:
    body = BODIES.get(line.source)
    if body is None:
        return None
    return msgspec.json.decode(filled(people, msgspec.json.encode(body).decode(), succeeds))


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.name)
def test_each_role_is_answered_what_the_table_says_and_a_refusal_changes_nothing(people, line):
    statuses = dict.fromkeys(NOBODY, line.nobody) | line.roles
    # One project for all who are refused: to ``inner`` it is another one than its own.
    project = made(people, "new-project") if "new-project" in line.things else ""
    before = people.state()
    for who, expected in statuses.items():
        if expected >= 400:
            shared = {**people.ids, "project": project} if project else people.ids
            ask(people, line, who, expected, shared)
    assert people.state() == before, "somebody was refused, and something changed"
    if line.roles["reader"] < 300:
        ask(people, line, "reader", line.roles["reader"])
        assert people.state() == before, "a token that reads has changed something"
    for who, expected in statuses.items():
        if expected < 400 and who != "reader":
            ask(people, line, who, expected)


def ask(people: People, line: Line, who: str, expected: int, ids: dict[str, str] | None = None) -> None:
    """``ids``: what stands for things that are only made where a request succeeds."""
    kept, people.ids = people.ids, ids or people.ids
    try:
        path, body = filled(people, line.path, ids is None, who), body_of(people, line, ids is None)
    finally:
        people.ids = kept
    answer = people.ask(who, line.method, path, body=body, data=DATA.get(line.source))
    assert answer.status == expected, f"{who}: {answer.status}, not {expected}: {answer.data!r}"
    asked = path + msgspec.json.encode(body).decode()
    if (
        who in (*NOBODY, "stranger", "operator", "scraper", "push")
        and not line.path.startswith("/api/v1/admin")
        and CANARY not in asked
    ):
        assert CANARY not in answer.data.decode(errors="replace"), who
    if expected < 300:
        settle(people, line, path, body, answer)


def settle(people: People, line: Line, path: str, body, answer) -> None:
    """Waits for what a request that succeeded has set going."""
    if line.name == "POST /api/v1/server/stop":
        people.process.wait()
        people.stop()  # nothing is left to stop but our own connections
        people.start()
    elif line.path.endswith("/mlflow/experiments/delete"):
        people.gone(f"/api/v1/projects/{body['experiment_id']}")
    elif line.method == "DELETE" and answer.status == 202 and line.path.startswith("/api/"):
        people.gone(path)
    elif answer.status == 201 and line.path.startswith("/api/v1/jobs"):
        people.until(answer.json()["id"], "Stopped", "owner")
        people.quiet()


BY_ADDRESS = {
    address: [line for line in LINES if shape(line.path) == address]
    for address in {shape(line.path) for line in LINES}
}


@pytest.mark.parametrize("address", sorted(BY_ADDRESS))
def test_methods_that_no_route_declares_do_nothing_for_anybody(people, address):
    lines = BY_ADDRESS[address]
    pushing = address.startswith("/pushgateway/")
    before = people.state()
    for method in sorted(set(METHODS) - {line.method for line in lines}):
        for who in NOBODY + ROLES:
            if pushing or who == "push":
                expected = 405 if pushing and who == "push" else 401
            else:
                expected = 401 if who in NOBODY else 409 if who == "fenced" else 405
            answer = people.ask(who, method, filled(people, lines[0].path, False, who))
            assert answer.status == expected, (method, who, answer.data)
    assert people.state() == before


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/nothing",
        "/api/v2/jobs",
        "/nothing",
        "/",
        "/api",
        "/metrics/",
        "/metrics/x",
        "/health",
        "/health/",
        "/health/live/",
        "/health/live/../../api/v1/jobs",
        "//health/live",
        "/health//live",
        "/health/live%2f",
        "/%68ealth/live/x",
        "/api/v1/jobs/x/health/ready",
        "/api/v1/health/live",
        "/api/v1/jobs/health/live",
        "/health/live/api/v1/jobs",
        "/health/live;/../api/v1/jobs",
        "/health/ready%00",
        "/HEALTH/live",
    ],
)
def test_what_ends_or_begins_like_health_opens_nothing(people, path):
    """Prefect's hole: the login looked at how a path ends. Here no path decides about login."""
    for who in NOBODY:
        status, content, _ = people.exactly(who, "GET", path)
        assert status in (400, 401), (who, status)
        assert CANARY.encode() not in content
    assert people.exactly("owner", "GET", path)[0] in (400, 404)


@pytest.mark.parametrize(
    "line", [line for line in LINES if line.things and 404 in line.roles.values()], ids=lambda line: line.name
)
def test_a_foreign_thing_is_answered_like_one_that_never_was(people, line):
    """The same status, the same words: not even whether it exists is told."""
    for who in (role for role in ("stranger", "operator", "outer") if line.roles[role] == 404):
        thing = SHARED.get(line.things[0], line.things[0])
        known = people.ids["run" if thing in ("note", "notes") else thing]
        absent = known[:-4] + ("0000" if known[-4:] != "0000" else "1111")
        path, text = filled(people, line.path, False), msgspec.json.encode(body_of(people, line)).decode()
        answers = [
            people.ask(
                who, line.method, path.replace(known, thing), data=DATA.get(line.source),
                body=msgspec.json.decode(text.replace(known, thing)),
            )
            for thing in (known, absent)
        ]  # fmt: skip
        assert [answer.status for answer in answers] == [404, 404]
        assert answers[1].data.replace(unquote(absent).encode(), unquote(known).encode()) == answers[0].data


def named_things() -> set[tuple[str, str, str]]:
    """Fields that name a thing, in whatever a route takes."""
    found = set()
    for route in all_routes():
        for kind in (route.body, route.query):
            if kind is not None and issubclass(kind, msgspec.Struct):
                for field in msgspec.structs.fields(kind):
                    if field.name.endswith("_id") or field.name in ("snapshot", "dataset", "secret"):
                        found.add((route.method, route.address, field.name))
    return found


def tried_by_their_lines() -> set[tuple[str, str, str]]:
    """Those that a line's own address or body names: their lines say what a stranger is answered."""
    found = set()
    addresses = {(route.method, shape(route.address)): route.address for route in all_routes()}
    for line in LINES:
        known = addresses[line.method, shape(line.path)]
        named = re.findall(r"(\w+)=\{", line.path)
        body = BODIES.get(line.source)
        if isinstance(body, dict):
            named += [name for name, value in body.items() if isinstance(value, str) and value[:1] == "{"]
        found |= {(line.method, known, name) for name in named}
    return found


def test_every_field_that_names_a_thing_is_tried_with_a_foreign_one():
    """In its line or in ``test_foreign_things_in_bodies…``; then it is listed in matrix.py."""
    assert named_things() - tried_by_their_lines() - NO_THING == FOREIGN - tried_by_their_lines()
    assert named_things() >= FOREIGN


def test_foreign_things_in_bodies_and_queries_are_absent(people):
    """Abuse case 3: foreign ids in nested fields."""
    ids, jobs = people.ids, "/api/v1/jobs"
    own = people.ask("stranger", "POST", "/api/v1/projects", body={"name": f"own {next(_fresh)}"}).json()[
        "id"
    ]
    job = {"command": ["true"], "snapshot": ids["empty"], "project_id": own}
    absent = {
        "snapshot": "0" * 64, "project": "pr" + "0" * 12, "job": "j" + "0" * 12, "run": "rn" + "0" * 12,
        "dataset": "dst" + "0" * 12,
    }  # fmt: skip
    model = "/mlflow/api/2.0/mlflow/logged-models"
    login = {"url": "git+https://nobody.invalid/x/y@main", "password": "secret:theirs"}
    mine = people.ask("stranger", "POST", jobs, body=job).json()["id"]
    people.until(mine, "Stopped", "stranger")
    people.quiet()
    before = people.state()
    for foreign, missing, path, body in (
        (ids["snapshot"], absent["snapshot"], jobs, {**job, "snapshot": "{}"}),
        (ids["project"], absent["project"], jobs, {**job, "project_id": "{}"}),
        (ids["project"], absent["project"], f"{jobs}/{mine}/rerun", {"project_id": "{}"}),
        (ids["project"], absent["project"], "/api/v1/tokens", {"name": "x", "project_id": "{}"}),
        (ids["snapshot"], absent["snapshot"], "/api/v1/datasets", {"name": "theirs", "snapshot": "{}"}),
        (ids["run"], absent["run"], model, {"experiment_id": own, "source_run_id": "{}"}),
        (ids["running"], absent["job"], model, {"experiment_id": own, "source_run_id": "{}"}),
        (ids["run"], absent["run"], model.replace("/api/", "/ajax-api/"), {"source_run_id": "{}"}),
        (ids["project"], absent["project"], "/api/v1/snapshots/git", {**login, "project_id": "{}"}),
        (ids["dataset"], absent["dataset"], jobs, {**job, "datasets": ["{}"]}),
        (ids["secret"], "never-was", jobs, {**job, "env": {"X": "secret:{}"}}),
        (ids["shared-secret"], "never-was", jobs, {**job, "env": {"X": "secret:{}"}}),
    ):
        answers = []
        for thing in (foreign, missing):
            filled_in = msgspec.json.decode(msgspec.json.encode(body).replace(b"{}", thing.encode()))
            answer = people.ask("stranger", "POST", path, body=filled_in)
            answers.append((answer.status, answer.data.replace(thing.encode(), b"?")))
        assert answers[0] == answers[1]
        assert answers[0][0] == 404
    assert people.ask("stranger", "GET", f"{jobs}?project_id={ids['project']}").json()["items"] == []
    assert people.state() == before


def test_lists_and_events_hold_only_what_is_shared(people):
    """What a list, a stream or a count tells of somebody else's would be told here."""
    install = people.ask("operator", "GET", "/api/v1/server").json()["install"]
    for who in ("stranger", "operator"):
        for path in ("/api/v1/jobs?limit=1000", "/api/v1/projects?limit=1000", "/api/v1/tokens"):
            assert CANARY not in people.ask(who, "GET", path).data.decode()
    visible = people.ask("outer", "GET", "/api/v1/projects").json()["items"]
    assert [each["id"] for each in visible] == [people.ids["elsewhere"]]
    assert people.ask("outer", "GET", "/api/v1/jobs").json()["items"] == []
    inner = people.ask("inner", "GET", "/api/v1/projects").json()["items"]
    assert [each["id"] for each in inner] == [people.ids["project"]]
    people.ask("stranger", "POST", "/api/v1/projects", body={"name": f"own {next(_fresh)}"})
    assert people.ids["project"] in people.first_events("inner", f"{install}-0")
    assert CANARY not in people.first_events("stranger", f"{install}-0")
    assert people.ids["project"] not in people.first_events("outer", f"{install}-0")


def test_a_right_that_no_scope_opens_is_refused_to_everybody():
    """Deny by default, also when somebody adds a right and forgets to say what opens it."""
    assert set(OPENS) == set(Right) - {Right.PUBLIC}
    everything = Principal(user_id="u", name="", scopes=frozenset(Scope))
    with pytest.raises(Forbidden):
        check_right(everything, "a right of tomorrow")  # type: ignore[arg-type]
    for right in OPENS:
        with pytest.raises(Forbidden):
            check_right(Principal(user_id="u", name=""), right)
