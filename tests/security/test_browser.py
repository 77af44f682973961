"""What a browser may be made to send, and what it makes of our answers. Boundary B0 (web → loopback) and B1;
assets A1, A6; rows 30, 31, 34, 47, 48, 54-56, abuse cases 1 and 2. Whether browsers obey is tried in one
elsewhere."""

from __future__ import annotations

import re
import sys

import pytest

from gradient_jupyter.api.app import all_routes

METHODS = ["GET", "HEAD", "POST", "DELETE", "PATCH", "PUT", "OPTIONS"]
ADDRESSES = sorted({re.sub(r"\{[^}]*\}", "x", route.address) for route in all_routes()})


def origins(people) -> list[str]:
    port = people.host.rpartition(":")[2]
    return [
        "null",
        "https://evil.test",
        f"https://{people.host}",
        f"http://{people.host}.evil.test",
        f"http://evil.{people.host}",
        f"http://evil.test@{people.host}",
        f"http://{people.host}@evil.test",
        f"http://127.0.0.1:{int(port) + 1}",
        "http://127.0.0.1",
        f"http://127.0.0.2:{port}",
        f"http://0.0.0.0:{port}",
        f"http://127.1:{port}",
        f"http://2130706433:{port}",
        f"http://localhost.:{port}",
        f"http://xn--lcalhost-n7a:{port}",
        f"HTTP://{people.host}x",
        f"ws://{people.host}",
        f"http://{people.host}/x, https://evil.test",
        "",
    ]


@pytest.mark.parametrize("method", METHODS)
def test_no_foreign_origin_is_taken_for_ours(people, method):
    """Row 55: origins are compared as a whole, never by their beginning or end."""
    before = people.state()
    for origin in origins(people):
        answer = people.ask("owner", method, "/api/v1/jobs", headers={"Origin": origin})
        assert answer.status == 403, origin
        assert not [name for name in answer.headers if name.lower().startswith("access-control")]
    assert people.state() == before


@pytest.mark.parametrize("address", ADDRESSES)
def test_another_sites_request_is_refused_for_every_route_and_method(people, address):
    """Rows 31, 54: every method, every mode, every content type; also where a browser sends no Origin."""
    before = people.state()
    for method in METHODS:
        for headers in (
            {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
            {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"},
            {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "cors"},
            {"Sec-Fetch-Site": "unheard-of"},
            {"Origin": "https://evil.test", "Content-Type": "text/plain"},
            {"Origin": "https://evil.test", "Content-Type": "application/x-www-form-urlencoded"},
            {"Origin": "https://evil.test", "Content-Type": "multipart/form-data; boundary=x"},
            {"Origin": "null", "Access-Control-Request-Method": "DELETE"},
        ):
            answer = people.ask("owner", method, address, headers=headers)
            assert answer.status == 403, (method, headers)
    assert people.state() == before


def test_a_page_of_ours_and_a_typed_address_are_let_in(people):
    for headers in (
        {"Sec-Fetch-Site": "same-origin", "Origin": people.runtime.url},
        {"Sec-Fetch-Site": "none"},
        {},
    ):
        assert people.ask("owner", "GET", "/api/v1/jobs", headers=headers).status == 200


def test_a_rebound_name_is_refused_before_anything_else(people):
    """Row 30: the page's own name still stands in Host, with any user agent, any method, any token."""
    for host in (
        "evil.test",
        people.host.replace("127.0.0.1", "evil.test"),
        "127.0.0.1",
        "[::ffff:127.0.0.1]:80",
    ):
        for who in ("none", "owner", "job"):
            for agent in ("curl/8", "Mozilla/5.0", ""):
                answer = people.ask(who, "GET", "/health/live", headers={"Host": host, "User-Agent": agent})
                assert answer.status == 403


@pytest.mark.parametrize("method", ["DELETE", "PUT", "PATCH"])
def test_no_header_or_parameter_turns_a_method_into_another(people, method):
    """Row 31."""
    path = f"/api/v1/jobs/{people.ids['done']}"
    before = people.state()
    for name in ("X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"):
        assert people.ask("owner", "GET", path, headers={name: method}).status == 200
        assert people.ask("owner", "POST", path, headers={name: method}).status == 405
    assert people.ask("owner", "GET", f"{path}?_method={method}").status == 400
    assert people.state() == before


@pytest.mark.parametrize("who", ["none", "wrong", "expired", "revoked"])
def test_an_upgrade_goes_past_no_login(people, who):
    """Row 34: Prefect's and jupyter-server-proxy's hole. The login comes before the first byte."""
    upgrade = {
        "Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    }  # fmt: skip
    for path in ("/api/v1/events", f"/api/v1/jobs/{people.ids['running']}/logs?follow=true", "/metrics"):
        assert people.ask(who, "GET", path, headers=upgrade).status == 401
    assert (
        people.ask("owner", "GET", "/api/v1/jobs", headers={**upgrade, "Origin": "https://e"}).status == 403
    )


PAGE = "<html><script>fetch('/api/v1/jobs')</script></html>"


@pytest.fixture(scope="module")
def made_files(people):
    """A job that left what a browser would run."""
    script = (
        "import os; to = os.environ['GRADIENT_ARTIFACTS_DIR']\n"
        f"for name in ('page.html', 'image.svg', 'plain', 'x.js', 'a\\n\"b;.html'): "
        f"open(f'{{to}}/{{name}}', 'w').write({PAGE!r})\n"
        f"print({PAGE!r})"
    )
    job = people.owner_job(sys.executable, "-c", script, name='"; filename=evil.html; x="<b>\u202e')
    people.until(job, "Stopped")
    yield job
    people.ask("owner", "DELETE", f"/api/v1/jobs/{job}")
    people.gone(f"/api/v1/jobs/{job}")
    people.quiet()


@pytest.mark.parametrize(
    "what",
    [
        "artifacts/page.html",
        "artifacts/image.svg",
        "artifacts/plain",
        "artifacts/x.js",
        "artifacts.zip",
        "log",
    ],
)
def test_what_users_made_leaves_as_an_attachment_that_no_browser_runs(people, made_files, what):
    """Rows 47, 48: whole, in part, in one archive, and as a log."""
    for headers in ({}, {"Range": "bytes=0-9"}):
        answer = people.ask("owner", "GET", f"/api/v1/jobs/{made_files}/{what}", headers=headers)
        assert answer.status in (200, 206)
        got = answer.headers
        assert got["Content-Security-Policy"] == "sandbox; default-src 'none'"
        assert got["X-Content-Type-Options"] == "nosniff"
        assert got["Cross-Origin-Resource-Policy"] == "same-origin"
        assert got["Referrer-Policy"] == "no-referrer"
        assert got["Content-Disposition"].startswith("attachment")
        assert got["Content-Type"] in (
            "application/octet-stream",
            "application/zip",
            "text/plain; charset=utf-8",
        )
        assert "no-store" in got["Cache-Control"]


def test_a_name_in_a_header_ends_neither_the_header_nor_its_quotes(people, made_files):
    """Row 62: line ends, quotes and semicolons in names that jobs chose."""
    listed = people.ask("owner", "GET", f"/api/v1/jobs/{made_files}/artifacts").json()["items"]
    assert {each["path"] for each in listed} >= {"page.html", "plain"}
    answers = [
        people.exactly("owner", "GET", f"/api/v1/jobs/{made_files}/artifacts/a%0A%22b%3B.html"),
        people.exactly("owner", "GET", f"/api/v1/jobs/{made_files}/artifacts.zip"),
    ]
    for status, _, headers in answers:
        if status == 404:
            continue  # such a name was not collected at all
        said = headers["Content-Disposition"]
        assert re.fullmatch(r"attachment; filename\*=UTF-8''[A-Za-z0-9%._~-]+", said), said


@pytest.mark.parametrize(
    "path", ["/api/v1/jobs/", "//evil.test", "/\\evil.test", "/%09//evil.test", "//evil.test/.."]
)
def test_nobody_is_ever_sent_to_another_address(people, path):
    """Row 56: there is no redirect, not even of a slash at the end."""
    for who in ("none", "owner"):
        status, _, headers = people.exactly(who, "GET", path)
        assert status in (400, 401, 403, 404)
        assert "Location" not in headers and "Refresh" not in headers


def test_every_answer_forbids_what_it_can(people):
    """Also refusals, and answers in JSON: nothing is guessed to be a page, kept, or shown elsewhere."""
    for who, path in (("owner", "/api/v1/jobs"), ("none", "/"), ("none", "/health/live"), ("owner", "/%FF")):
        _, _, headers = people.exactly(who, "GET", path)
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["Cache-Control"] == "no-store"
        assert "Server" not in headers and "Set-Cookie" not in headers
