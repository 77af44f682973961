"""The cache saves reading, and is never believed when it might be wrong: an old digest for new content would
run another program than the person sees."""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import blake3
import msgspec
import pytest

from gradient_jupyter.resources.errors import WorkspaceError
from gradient_jupyter.resources.snapshot import WHOLE_BYTES, File
from gradient_jupyter.workspace.descent import Descent
from gradient_jupyter.workspace.digest import Hashed, hash_file
from gradient_jupyter.workspace.scan import Scan, scan
from gradient_jupyter.workspace.statcache import Remembered, StatCache, default_directory, recall, remember

Make = Callable[[dict[str, object]], Path]
HOUR_NS = 3600 * 10**9


@pytest.fixture
def cache(tmp_path: Path) -> StatCache:
    """The cache as it would be an hour from now, when no file is young any more."""
    return StatCache(tmp_path / "cache", clock=lambda: time.time_ns() + HOUR_NS)


def honest(root: Path) -> Scan:
    """What is really there: nothing is remembered."""
    return scan(root)


def same_tick(path: Path, content: str) -> None:
    """An edit that no time shows: it is repeated until mtime and ctime are what the clock said before it."""
    while True:
        path.write_text("?" * len(content))
        before = os.stat(path)
        path.write_text(content)
        after = os.stat(path)
        if (before.st_mtime_ns, before.st_ctime_ns) == (after.st_mtime_ns, after.st_ctime_ns):
            return


def next_tick(path: Path, edit: Callable[[], None]) -> None:
    """``edit``, again and again until the file system's clock has moved on."""
    before = os.stat(path).st_ctime_ns
    while os.stat(path).st_ctime_ns == before:
        edit()


def test_the_second_scan_reads_nothing(make: Make, cache: StatCache) -> None:
    root = make({f"f{i}": str(i) for i in range(100)})
    first = scan(root, cache=cache)
    second = scan(root, cache=cache)
    assert first.read_bytes == 190
    assert second.read_bytes == 0
    assert second.manifest == first.manifest
    (root / "f0").write_text("changed")
    assert scan(root, cache=cache).read_bytes == len("changed")
    (root / "f0").unlink()
    assert "f0" not in [entry.path for entry in scan(root, cache=cache).manifest.entries]


def test_a_young_file_is_read_again(make: Make, tmp_path: Path) -> None:
    root, cache = make({"a": "1"}), StatCache(tmp_path / "cache")
    scan(root, cache=cache)
    assert scan(root, cache=cache).read_bytes == 1


def test_an_edit_within_one_tick_is_seen(make: Make, tmp_path: Path) -> None:
    """The file's times equal the moment of the scan, and stay so: git's racily clean file."""
    root, path = make({"a": "one"}), None
    path = root / "a"
    for _ in range(20):
        cache = StatCache(tmp_path / "cache", clock=lambda: os.stat(path).st_mtime_ns)
        path.write_text("one")
        before = os.stat(path)
        first = scan(root, cache=cache)
        path.write_text("two")
        after = os.stat(path)
        assert scan(root, cache=cache).manifest == honest(root).manifest != first.manifest
        if (before.st_mtime_ns, before.st_ctime_ns) == (after.st_mtime_ns, after.st_ctime_ns):
            return  # it really was one tick


def test_a_file_whose_mtime_is_the_caches_write_time_is_read_again(make: Make, tmp_path: Path) -> None:
    root = make({"a": "one"})
    cache = StatCache(tmp_path / "cache", clock=lambda: os.stat(root / "a").st_ctime_ns)
    scan(root, cache=cache)
    assert scan(root, cache=cache).read_bytes == 3


@pytest.mark.parametrize("restore", ["utime", "touch -d", "cp -p", "rsync", "rename"])
def test_an_mtime_that_was_set_back_deceives_nobody(
    make: Make, cache: StatCache, tmp_path: Path, restore: str
) -> None:
    root = make({"a": "one"})
    path, saved = root / "a", tmp_path / "saved"
    before = os.stat(path)
    subprocess.run(["cp", "-p", path, saved], check=True)
    saved.write_text("two")
    os.utime(saved, ns=(before.st_atime_ns, before.st_mtime_ns))
    first = scan(root, cache=cache)
    assert scan(root, cache=cache).read_bytes == 0, "it is remembered"

    def edit() -> None:
        if restore == "cp -p":
            subprocess.run(["cp", "-p", saved, path], check=True)
            return
        if restore == "rsync":  # writes beside it, sets the times, moves it there
            shutil.copy2(saved, root.parent / ".a.x")
            os.rename(root.parent / ".a.x", path)
            return
        if restore == "rename":
            os.link(saved, root.parent / "other")
            os.rename(root.parent / "other", path)
            return
        path.write_text("two")
        if restore == "utime":
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        else:
            subprocess.run(["touch", "-r", saved, path], check=True)

    next_tick(path, edit)
    assert os.stat(path).st_mtime_ns == before.st_mtime_ns, "the edit hides in mtime and size"
    assert scan(root, cache=cache).manifest == honest(root).manifest != first.manifest


def test_a_new_file_with_the_inode_of_an_old_one_is_read(make: Make, cache: StatCache) -> None:
    root = make({"a": "one"})
    path = root / "a"
    before = os.stat(path)
    first = scan(root, cache=cache)

    def replace() -> None:
        path.unlink()
        path.write_text("two")
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    next_tick(path, replace)  # on most file systems it gets the very same inode
    assert scan(root, cache=cache).manifest == honest(root).manifest != first.manifest


def test_the_same_inode_on_another_file_system_is_another_file() -> None:
    entry = Remembered(3, 1, 1, 7, 1, b"d" * 32)
    status = os.stat_result((0o100644, 7, 2, 1, 0, 0, 3, 0, 0, 0, 0.0, 0.0, 0.0, 0, 1, 1))
    assert recall(entry, status) is None


@pytest.mark.skipif(sys.platform != "linux" and "CI" not in os.environ, reason="leases are Linux's")
def test_a_write_through_a_memory_map_is_seen(make: Make, cache: StatCache) -> None:
    """The page is dirty already, so no time moves; only that somebody has the file open for writing tells."""
    root = make({"a": "one" + "." * 5000, "b": "quiet"})
    path = root / "a"
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        file.close()
        mapped[0:3] = b"two"
        first = scan(root, cache=cache)
        before = os.stat(path)
        mapped[0:3] = b"six"
        after = os.stat(path)
        assert (before.st_mtime_ns, before.st_ctime_ns) == (after.st_mtime_ns, after.st_ctime_ns)
        second = scan(root, cache=cache)
        assert second.manifest == honest(root).manifest != first.manifest
        assert second.read_bytes == 5003, "the other file is remembered all the same"
    scan(root, cache=cache)
    assert scan(root, cache=cache).read_bytes == 0, "nobody writes any more"


def test_where_the_system_does_not_tell_who_writes_a_file_has_to_rest_longer() -> None:
    status = os.stat_result((0o100644, 7, 2, 1, 0, 0, 3, 0, 0, 0, 0.0, 0.0, 0.0, 0, 0, 0))
    second = 10**9
    for written, rest_s in ((False, 3), (None, 61)):
        hashed = Hashed(status, b"d" * 32, (), written)
        assert remember(hashed, started_ns=(rest_s - 1) * second - second) is None
        assert remember(hashed, started_ns=rest_s * second) is not None
    assert remember(Hashed(status, b"d" * 32, (), True), started_ns=HOUR_NS) is None


def test_what_was_kept_before_the_clock_was_set_back_is_forgotten(make: Make, tmp_path: Path) -> None:
    """After a jump backwards the same second comes again, and an edit in it would leave no trace."""
    now_ns = time.time_ns() + HOUR_NS
    cache = StatCache(tmp_path / "cache", clock=lambda: now_ns)
    root = make({"a": "one"})
    scan(root, cache=cache)
    assert scan(root, cache=cache).read_bytes == 0
    now_ns -= 1
    assert scan(root, cache=cache).read_bytes == 3


def test_a_file_from_the_future_is_read_each_time(make: Make, tmp_path: Path) -> None:
    root = make({"a": "one"})
    cache = StatCache(tmp_path / "cache", clock=lambda: os.stat(root / "a").st_ctime_ns - HOUR_NS)
    scan(root, cache=cache)
    assert scan(root, cache=cache).read_bytes == 3


def test_only_what_was_clearly_older_than_the_hashing_is_kept(make: Make) -> None:
    with Descent(os.fsencode(make({"a": "1"}))) as below:
        hashed = hash_file(below, b"a")
    assert hashed is not None
    tick = max(hashed.stat.st_mtime_ns, hashed.stat.st_ctime_ns)
    assert remember(hashed, started_ns=tick) is None
    assert remember(hashed, started_ns=tick + 10**9) is None
    assert remember(hashed, started_ns=tick - 10**12) is None, "a clock that was set back"
    kept = remember(hashed, started_ns=tick + 100 * 10**9)
    assert kept is not None
    assert recall(kept, hashed.stat) == kept
    assert recall(msgspec.structs.replace(kept, size=2), hashed.stat) is None
    assert recall(None, hashed.stat) is None


def test_nothing_on_a_read_only_image_is_kept(make: Make, cache: StatCache) -> None:
    """Its builder made up inodes and times, and the next image may have the same ones for other content."""
    root = make({"a": "one"})
    script = (
        "import sys, pathlib\n"
        "from gradient_jupyter.workspace.scan import scan\n"
        "from gradient_jupyter.workspace.statcache import StatCache\n"
        "cache = StatCache(pathlib.Path(sys.argv[2]), clock=lambda: 1 << 61)\n"
        "print([scan(pathlib.Path(sys.argv[1]), cache=cache).read_bytes for _ in range(2)])\n"
    )
    mount = 'mount --bind "$1" "$1" && mount -o remount,ro,bind "$1" && exec "$0" -c "$3" "$1" "$2"'
    unshare = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount]
    done = subprocess.run(
        [*unshare, sys.executable, root, root.parent / "c", script],
        capture_output=True, text=True, cwd=Path(__file__).parents[2], check=False,
    )  # fmt: skip
    if done.returncode and "CI" not in os.environ:
        pytest.skip(f"no user namespace to mount in: {done.stderr}")
    assert done.stdout.strip() == "[3, 3]", done.stderr


def test_a_damaged_cache_costs_time_and_nothing_else(make: Make, tmp_path: Path, cache: StatCache) -> None:
    root = make({"a": "1", "b": "22"})
    right = scan(root, cache=cache).manifest
    (file,) = (tmp_path / "cache" / "hashed").iterdir()
    good = file.read_bytes()
    for position in range(len(good)):
        file.write_bytes(good[:position] + bytes((good[position] ^ 0x10,)) + good[position + 1 :])
        assert cache.load(root) == {}
    for length in (0, 3, 20, len(good) - 1):
        file.write_bytes(good[:length])
        assert scan(root, cache=cache).manifest == right


@pytest.fixture
def cache_file(make: Make, tmp_path: Path, cache: StatCache) -> Iterator[tuple[Path, Path]]:
    """A directory and the file in which its digests are kept."""
    root = make({"a": "1", "b": "22"})
    scan(root, cache=cache)
    (file,) = (tmp_path / "cache" / "hashed").iterdir()
    yield root, file


@pytest.mark.parametrize("foreign", ["link", "pipe", "directory", "writable by others", "somebody else's"])
def test_a_cache_that_is_not_ours_is_not_believed(
    cache: StatCache, cache_file: tuple[Path, Path], tmp_path: Path, foreign: str
) -> None:
    root, file = cache_file
    assert cache.load(root)
    if foreign == "link":
        file.rename(tmp_path / "elsewhere")
        file.symlink_to(tmp_path / "elsewhere")
    elif foreign == "pipe":
        file.unlink()
        os.mkfifo(file)
    elif foreign == "directory":
        file.unlink()
        file.mkdir()
    elif foreign == "writable by others":
        file.chmod(0o622)
    elif os.geteuid() == 0:
        os.chown(file, 12345, 12345)
    else:
        file.write_bytes(b"")  # only root can give a file away
    assert cache.load(root) == {}
    assert scan(root, cache=cache).read_bytes == 3


def test_a_hostile_cache_yields_no_digest_that_is_none(
    cache: StatCache, cache_file: tuple[Path, Path]
) -> None:
    root, file = cache_file
    known = cache.load(root)
    lies = {
        b"a": msgspec.structs.replace(known[b"a"], digest=b"short"),
        b"b": msgspec.structs.replace(known[b"b"], chunks=b"d" * 32),
        b"../../etc/passwd": known[b"a"],
    }
    cache.save(root, lies)
    assert cache.load(root) == lies
    assert scan(root, cache=cache).manifest == honest(root).manifest
    for body in (b"\xc0", b"\x93\xa1x\x01\x80", os.urandom(100)):
        file.write_bytes(b"GRSTAT2\n" + blake3.blake3(body).digest() + body)
        assert scan(root, cache=cache).manifest == honest(root).manifest


def test_a_cache_of_the_version_before_is_replaced(cache: StatCache, cache_file: tuple[Path, Path]) -> None:
    root, file = cache_file
    file.write_bytes(b"GRSTAT1\n" + hashlib.sha256(b"x").digest() + b"x")
    assert scan(root, cache=cache).read_bytes == 3
    assert scan(root, cache=cache).read_bytes == 0


def test_the_chunks_of_a_large_file_are_remembered(make: Make, cache: StatCache) -> None:
    root = make({"large": b""})
    with (root / "large").open("r+b") as file:
        file.truncate(WHOLE_BYTES + 5)
    first = scan(root, cache=cache)
    second = scan(root, cache=cache)
    assert (first.read_bytes, second.read_bytes) == (WHOLE_BYTES + 5, 0)
    assert first.manifest == second.manifest
    (large,) = second.manifest.files
    assert isinstance(large, File) and len(list(large.blobs())) == 9


def test_two_scans_at_once_are_both_right(make: Make, cache: StatCache) -> None:
    root = make({f"f{i}": str(i) for i in range(50)})
    right = honest(root).manifest
    seen = []

    def look() -> None:
        for _ in range(10):
            with contextlib.suppress(WorkspaceError):  # it says so where others touch a file twice meanwhile
                seen.append(scan(root, cache=cache).manifest == right)
            (root / "f0").touch()

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen and all(seen)


def test_a_cache_that_cannot_be_written_is_no_error(make: Make, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    root = make({"a": "1"})
    assert scan(root, cache=StatCache(tmp_path / "file" / "below")).read_bytes == 1


def test_writers_replace_the_file_as_a_whole(make: Make, tmp_path: Path, cache: StatCache) -> None:
    root = make({"a": "1"})
    entry = Remembered(1, 2, 3, 4, 5, b"d" * 32)
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
