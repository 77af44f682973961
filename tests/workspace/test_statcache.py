"""The cache saves reading, and is never believed when it might be wrong."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gradient_jupyter.workspace.scan import Scan, scan
from gradient_jupyter.workspace.statcache import Remembered, StatCache, default_directory, recall, remember

Make = Callable[[dict[str, object]], Path]


@pytest.fixture
def cache(tmp_path: Path) -> StatCache:
    return StatCache(tmp_path / "cache")


def old(status: os.stat_result, size: int | None = None) -> Remembered:
    return Remembered(
        status.st_size if size is None else size,
        status.st_mtime_ns,
        status.st_ctime_ns,
        status.st_ino,
        b"d" * 32,
    )


def settled(root: Path, tmp_path: Path) -> Scan:
    """A scan as it would be an hour from now, when no file of ``root`` is young any more."""
    return scan(root, cache=StatCache(tmp_path / "cache", clock=lambda: time.time_ns() + 3600 * 10**9))


def test_the_second_scan_reads_nothing(make: Make, cache: StatCache, tmp_path: Path) -> None:
    root = make({f"f{i}": str(i) for i in range(100)})
    first = settled(root, tmp_path)
    second = scan(root, cache=cache)
    assert first.read_bytes == 190
    assert second.read_bytes == 0
    assert second.manifest == first.manifest
    (root / "f0").write_text("changed")
    assert scan(root, cache=cache).read_bytes == len("changed")
    (root / "f0").unlink()
    assert "f0" not in [entry.path for entry in scan(root, cache=cache).manifest.entries]


def test_a_young_file_is_read_again(make: Make, cache: StatCache) -> None:
    root = make({"a": "1"})
    scan(root, cache=cache)
    assert scan(root, cache=cache).read_bytes == 1


def test_an_edit_of_the_same_size_at_the_same_mtime_is_seen(make: Make, cache: StatCache) -> None:
    root = make({"a": "one"})
    before = os.stat(root / "a")
    first = scan(root, cache=cache)
    (root / "a").write_text("two")
    os.utime(root / "a", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert scan(root, cache=cache).manifest != first.manifest


def test_an_edit_with_a_forged_mtime_is_seen_in_a_settled_cache(
    make: Make, cache: StatCache, tmp_path: Path
) -> None:
    root = make({"a": "one"})
    before = os.stat(root / "a")
    first = settled(root, tmp_path)
    while os.stat(root / "a").st_ctime_ns == before.st_ctime_ns:  # until the file system's clock has ticked
        (root / "a").write_text("two")
        os.utime(root / "a", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert scan(root, cache=cache).manifest != first.manifest


def test_only_what_was_clearly_older_than_the_hashing_is_kept(make: Make) -> None:
    status = os.stat(make({"a": "1"}) / "a")
    tick = max(status.st_mtime_ns, status.st_ctime_ns)
    assert remember(status, b"d" * 32, started_ns=tick) is None
    assert remember(status, b"d" * 32, started_ns=tick + 10**9) is None
    assert remember(status, b"d" * 32, started_ns=tick - 10**12) is None, "a clock that was set back"
    kept = remember(status, b"d" * 32, started_ns=tick + 3 * 10**9)
    assert recall(kept, status) == b"d" * 32
    assert recall(old(status, size=2), status) is None
    assert recall(None, status) is None


def test_a_damaged_cache_costs_time_and_nothing_else(make: Make, tmp_path: Path, cache: StatCache) -> None:
    root = make({"a": "1", "b": "22"})
    right = settled(root, tmp_path).manifest
    (file,) = (tmp_path / "cache" / "hashed").iterdir()
    good = file.read_bytes()
    for position in range(len(good)):
        file.write_bytes(good[:position] + bytes((good[position] ^ 0x10,)) + good[position + 1 :])
        assert cache.load(root) == {}
    for length in (0, 3, 20, len(good) - 1):
        file.write_bytes(good[:length])
        assert scan(root, cache=cache).manifest == right


def test_a_cache_that_cannot_be_written_is_no_error(make: Make, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    root = make({"a": "1"})
    assert scan(root, cache=StatCache(tmp_path / "file" / "below")).read_bytes == 1


def test_writers_replace_the_file_as_a_whole(make: Make, tmp_path: Path, cache: StatCache) -> None:
    root = make({"a": "1"})
    entry = old(os.stat(root / "a"))
    cache.save(root, {b"a": entry, b"\xff": entry})
    assert cache.load(root) == {b"a": entry, b"\xff": entry}
    assert cache.load(root / "other") == {}
    cache.save(root, {})
    assert cache.load(root) == {}
    assert len(list((tmp_path / "cache" / "hashed").iterdir())) == 1


def test_it_lives_in_the_users_cache_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_directory() == tmp_path / "gradient_jupyter"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", "/home/x")
    assert default_directory() == Path("/home/x/.cache/gradient_jupyter")
