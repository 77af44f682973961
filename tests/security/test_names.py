"""Rows 1-8, 23-28, 53-60: every payload of the corpus in every place of every route that takes text.

Boundaries B2 and B4, assets A1, A2, A3: nothing outside is read, written or removed, nothing fails, nobody is
sent elsewhere. What takes a text is found in the routes themselves (``shapes``).
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote, urlencode

import msgspec
import pytest
from corpus import ABSOLUTE, PAYLOADS, RELATIVE
from people import People
from shapes import VALUES, places, put

from gradient_jupyter.api.app import all_routes
from gradient_jupyter.client import Client
from gradient_jupyter.resources.errors import GradientError

SECRET = "outside-the-data-7d21"
#: Not asked here: it ends the server. What it takes is nothing.
ROUTES = [route for route in all_routes() if not route.path.endswith("/server/stop")]


@pytest.fixture(scope="module")
def crowded(tmp_path_factory):
    """A server of several people on which nothing more starts: hundreds of jobs are sent, none is to run."""
    server = People(tmp_path_factory.mktemp("crowded"), "--GradientServer.max_running_jobs=2")
    server.start()
    outside = server.root / "outside"
    outside.mkdir()
    (outside / "secret.txt").write_text(SECRET)
    yield server
    for job in ("running", "second"):
        server.ask("owner", "POST", f"/api/v1/jobs/{server.ids[job]}/stop")
    server.stop()


def payloads(people: People) -> list[str]:
    outside = people.root / "outside" / "secret.txt"
    artifacts = people.data / "jobs" / people.ids["done"] / "1" / "artifacts"
    relative = os.path.relpath(outside, artifacts)
    return [each.replace(ABSOLUTE, str(outside)).replace(RELATIVE, relative) for each in PAYLOADS]


def outside(people: People) -> dict[str, str]:
    """What there is beside the data, and what it holds."""
    found = {}
    for room in ("outside", "home", "."):
        for path in (people.root / room).glob("*"):
            if path.name != "server.log":
                found[str(path)] = path.read_text() if path.parent.name == "outside" else ""
    return found


def filled(people: People, value: object) -> object:
    text, known = msgspec.json.encode(value).decode(), people.ids | people.tokens
    return msgspec.json.decode(re.sub(r'"\{([a-z-]+)\}"', lambda match: f'"{known[match[1]]}"', text))


def address(people: People, route, **put_in: str) -> str:
    path = route.address
    for name in route.names:
        value = put_in.get(name)
        if value is None:
            value = quote(str(filled(people, VALUES[name])), safe="")
        path = path.replace("{" + name + "}", value)
    return path


def check(people: People, answer: tuple[int, bytes, object], told: object) -> None:
    status, content, headers = answer
    assert status < 500, (status, content, told)
    assert SECRET.encode() not in content and b"root:x:0" not in content, told
    assert "Location" not in headers and "Set-Cookie" not in headers, told
    assert "Access-Control-Allow-Origin" not in headers, told


def examples(people: People, route) -> object:
    return None if route.body is None else filled(people, places_or_whole(route.body))


def places_or_whole(kind: type) -> object:
    from shapes import example

    return example(msgspec.inspect.type_info(kind))


@pytest.mark.parametrize("route", [route for route in ROUTES if route.body], ids=lambda route: route.summary)
def test_the_example_of_each_body_is_understood(crowded, route):
    """Otherwise the corpus would be refused for another reason than its payload. See ``shapes.VALUES``."""
    status, content, _ = crowded.exactly(
        "owner", route.method, address(crowded, route), json.dumps(examples(crowded, route)).encode()
    )
    assert status < 500
    if status >= 400:
        told = json.loads(content)
        code = told.get("error", told)["code"]
        assert code not in ("bad-body", "bad-json"), content


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.address}")
def test_no_text_anywhere_in_a_request_reads_writes_or_breaks_anything_outside(crowded, route):
    before = outside(crowded)
    body = examples(crowded, route)
    sent = None if body is None else json.dumps(body).encode()

    def ask(path: str, told: object, content: bytes | None = sent, **headers: str) -> None:
        check(crowded, crowded.exactly("owner", route.method, path, content, headers), told)

    # What a route is asked for beside the payload is there, unless the route would remove it.
    there = address(
        crowded, route, **(dict.fromkeys(route.names, "none") if route.method == "DELETE" else {})
    )
    # MLflow's second prefix leads to the same functions: there some of them show that it does.
    for payload in payloads(crowded)[:: 8 if "/ajax-api/" in route.path else 1]:
        as_bytes = payload.encode("utf-8", "surrogatepass")
        for name in route.names:
            for written in {quote(as_bytes, safe=""), _raw(payload)} - {""}:
                ask(address(crowded, route, **{name: written}), (name, written))
        if raw := _raw(payload):
            for header in route.headers:
                ask(there, (header, payload), **{header: raw})
        if route.query is not None:
            base = places_or_whole(route.query)
            for field in msgspec.structs.fields(route.query):
                given = filled(crowded, {**base, field.name: ""})
                query = urlencode({**given, field.name: as_bytes}, doseq=True)
                ask(f"{there}?{query}", (field.name, payload))
        if route.body is not None and payload != "\ud800":
            for place, whole in places(route.body):
                asked = filled(crowded, whole)
                put(asked, place, payload)
                ask(there, (place, payload), json.dumps(asked).encode())
    assert outside(crowded) == before
    done = f"/api/v1/jobs/{crowded.ids['done']}"
    assert crowded.ask("owner", "GET", f"{done}/artifacts/model.bin").status == 200
    assert crowded.ask("owner", "GET", f"/api/v1/jobs/{crowded.ids['running']}").status == 200
    assert "Traceback" not in crowded.log()


def _raw(payload: str) -> str:
    """As it is, where it can stand in a line of a request at all; else nothing."""
    fits = payload.isascii() and payload.isprintable() and " " not in payload and len(payload) < 1000
    return payload if fits else ""


def test_a_half_of_a_letter_in_json_is_the_callers_mistake(crowded):
    for route in ROUTES:
        if route.body is not None:
            for place, whole in places(route.body):
                asked = filled(crowded, whole)
                put(asked, place, "HALF")
                content = json.dumps(asked).replace("HALF", "\\ud800").encode()
                answer = crowded.exactly("owner", route.method, address(crowded, route), content)
                assert answer[0] == 400, (route.address, place, answer)


#: What a person may give to the client where an id is expected.
BY_ID = {
    "jobs.get": lambda client, name: client.jobs.get(name),
    "projects.get": lambda client, name: client.projects.get(name),
    "projects.delete": lambda client, name: client.projects.delete(name),
    "tokens.revoke": lambda client, name: client.tokens.revoke(name),
}


@pytest.mark.parametrize("call", BY_ID)
def test_no_name_leads_the_client_to_another_address(crowded, call):
    """An id is one part of an address, whatever it holds."""
    with Client(crowded.runtime.url, crowded.tokens["owner"]) as client:
        for payload in payloads(crowded):
            if payload in (".", "..", "") or "\ud800" in payload:
                continue
            with pytest.raises(GradientError):
                BY_ID[call](client, payload)


VERBS = (
    ("jobs", "show"),
    ("jobs", "logs"),
    ("jobs", "stop"),
    ("jobs", "delete"),
    ("jobs", "artifacts", "list"),
    ("jobs", "artifacts", "download"),
    ("projects", "show"),
    ("projects", "delete"),
    ("tokens", "revoke"),
)


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_no_name_on_a_command_line_does_more_than_a_wrong_name(crowded, tmp_path, verb):
    environment = {
        **crowded.environment,
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "GRADIENT_URL": crowded.runtime.url,
        "GRADIENT_TOKEN": crowded.tokens["owner"],
    }
    payload = "../../server/stop/$(touch told); touch told\x1b]0;t\x07\x1b[2J"
    done = subprocess.run(
        [sys.executable, "-m", "gradient_jupyter.cli", *verb, "--", payload],
        cwd=tmp_path, env=environment, capture_output=True, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode in (1, 2), done
    told = done.stdout + done.stderr
    assert b"Traceback" not in told and b"\x1b" not in told and b"\x07" not in told
    assert list(tmp_path.iterdir()) == []
