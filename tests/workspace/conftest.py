"""What the workspace tests share: a directory made from a plain description, and a blob store."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from gradient_jupyter.workspace.blobs import BlobStore

#: A path to its content; a trailing slash makes an empty directory, a tuple a link with that target.
Tree = dict[str, bytes | str | tuple[str]]


@pytest.fixture
def make(tmp_path: Path) -> Callable[[Tree], Path]:
    """Makes a fresh directory below ``tmp_path`` that holds the tree."""
    made = 0

    def make_tree(tree: Tree) -> Path:
        nonlocal made
        made += 1
        root = tmp_path / f"tree{made}"
        root.mkdir()
        for name, content in tree.items():
            path = root / name
            if name.endswith("/"):
                path.mkdir(parents=True, exist_ok=True)
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, tuple):
                os.symlink(content[0], path)
            else:
                path.write_bytes(content.encode() if isinstance(content, str) else content)
        return root

    return make_tree


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs")
