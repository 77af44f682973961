"""A control plane in this process: real store, blobs and engine; nothing acts by itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gradient_jupyter.control.layout import Layout
from gradient_jupyter.control.plane import Plane, Settings
from gradient_jupyter.engines.local import LocalEngine
from gradient_jupyter.store import schema
from gradient_jupyter.workspace.blobs import BlobStore


@asynccontextmanager
async def plane_at(root: Path, **settings: object) -> AsyncIterator[Plane]:
    """The plane of a data root. Its reconciler, keeper and engine are not started."""
    layout = Layout(root)
    root.mkdir(exist_ok=True)
    install = schema.prepare(layout.database)
    chosen = Settings(**{"reserve_bytes": 0, "ballast_bytes": 0, **settings})  # type: ignore[arg-type]
    plane = Plane(
        layout, install, chosen, BlobStore(layout.blobs),
        lambda plane: LocalEngine(layout.engines / "local", plane.unpack, install=install, isolation="none"),
        b"k" * 32, "http://127.0.0.1:9",
    )  # fmt: skip
    plane.database.start()
    (layout.engines / "local").mkdir(parents=True, exist_ok=True)
    try:
        yield plane
    finally:
        await plane.close()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def with_plane(data: Path) -> Callable[..., object]:
    """Runs an async function over the plane of ``data``."""

    def run(work: Callable[[Plane], object], **settings: object) -> object:
        async def main() -> object:
            async with plane_at(data, **settings) as plane:
                return await work(plane)  # type: ignore[misc]

        return asyncio.run(main())

    return run
