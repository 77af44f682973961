"""No secret is where it does not belong, whatever goes wrong (safety.md A2, abuse case 12, rows 45 and 46).

Canaries: secrets whose values are known are set, everything fails in every way that we could think of, and
then whatever was answered or is on the disk is searched for them, in each form a program might give them.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import secrets as random
import signal
import sqlite3
import sys
from pathlib import Path

import pytest
from solo import SoloServer

from gradient_jupyter.engines.local import process
from gradient_jupyter.engines.local.masking import forms

#: Prints what it was given in every way that is masked, in one piece and in several.
BLAB = (
    "import base64, json, os, sys, time, urllib.parse\n"
    "for name in ('ONE', 'TWO', 'GRADIENT_JOB_TOKEN'):\n"
    "    value = os.environ[name]\n"
    "    print(value, [value], json.dumps(value), urllib.parse.quote(value))\n"
    "    print(base64.b64encode(f'user:{value}'.encode()).decode(), file=sys.stderr, flush=True)\n"
    "    for letter in value:\n"
    "        os.write(1, letter.encode()); os.write(2, letter.encode()); time.sleep(0.002)\n"
    "    os.write(1, b'\\n')\n"
)
OPTIONS = (
    "--log-level=DEBUG",
    "--GradientServer.machine_types={'small': {'cpus': 0.01, 'memory_bytes': 1048576}}",
    "--GradientServer.default_machine_type=small",
    "--GradientServer.stop_grace_s=2",
    "--GradientServer.retry_delay_s=0",
)


class Watched(SoloServer):
    """Remembers everything that it was answered."""

    def __init__(self, root: Path, *options: str) -> None:
        super().__init__(root, *options)
        self.heard: list[bytes] = []

    def request(self, *args, **kwargs):
        answer = super().request(*args, **kwargs)
        if not kwargs.get("stream"):
            self.heard += [answer.data, repr(dict(answer.headers)).encode()]
        return answer

    def events(self, path, headers=None):
        for event, identity, data in super().events(path, headers):
            self.heard.append(repr((event, identity, data)).encode())
            yield event, identity, data


@pytest.fixture
def watched(tmp_path):
    server = Watched(tmp_path, *OPTIONS)
    yield server
    server.stop()


def put(solo, path, value):
    answer = solo.request("PUT", path, json_body={"value": value})
    assert answer.status == 200, answer.data
    return answer.json()


def where_found(root: Path, needles: set[bytes]) -> list[str]:
    """Files below ``root`` that hold one of these, or are called so."""
    found = []
    for directory, _, names in os.walk(root):
        for name in names:
            path = Path(directory, name)
            if path.is_symlink() or not path.is_file():
                continue
            content = path.read_bytes() + os.fsencode(path)
            found += [f"{path}: {needle!r}" for needle in needles if needle in content]
    return found


def command_lines() -> bytes:
    found = []
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found.append(place.read_bytes())
    return b"".join(found)


def test_no_secret_is_found_anywhere_after_everything_went_wrong(watched, tmp_path):
    one, two = f"canary-{random.token_hex(12)}", f"kanarie+{random.token_hex(8)}/ö \"{random.token_hex(4)}'"
    needles = {form for value in (one, two) for form in forms(value)}
    watched.start()
    place = watched.request("POST", "/projects", json_body={"name": "cage"}).json()["id"]
    put(watched, "/secrets/user/one", one)
    put(watched, f"/projects/{place}/secrets/two", two)
    # Requests that are refused.
    for body in (
        {"value": one, "more": two}, {"value": [one]}, {"value": one + "\0"}, {one: two}, [two],
        {"value": one * 4000},
    ):  # fmt: skip
        answer = watched.request("PUT", "/secrets/user/one", json_body=body)
        assert answer.status == 400
        if isinstance(body, dict) and one in body:
            watched.heard[-2:] = []  # an unknown field is named: whoever sent it put it there
    assert watched.request("PUT", "/secrets/user/one", body=f'{{"value": "{one}'.encode()).status == 400
    assert watched.request("PUT", "/secrets/user/one", json_body={"value": one}, token="x").status == 401
    assert watched.request("PUT", "/secrets/user/one", json_body={"value": one * 60000}).status == 413
    assert watched.request("POST", "/secrets/user/one", json_body={"value": one}).status == 405
    assert watched.request("PUT", "/secrets/nobody/x", json_body={"value": one}).status == 404
    # Jobs that end in every way.
    env = {"ONE": "secret:one", "TWO": "secret:two"}
    given = {"project": None, "project_id": place, "env": env}
    blab = (sys.executable, "-c")
    jobs = [
        watched.job(*blab, BLAB, **given),
        watched.job(*blab, BLAB + "sys.exit(3)", retries=2, **given),
        watched.job(*blab, BLAB + "raise ValueError(os.environ)", **given),
        watched.job(*blab, BLAB + "os.abort()", **given),
        watched.job(*blab, BLAB + "os.kill(os.getpid(), 9)", **given),
        watched.job(*blab, BLAB + "time.sleep(600)", max_duration_s=1, **given),
        watched.job("no-such-command", **given),
        watched.job("/etc/passwd", **given),
        watched.job("true", **{**given, "env": {**env, "PATH": "secret:two"}}),
        watched.job("sh", "-c", 'echo "$ONE" >&2; exec "$TWO"', **given),
        watched.job(*blab, BLAB + "sys.stdout.flush(); os.write(1, os.environ['ONE'][:9].encode())", **given),
    ]
    states = [watched.finished(job["id"])["state"] for job in jobs]
    assert states[0] == "Stopped" and states.count("Failed") == 9, states
    text = watched.text(jobs[0]["id"])
    assert "***" in text and "grj_" not in text, text
    # While one runs: what others on this machine can see of its processes.
    job = watched.job(*blab, BLAB + "print('up', flush=True); time.sleep(600)", **given)
    watched.printed(job["id"], "up\n")
    lines = command_lines()
    assert not [needle for needle in needles if needle in lines]
    (pid_file,) = watched.data.glob(f"engines/local/*{job['id']}*/pid")
    family = process.descendants(json.loads(pid_file.read_text())["pid"])
    modes = {os.stat(f"/proc/{pid}/environ").st_mode & 0o777 for pid in family}
    assert modes == {0o400}
    # The supervisor dies, the server dies, the key is changed, the stored value rots, the secret goes.
    supervisor = json.loads(pid_file.read_text())["pid"]
    os.kill(supervisor, signal.SIGKILL)
    watched.kill()
    watched.start()
    assert watched.finished(job["id"])["reason"]["code"] == "lost"
    assert watched.request("POST", "/admin/secrets/rotate").json()["secrets"] == 2
    last = watched.job(*blab, BLAB, **given)
    assert watched.finished(last["id"])["state"] == "Stopped"
    assert watched.request("POST", f"/jobs/{last['id']}/rerun", json_body={}).status == 201
    with contextlib.closing(sqlite3.connect(watched.data / "gradient.sqlite")) as database:
        database.execute("UPDATE secrets SET sealed = substr(sealed, 1, 20) WHERE name = 'two'")
        database.commit()
    rotten = watched.job("true", **given)
    assert watched.finished(rotten["id"])["reason"]["code"] == "secret-unreadable"
    assert watched.request("DELETE", "/secrets/user/one").status == 204
    assert watched.request("POST", f"/jobs/{last['id']}/rerun", json_body={}).status == 404
    for path in (
        "/server", "/jobs", "/projects", "/secrets/user", f"/projects/{place}/secrets", "/admin/doctor",
        "/admin/disk", "/openapi.json", *(f"/jobs/{job['id']}/attempts" for job in jobs),
        *(f"/jobs/{job['id']}/log" for job in jobs),
    ):  # fmt: skip
        assert watched.request("GET", path).status == 200, path
    install = watched.request("GET", "/server").json()["install"]
    for _, _, event in watched.events("/events", headers={"Last-Event-ID": f"{install}-0"}):
        if event["id"] == rotten["id"] and event["resource"]["state"] == "Error":
            break
    watched.stop()
    assert where_found(tmp_path, needles) == []
    heard = b"".join(watched.heard)
    assert not [needle for needle in needles if needle in heard]
    # The runs' own tokens, too: each opens its job.
    log = (tmp_path / "server.log").read_bytes()
    assert b"grj_" not in heard + log
    assert where_found(watched.data, {b"grj_"}) == []
    assert b"DEBUG" in log


def test_what_bubblewrap_says_of_a_world_that_failed_holds_no_secret(watched):
    """The command's own last words are part of that message."""
    watched.start()
    value = f"canary-{random.token_hex(12)}"
    put(watched, "/secrets/user/v", value)
    # It ends bubblewrap itself before that could say how its command ended.
    script = (
        "import os; print(os.environ['V'], file=__import__('sys').stderr, flush=True)\n"
        "os.kill(os.getppid(), 9); import time; time.sleep(5)"
    )
    job = watched.job(sys.executable, "-c", script, env={"V": "secret:v"})
    final = watched.finished(job["id"])
    assert final["state"] in ("Failed", "Error", "Stopped")
    assert value not in repr(final)
    watched.stop()
    assert where_found(watched.root, set(forms(value))) == []


def keys(server: SoloServer) -> Path:
    (found,) = (server.root / "config" / "gradient_jupyter" / "keys").glob("*.secrets")
    return found


def line_of(server: SoloServer, name: str) -> dict[str, object]:
    checks = server.request("GET", "/admin/doctor").json()["checks"]
    (line,) = [each for each in checks if each["name"] == name]
    return line


def test_the_key_is_outside_the_data_root_and_nobody_elses(own_solo):
    """Asset A2, boundary B6: who has a copy of the data has no secret."""
    own_solo.start()
    put(own_solo, "/secrets/user/v", "long enough")
    ring = keys(own_solo)
    assert own_solo.data not in ring.parents
    assert ring.stat().st_mode & 0o777 == 0o700
    (key,) = ring.iterdir()
    assert key.stat().st_mode & 0o777 == 0o600 and key.stat().st_size == 32
    content = key.read_bytes()
    own_solo.stop()
    assert where_found(own_solo.data, {content, content.hex().encode(), base64.b64encode(content)}) == []


def test_a_key_that_is_lost_is_never_made_anew_silently(own_solo):
    """Asset A2: the server starts, everything says so, jobs that need it fail, and the key put back heals
    it."""
    own_solo.start()
    put(own_solo, "/secrets/user/v", "long enough")
    ring = keys(own_solo)
    own_solo.kill()
    away = ring.with_name("away")
    ring.rename(away)
    own_solo.start()
    (listed,) = own_solo.request("GET", "/secrets/user").json()["items"]
    assert listed["readable"] is False
    (warning,) = own_solo.request("GET", "/server").json()["warnings"]
    assert str(ring) in warning and listed["key_id"] in warning
    assert listed["key_id"] in own_solo.log()
    assert line_of(own_solo, "secrets")["level"] == "fail"
    job = own_solo.job("true", env={"V": "secret:v"}, retries=2)
    final = own_solo.finished(job["id"])
    assert (final["state"], final["reason"]["code"], final["attempt"]) == ("Error", "secret-unreadable", 1)
    assert final["reason"]["next"]
    answer = own_solo.request("PUT", "/secrets/user/w", json_body={"value": "long enough"})
    assert (answer.status, answer.json()["error"]["code"]) == (409, "secrets-key-missing")
    assert not ring.exists()
    away.rename(ring)
    assert own_solo.request("GET", "/server").json()["warnings"] == []
    job = own_solo.job("true", env={"V": "secret:v"})
    assert own_solo.finished(job["id"])["state"] == "Stopped"


def test_a_key_that_stays_lost_is_replaced_when_that_is_asked_for(own_solo):
    own_solo.start()
    put(own_solo, "/secrets/user/v", "long enough")
    own_solo.stop()
    (key,) = keys(own_solo).iterdir()
    key.unlink()
    own_solo.start()
    rotated = own_solo.request("POST", "/admin/secrets/rotate").json()
    assert (rotated["secrets"], rotated["unreadable"]) == (0, 1)
    (listed,) = own_solo.request("GET", "/secrets/user").json()["items"]
    assert listed["readable"] is False and listed["key_id"] == key.name
    again = put(own_solo, "/secrets/user/v", "long enough")
    assert again["readable"] and again["key_id"] == rotated["key_id"] != key.name
    assert own_solo.request("GET", "/server").json()["warnings"] == []


def test_a_key_that_vanishes_under_a_running_server_can_still_be_replaced(own_solo):
    """Fault: somebody clears away the configuration. Nothing is lost as long as the server lives."""
    own_solo.start()
    put(own_solo, "/secrets/user/v", "long enough")
    (key,) = keys(own_solo).iterdir()
    key.unlink()
    (warning,) = own_solo.request("GET", "/server").json()["warnings"]
    assert key.name in warning and "rotate-key" in warning
    rotated = own_solo.request("POST", "/admin/secrets/rotate").json()
    assert (rotated["secrets"], rotated["unreadable"]) == (1, 0)
    own_solo.kill()
    own_solo.start()
    assert own_solo.request("GET", "/server").json()["warnings"] == []
    job = own_solo.job("true", env={"V": "secret:v"})
    assert own_solo.finished(job["id"])["state"] == "Stopped"


@pytest.mark.parametrize("damage", ["garbage", "empty", "link", "directory", "open"])
def test_a_key_file_that_is_not_what_it_was_is_named(own_solo, damage):
    own_solo.start()
    put(own_solo, "/secrets/user/v", "long enough")
    own_solo.stop()
    (key,) = keys(own_solo).iterdir()
    content = key.read_bytes()
    if damage == "open":
        key.chmod(0o644)
    else:
        key.unlink()
    if damage == "garbage":
        key.write_bytes(bytes(32))
    elif damage == "empty":
        key.write_bytes(b"")
    elif damage == "link":
        elsewhere = own_solo.root / "elsewhere"
        elsewhere.write_bytes(content)
        key.symlink_to(elsewhere)
    elif damage == "directory":
        key.mkdir()
    own_solo.start()
    warnings = own_solo.request("GET", "/server").json()["warnings"]
    assert any(str(key) in warning for warning in warnings)
    (listed,) = own_solo.request("GET", "/secrets/user").json()["items"]
    assert listed["readable"] is (damage == "open")


def test_a_damaged_row_is_that_secrets_own_trouble(own_solo):
    own_solo.start()
    for name in ("good", "flipped", "moved", "renamed", "cut", "wrong"):
        put(own_solo, f"/secrets/user/{name}", f"the value of {name}")
    own_solo.stop()
    with contextlib.closing(sqlite3.connect(own_solo.data / "gradient.sqlite")) as database:
        (sealed,) = database.execute("SELECT sealed FROM secrets WHERE name = 'flipped'").fetchone()
        flipped = bytearray(sealed)
        flipped[-1] ^= 1
        database.execute("UPDATE secrets SET sealed = ? WHERE name = 'flipped'", (bytes(flipped),))
        # Who can write the database makes another's secret their own: it does not open there.
        good = "SELECT sealed FROM secrets WHERE name = 'good'"
        database.execute(f"UPDATE secrets SET sealed = ({good}) WHERE name = 'moved'")
        database.execute("UPDATE secrets SET name = 'called' WHERE name = 'renamed'")
        database.execute("UPDATE secrets SET sealed = x'' WHERE name = 'cut'")
        database.execute("UPDATE secrets SET sealed = 'text' WHERE name = 'wrong'")
        database.commit()
    own_solo.start()
    items = own_solo.request("GET", "/secrets/user").json()["items"]
    listed = {each["name"]: each["readable"] for each in items}
    assert listed == {
        "good": True, "flipped": False, "moved": False, "called": False, "cut": False, "wrong": False
    }  # fmt: skip
    rotated = own_solo.request("POST", "/admin/secrets/rotate").json()
    assert (rotated["secrets"], rotated["unreadable"]) == (1, 5)
    job = own_solo.job("true", env={"V": "secret:good"})
    assert own_solo.finished(job["id"])["state"] == "Stopped"


def test_a_keyring_that_cannot_be_written_is_told_and_nothing_is_stored(own_solo):
    own_solo.start()
    install = own_solo.request("GET", "/server").json()["install"]
    ring = own_solo.root / "config" / "gradient_jupyter" / "keys" / f"{install}.secrets"
    ring.write_bytes(b"")
    answer = own_solo.request("PUT", "/secrets/user/v", json_body={"value": "canary-1234"})
    assert (answer.status, answer.json()["error"]["code"]) == (500, "secrets-key-unwritable")
    assert "canary" not in own_solo.log()
    ring.unlink()
    put(own_solo, "/secrets/user/v", "long enough")
