"""Kill the making and the change of the key for secrets at every effect (technique T1).

Fault: SIGKILL of the server while it sets its first secret, or changes the key. Promise: no secret is lost,
and none is under a key that is not on the disk. Heals: with the next start. Asset A2.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults.killing import Killer, place

from gradient_jupyter.control.layout import Layout
from gradient_jupyter.control.people.access import Principal
from gradient_jupyter.control.plane import Plane, Settings
from gradient_jupyter.control.vault import secrets
from gradient_jupyter.control.vault.keyring import Keyring
from gradient_jupyter.engines.local import LocalEngine
from gradient_jupyter.resources.secret import Scope, SecretValue
from gradient_jupyter.store import schema
from gradient_jupyter.store import secrets as rows
from gradient_jupyter.workspace.blobs import BlobStore

ME = Principal(user_id="u1", name="me")
SECRETS = {f"name-{number}": f"value {number}" for number in range(20)}

#: Does one thing after the other, each in a child that can be traced from before its first call.
ACTOR = """
import asyncio, os, signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from faults import test_kill_secrets as ours
import cryptography.hazmat.primitives.ciphers.aead
for line in sys.stdin:
    what, root = line.split()
    pid = os.fork()
    if not pid:
        os.kill(os.getpid(), signal.SIGSTOP)
        asyncio.run(getattr(ours, what)(Path(root)))
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


def plane_of(root: Path) -> Plane:
    layout = Layout(root / "data")
    layout.root.mkdir(exist_ok=True)
    install = schema.prepare(layout.database)
    return Plane(
        layout, install, Settings(reserve_bytes=0, ballast_bytes=0), BlobStore(layout.blobs),
        lambda plane: LocalEngine(root / "engine", plane.unpack, install=install, isolation="none"),
        b"k" * 32, "http://127.0.0.1:9", keyring=root / "config" / "keys",
    )  # fmt: skip


async def setting(root: Path) -> None:
    plane = plane_of(root)
    plane.database.start()
    for name, value in SECRETS.items():
        await secrets.put(plane, ME, Scope.USER, "", name, SecretValue(value))
        if root.name == "first":
            break
    await plane.close()


async def rotating(root: Path) -> None:
    plane = plane_of(root)
    plane.database.start()
    await secrets.rotate(plane)
    await plane.close()


async def after(root: Path) -> tuple[dict[str, str], tuple[str, ...]]:
    """What the next start finds: every secret, opened by what is on the disk; and the keys."""
    plane = plane_of(root)
    plane.database.start()
    await secrets.finish(plane)
    ring = Keyring(plane.keyring.path)
    stored = await plane.database.read(lambda connection: rows.of(connection, ME.owner))
    found = {
        sealed.name: secrets.opened(ring, {"v": (rows.Bound(ME.owner, sealed.name), sealed)})["v"].reveal()
        for _, sealed in stored
    }
    await plane.close()
    return found, ring.ids


@pytest.fixture
def actor() -> Iterator[subprocess.Popen[str]]:
    program = ACTOR.format(tests=str(Path(__file__).parents[1]))
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as process:
        yield process


def killed(actor: subprocess.Popen[str], what: str, root: Path, nth: int) -> str | None:
    """Kills it there. The place; None when it came to its end before."""
    assert actor.stdin and actor.stdout
    actor.stdin.write(f"{what} {root}\n")
    pid = int(actor.stdout.readline())
    with Killer(pid, nth, "write,sync,name,create", where="/(data|config)/") as killer:
        os.kill(pid, signal.SIGCONT)
        status = int(actor.stdout.readline())
    assert status == (-signal.SIGKILL if killer.fired else 0)
    return place(killer.sites[-1], root) if killer.fired else None


@pytest.mark.slow
def test_a_change_of_the_key_that_is_killed_anywhere_loses_no_secret(tmp_path, actor):
    before = tmp_path / "before"
    before.mkdir()
    asyncio.run(setting(before))
    places = []
    for nth in range(1, 400):
        root = tmp_path / "now"
        shutil.copytree(before, root)
        where = killed(actor, "rotating", root, nth)
        found, keys = asyncio.run(after(root))
        assert found == SECRETS, where
        assert len(keys) == 1, (where, keys)
        shutil.rmtree(root)
        if where is None:
            break
        places.append(where)
    assert any("config/keys" in each for each in places) and any("sqlite" in each for each in places), places
    assert len(places) > 10


@pytest.mark.slow
def test_a_first_secret_whose_setting_is_killed_anywhere_is_there_or_can_be_set(tmp_path, actor):
    places = []
    for nth in range(1, 400):
        root = tmp_path / "first"
        root.mkdir()
        assert asyncio.run(after(root)) == ({}, ())
        where = killed(actor, "setting", root, nth)
        found, keys = asyncio.run(after(root))
        assert found in ({}, {"name-0": "value 0"}), where
        assert bool(found) <= (len(keys) == 1), where
        asyncio.run(setting(root))
        found, keys = asyncio.run(after(root))
        assert (found, len(keys)) == ({"name-0": "value 0"}, 1), where
        shutil.rmtree(root)
        if where is None:
            break
        places.append(where)
    assert any("config/keys" in each for each in places), places
