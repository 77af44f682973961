"""What a job leaves is collected whole, or what is missing is said. Job code owns the directory (B4)."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path

import blake3
import pytest

from gradient_jupyter.control.data.collection import Collection, Limits
from gradient_jupyter.resources.artifact import Artifact

LIMITS = Limits(files=10_000, bytes=1 << 40)
ROOT = str(Path(__file__).parents[2])


@pytest.fixture
def left(tmp_path: Path) -> Path:
    directory = tmp_path / "artifacts"
    directory.mkdir()
    return directory


def collect(directory: Path, limits: Limits = LIMITS, **fields: object) -> tuple[dict[str, Artifact], str]:
    work = Collection(directory, limits, **fields)  # type: ignore[arg-type]
    found = {artifact.path: artifact for piece in work.pieces() for artifact in piece}
    return found, "\n".join(work.warnings())


def digest(data: bytes) -> str:
    return blake3.blake3(data).hexdigest()


def test_everything_that_is_no_file_of_the_job_is_named_and_nothing_waits_for_it(left, tmp_path):
    """Fault: a pipe, a socket, links, a device, odd names. Abuse case 9. No open of them may block."""
    (left / "ok").write_bytes(b"ok")
    os.mkfifo(left / "pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(left / "sock"))
    (left / "out").symlink_to("/etc/passwd")
    (left / "up").symlink_to("..")
    (left / "new\nline").write_bytes(b"n")
    with open(os.fsencode(left) + b"/\xff", "wb"):
        pass
    if os.geteuid() == 0:
        os.mknod(left / "device", 0o600 | 0o020000, os.makedev(1, 3))
    found, said = collect(left)
    assert sorted(found) == ["new\nline", "ok"]
    for name in ("pipe", "sock", "out", "up", r"\xff"):
        assert name in said or "more" in said
    assert "Left out of the artifacts" in said and "\n" not in said


def test_a_hard_link_to_something_outside_is_left_out_and_those_inside_are_not(left, tmp_path):
    """Abuse case 9, CVE-2026-34446: a second name elsewhere means that the bytes may be somebody else's, and
    that they can be changed from there after the end (P5)."""
    canary = tmp_path / "canary"
    canary.write_bytes(b"foreign")
    os.link(canary, left / "stolen")
    (left / "a").write_bytes(b"mine")
    (left / "sub").mkdir()
    os.link(left / "a", left / "sub" / "b")
    found, said = collect(left)
    assert {path: artifact.digest for path, artifact in found.items()} == {
        "a": digest(b"mine"),
        "sub/b": digest(b"mine"),
    }
    assert "stolen" in said and "hard link" in said and "copy it instead" in said


def test_files_of_another_user_are_left_out(left):
    """Another uid's file needs root to be made, so the collector is told to look for another owner's."""
    (left / "theirs").write_bytes(b"secret")
    found, said = collect(left, owner=os.geteuid() + 1)
    assert not found
    assert f"belongs to another user (uid {os.geteuid()})" in said


def test_what_is_mounted_there_is_left_out(left, tmp_path):
    """Fault: a directory and a file of the same file system are mounted into the artifacts; a device's number
    does not tell. Needs bubblewrap, which may mount where we may not."""
    if shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    (left / "dir").mkdir()
    (left / "file").touch()
    (left / "mine").write_bytes(b"mine")
    script = (
        "import sys, pathlib\n"
        "from gradient_jupyter.control.data.collection import Collection, Limits\n"
        "work = Collection(pathlib.Path(sys.argv[1]), Limits(10, 1 << 30))\n"
        "print([artifact.path for piece in work.pieces() for artifact in piece])\n"
        "print(work.warnings())\n"
    )
    words = ["--dev-bind", "/", "/", "--bind", str(outside), str(left / "dir")]
    words += ["--bind", str(outside / "secret"), str(left / "file")]
    done = subprocess.run(
        ["bwrap", *words, sys.executable, "-c", script, str(left)],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    listed, said = done.stdout.splitlines()
    assert listed == "['mine']"
    assert "dir: another file system is mounted there" in said
    assert "file" in said and "lies on another file system" in said


def test_limits_leave_out_what_is_beyond_and_say_so(left):
    """Abuse case 13. A file of petabytes that takes no space is over the limit by its size."""
    for number in range(5):
        (left / f"small-{number}").write_bytes(b"x" * 1000)
    with (left / "huge").open("wb") as file:
        with contextlib.suppress(OSError):
            file.truncate(1 << 50)  # what the largest file may be is up to the file system
        if not os.fstat(file.fileno()).st_size:
            file.truncate(1 << 43)
    found, said = collect(left)
    assert sorted(found) == [f"small-{number}" for number in range(5)]
    assert "1 files beyond the limit" in said and "1.1 TB" in said
    found, said = collect(left, Limits(files=3, bytes=1 << 30))
    assert len(found) == 3
    assert "beyond the limit of 3 files" in said
    found, said = collect(left, Limits(files=100, bytes=3 * 4096))
    assert len(found) <= 3 and "beyond the limit" in said


def test_directories_too_deep_and_paths_too_long_are_named(left):
    place = left
    for _ in range(17):
        place = place / ("d" * 250)
    fd = os.open(left, os.O_RDONLY)
    for _ in range(17):
        os.mkdir("d" * 250, dir_fd=fd)
        inner = os.open("d" * 250, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    os.close(fd)
    deep = left / "deep"
    for _ in range(120):
        deep = deep / "d"
    deep.mkdir(parents=True)
    found, said = collect(left)
    assert not found
    assert "more than 4096 bytes" in said and "more than 100 directories deep" in said


def test_many_files_come_in_batches_in_the_order_of_their_paths(left):
    names = [f"{number % 37:02}/{number}" for number in range(5000)]
    for name in names:
        (left / name).parent.mkdir(exist_ok=True)
        (left / name).write_bytes(name.encode())
    (left / "03-x").write_bytes(b"")  # sorts before 03/…, though 03 comes before 03-x
    work = Collection(left, LIMITS)
    pieces = [piece for piece in work.pieces() if piece]
    assert max(len(piece) for piece in pieces) <= 2000
    paths = [artifact.path for piece in pieces for artifact in piece]
    assert paths == sorted([*names, "03-x"])
    assert work.warnings() == []
    assert (work.files, work.bytes) == (5001, sum(map(len, names)))


def test_what_is_collected_can_no_longer_be_written_to(left):
    """P5: by somebody's hand or a process that escaped. Root may all the same."""
    (left / "sub").mkdir()
    (left / "sub" / "run.sh").write_bytes(b"#!/bin/sh\n")
    (left / "sub" / "run.sh").chmod(0o4775)
    collect(left)
    assert (left / "sub" / "run.sh").stat().st_mode & 0o7777 == 0o500
    assert (left / "sub").stat().st_mode & 0o7777 == left.stat().st_mode & 0o7777 == 0o500
    again, said = collect(left)
    assert list(again) == ["sub/run.sh"] and not said


def test_a_file_that_grows_while_it_is_read_has_the_digest_of_what_was_read_or_is_left_out(left):
    """P9. Fault: somebody still appends."""
    grows = left / "grows"
    grows.write_bytes(os.urandom(8 << 20))
    stop = threading.Event()

    def grow() -> None:
        with grows.open("ab", buffering=0) as file:
            while not stop.is_set():
                file.write(b"more")

    thread = threading.Thread(target=grow)
    thread.start()
    try:
        found, said = collect(left)
    finally:
        stop.set()
        thread.join()
    if found:
        with grows.open("rb") as file:
            assert digest(file.read(found["grows"].size)) == found["grows"].digest
    else:
        assert "still changes while it is read" in said


def test_a_want_of_descriptors_leaves_nothing_out(left):
    """Fault: EMFILE, at every step. It is an error that is asked again, never a file that is not there."""
    for name in ("a", "b/c", "b/d/e", "f"):
        (left / name).parent.mkdir(parents=True, exist_ok=True)
        (left / name).write_bytes(name.encode())
    os.link(left / "a", left / "z")
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = max(map(int, os.listdir("/proc/self/fd")))
    held = [os.open(os.devnull, os.O_RDONLY)]
    while held[-1] <= most:  # no gaps below the limit
        held.append(os.open(os.devnull, os.O_RDONLY))
    outcomes = []
    for spare in range(14):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (held[-1] + 1 + spare, before[1]))
            found, said = collect(left)
        except OSError as error:
            assert error.errno == errno.EMFILE
            outcomes.append("refused")
        else:
            assert len(found) == 5 and not said
            outcomes.append("whole")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert outcomes[0] == "refused" and outcomes[-1] == "whole"
    for fd in held:
        os.close(fd)
    assert max(map(int, os.listdir("/proc/self/fd"))) <= most + 1, "descriptors leak"


@pytest.mark.parametrize(
    ("inject", "words"),
    [
        ("read:error=EIO", "could not read or write them: bad (input/output error)"),
        ("fsync:error=ENOSPC", "could not read or write them: bad (no space left on device)"),
    ],
)
def test_a_failing_disk_is_said(left, tmp_path, inject, words):
    """Fault: EIO and ENOSPC of one file. P9: it is not listed, the others are, and the reason is said."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    (left / "bad").write_bytes(b"bad")
    (left / "good").write_bytes(b"good")
    script = (
        "import sys, pathlib\n"
        "from gradient_jupyter.control.data.collection import Collection, Limits\n"
        "work = Collection(pathlib.Path(sys.argv[1]), Limits(10, 1 << 30))\n"
        "print([artifact.path for piece in work.pieces() for artifact in piece])\n"
        "print(*work.warnings())\n"
    )
    call = inject.partition(":")[0]
    done = subprocess.run(
        ["strace", "-f", "-qq", "-o", "/dev/null", "-P", str(left / "bad"), "-e", f"trace={call}",
         "-e", f"inject={inject}", sys.executable, "-c", script, str(left)],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    listed, said = done.stdout.splitlines()
    assert listed == "['good']"
    assert words in said


def test_collecting_can_be_given_up_and_says_so(left):
    with (left / "endless").open("wb") as file:
        file.truncate(1 << 39)
    (left / "a").write_bytes(b"a")
    work = Collection(left, LIMITS)
    found = []
    for piece in work.pieces():
        found += piece
        work.stopped = True
    assert [artifact.path for artifact in found] == ["a"]
    assert "stopped by a person after 1 files" in work.warnings()[0]


@pytest.mark.parametrize("place", ["absent", "file", "link"])
def test_a_directory_that_is_none_leads_nowhere(tmp_path, place):
    where = tmp_path / "artifacts"
    if place == "file":
        where.write_bytes(b"")
    elif place == "link":
        where.symlink_to("/etc")
    found, said = collect(where)
    assert not found
    assert ("everything" in said) is (place != "absent")
