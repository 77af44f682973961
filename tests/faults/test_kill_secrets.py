"""Kill the making and the change of the key for secrets at every effect (technique T1).

Fault: SIGKILL of the server while it sets its first secret, or changes the key. Promise: no secret is lost,
and none is under a key that is not on the disk. Heals: with the next start. Asset A2.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults.actor import Actor

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

#: Where it is killed.
EFFECTS = ("write,sync,name,create", "/(data|config)/")


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
def actor() -> Iterator[Actor]:
    with Actor(__name__, "cryptography.hazmat.primitives.ciphers.aead") as actor:
        yield actor


@pytest.mark.slow
def test_a_change_of_the_key_that_is_killed_anywhere_loses_no_secret(tmp_path, actor):
    before = tmp_path / "before"
    before.mkdir()
    asyncio.run(setting(before))
    places = []
    for nth in range(1, 400):
        root = tmp_path / "now"
        shutil.copytree(before, root)
        where = actor.killed(rotating, root, nth, *EFFECTS)
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
        where = actor.killed(setting, root, nth, *EFFECTS)
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
