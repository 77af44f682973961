"""Who gets in. Boundary B0: other web sites, and other users of the machine, against solo's loopback port."""

from __future__ import annotations

import socket

import pytest

from gradient_jupyter.api.app import all_routes
from gradient_jupyter.api.routes import NATIVE, Right
from gradient_jupyter.resources.server import proof

ROUTES = [
    (
        route.method,
        route.address.format(**dict.fromkeys(route.names, "x")),
        route.right,
    )
    for route in all_routes()
]
EVERY_METHOD = ["GET", "HEAD", "POST", "DELETE", "PATCH", "PUT", "OPTIONS"]
CLOSED = [(method, path) for method, path, right in ROUTES if right is not Right.PUBLIC]


def code(answer) -> str:
    """Ours, in whichever face's shape it comes."""
    body = answer.json()
    return body["error"]["code"] if "error" in body else body["code"]


@pytest.mark.parametrize(("method", "path"), CLOSED)
@pytest.mark.parametrize("token", [None, "", "gru_wrong", "x" * 5000])
def test_no_route_answers_without_the_token(solo, method, path, token):
    answer = solo.request(method, path, token=token)
    assert answer.status == 401
    assert code(answer) in ("no-token", "wrong-token")


@pytest.mark.parametrize("method", EVERY_METHOD)
@pytest.mark.parametrize("path", ["/api/v1/jobs", "/api/v1/nothing-here", "/", "/favicon.ico"])
def test_not_even_whether_a_route_exists_is_told_without_the_token(solo, method, path):
    assert solo._pool.request(method, solo.runtime.url + path).status == 401


@pytest.mark.parametrize(
    "host", ["evil.test", "127.0.0.1", "127.0.0.1:1", "localhost.evil.test", "127.0.0.1.evil.test:80", ""]
)
@pytest.mark.parametrize("method", EVERY_METHOD)
def test_a_foreign_host_name_is_refused_before_anything_else(solo, method, host):
    """DNS rebinding: the page's own name still stands in Host (CVE-2025-62593, CVE-2025-14279)."""
    answer = solo.request(method, "/jobs", headers={"Host": host, "User-Agent": "curl"})
    assert answer.status == 403
    if method != "HEAD":
        assert code(answer) == "wrong-host"


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "LOCALHOST", "[::1]"])
def test_our_own_names_are_answered_to(solo, name):
    port = solo.runtime.url.rpartition(":")[2]
    assert solo.request("GET", "/server", headers={"Host": f"{name}:{port}"}).status == 200


@pytest.mark.parametrize("method", EVERY_METHOD)
@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.test",
        "null",
        "http://127.0.0.1",
        "https://127.0.0.1:{port}",
        "http://127.0.0.1:{port}.evil.test",
    ],
)
def test_a_foreign_origin_is_refused_for_every_method(solo, method, origin):
    port = solo.runtime.url.rpartition(":")[2]
    answer = solo.request(method, "/jobs", headers={"Origin": origin.format(port=port)})
    assert answer.status == 403
    assert "Access-Control-Allow-Origin" not in answer.headers


def test_two_host_headers_are_refused(solo):
    port = int(solo.runtime.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(
            f"GET /api/v1/server HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nHost: evil.test\r\n"
            f"Authorization: Bearer {solo.runtime.token}\r\nConnection: close\r\n\r\n".encode()
        )
        answer = connection.makefile("rb").readline()
    assert b"403" in answer or b"400" in answer


def test_the_token_in_the_address_does_not_count(solo):
    assert solo.request("GET", f"/server?token={solo.runtime.token}", token=None).status == 401


def test_hello_proves_the_server_and_tells_nothing_else(solo):
    nonce = "n" * 32
    answer = solo.request("GET", f"/hello?nonce={nonce}", token=None).json()
    assert answer["proof"] == proof(solo.runtime.token, nonce, solo.runtime.url)
    assert set(answer) == {"version", "api", "proof"}


def test_the_server_listens_on_loopback_only(solo):
    port = int(solo.runtime.url.rpartition(":")[2])
    listening = []
    for table in ("tcp", "tcp6"):
        with open(f"/proc/net/{table}") as lines:
            for line in list(lines)[1:]:
                local, state = line.split()[1], line.split()[3]
                address, _, hexport = local.partition(":")
                if state == "0A" and int(hexport, 16) == port:
                    listening.append(address)
    assert listening == ["0100007F"]


def test_nothing_the_server_writes_can_be_read_by_others(solo):
    (runtime,) = (solo.root / "runtime").glob("gradient-*.json")
    assert runtime.stat().st_mode & 0o777 == 0o600
    assert solo.data.stat().st_mode & 0o777 == 0o700


def test_every_route_declares_its_right_and_only_hello_and_health_are_public():
    assert sorted(path for _, path, right in ROUTES if right is Right.PUBLIC) == [
        f"{NATIVE.prefix}/hello",
        "/health/live",
        "/health/ready",
    ]
