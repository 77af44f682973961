"""Disks that can be filled, pulled and set read-only: tmpfs and ext4 on a loop file, for root on Linux.

Every mount is made in a mount namespace of this test process's own, so that nothing is left on the host,
however a test ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import functools
import os
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

_PATIENCE_S = 10.0
_CLONE_NEWNS = 0x00020000
_MS_REC, _MS_PRIVATE = 16384, 1 << 18
_EXT4_IOC_SHUTDOWN = 0x8004587D
_NO_LOG_FLUSH = 2
PAGE = os.sysconf("SC_PAGESIZE")


@functools.cache
def private_mounts() -> None:
    """From here on what this process mounts is seen by it and its children only, and goes with them."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS) or libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), "mount namespace")


def need_mounts() -> None:
    """Skips where nothing can be mounted: off Linux, and for all but root."""
    if not sys.platform.startswith("linux") or os.getuid() != 0:
        pytest.skip("only root on Linux can mount disks")
    private_mounts()


def need_program(name: str) -> None:
    """Skips a test whose real part is missing; in CI that is a failure."""
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed")


class Disk:
    """A mounted file system. ``fill`` leaves so much of it, ``free`` gives it back."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._filler = path / ".filler"

    @property
    def left(self) -> int:
        status = os.statvfs(self.path)
        return status.f_bavail * status.f_frsize

    def fill(self, leave: int = 0) -> None:
        take = self.left - leave
        if take > 0:
            fd = os.open(self._filler, os.O_WRONLY | os.O_CREAT, 0o600)
            try:
                os.posix_fallocate(fd, os.fstat(fd).st_size, take)
            finally:
                os.close(fd)

    def fill_inodes(self, leave: int = 0) -> None:
        directory = self._filler.with_name(".fillers")
        directory.mkdir(exist_ok=True)
        for number in range(os.statvfs(self.path).f_favail - leave):
            (directory / str(number)).touch()

    def free(self) -> None:
        self._filler.unlink(missing_ok=True)
        shutil.rmtree(self._filler.with_name(".fillers"), ignore_errors=True)

    def read_only(self, on: bool = True) -> None:
        _run("mount", "-o", "remount,ro" if on else "remount,rw", str(self.path))

    def unmount(self) -> None:
        _run("umount", "-l", str(self.path))


@contextlib.contextmanager
def tmpfs(path: Path, size: int, inodes: int = 0) -> Iterator[Disk]:
    """A small disk in memory. ``inodes`` 0: as many as it likes."""
    path.mkdir(parents=True, exist_ok=True)
    _run("mount", "-t", "tmpfs", "-o", f"size={size},nr_inodes={inodes},mode=0700", "none", str(path))
    disk = Disk(path)
    try:
        yield disk
    finally:
        disk.unmount()


class LoopDisk(Disk):
    """A file system of its own on a file, which can lose its power."""

    def __init__(self, image: Path, path: Path) -> None:
        super().__init__(path)
        self.image = image

    def mount(self) -> None:
        _run("mount", "-o", "loop", str(self.image), str(self.path))

    def unmount(self) -> None:
        # Whoever still has a file open there keeps it mounted: better to hear of it than to mount it twice. A
        # process that was killed may take a moment to close its files, when nothing is seen of it any more.
        until = time.monotonic() + _PATIENCE_S
        while True:
            try:
                return _run("umount", str(self.path))
            except OSError as error:
                if "busy" not in str(error) or time.monotonic() >= until:
                    raise
            time.sleep(0.05)

    def cut_power(self) -> None:
        """From now on nothing reaches the disk, not even what the system has only kept in memory so far."""
        fd = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, _EXT4_IOC_SHUTDOWN, struct.pack("I", _NO_LOG_FLUSH))
        finally:
            os.close(fd)


@contextlib.contextmanager
def loop_disk(image: Path, path: Path, kind: str = "ext4", size: int = 64 << 20) -> Iterator[LoopDisk]:
    path.mkdir(parents=True, exist_ok=True)
    with image.open("wb") as file:
        file.truncate(size)
    options = ("-q", "-E", "lazy_itable_init=1,lazy_journal_init=1") if kind == "ext4" else ("-q",)
    _run(f"mkfs.{kind}", *options, str(image))
    disk = LoopDisk(image, path)
    disk.mount()
    try:
        yield disk
    finally:
        _run("umount", "-l", str(path))


@contextlib.contextmanager
def bound(source: Path, path: Path) -> Iterator[None]:
    """``source`` also at ``path``."""
    source.mkdir(parents=True, exist_ok=True)
    path.mkdir(parents=True, exist_ok=True)
    _run("mount", "--bind", str(source), str(path))
    try:
        yield
    finally:
        _run("umount", "-l", str(path))


@contextlib.contextmanager
def bound_file(source: Path, path: Path) -> Iterator[None]:
    """The file ``source`` also at ``path``, which is there."""
    _run("mount", "--bind", str(source), str(path))
    try:
        yield
    finally:
        _run("umount", "-l", str(path))


def _run(*argv: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"{' '.join(argv)}: {done.stderr.strip()}")
