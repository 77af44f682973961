"""Every state in which a power loss may leave some files: recorded system calls, and what may be lost.

After ALICE (Pillai et al., OSDI 2014). A small program runs under strace once. Of its calls, those that a
finished ``fsync`` covers are on the disk; of the others any may be, in any order, and the last write may be
there in part or as zeros. A name is on the disk once its directory was synced or, unless ``strict``, the file
itself: POSIX does not promise the latter, but ext4, XFS and btrfs do it.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

_CALLS = (
    "open,openat,creat,write,pwrite64,close,fsync,fdatasync,sync,syncfs,rename,renameat,renameat2,link,linkat,"
    "unlink,unlinkat,rmdir,mkdir,mkdirat,ftruncate,truncate"
)
_LINE = re.compile(r"^(?:\d+ +)?(\w+)\((.*)\) += (-?\d+)(?:<((?:\\x[0-9a-f]{2})*)>)?", re.DOTALL)
_STRING = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
_FD = re.compile(r"^(-?\d+)<((?:\\x[0-9a-f]{2})*)(?:<[^>]*>)?>")
#: Above so many unsynced operations not every subset is tried, but all that lack, or consist of, at most two.
_ALL_UP_TO = 7


@dataclasses.dataclass(frozen=True)
class Op:
    """``kind``: write, truncate (of ``inode``); enter, leave, move (names); sync; ack."""

    kind: str
    inode: int = 0
    path: str = ""
    target: str = ""
    offset: int = 0
    data: bytes = b""


@dataclasses.dataclass(frozen=True)
class State:
    """What one power loss leaves: files by path (None: a directory), and what had been acknowledged."""

    files: dict[str, bytes | None]
    acks: tuple[str, ...]
    told: str
    """For a person who looks at a failure."""

    def put(self, root: Path) -> None:
        """Makes ``root`` this state."""
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir(parents=True)
        for path, data in sorted(self.files.items()):
            place = root / path
            if data is None:
                place.mkdir(parents=True, exist_ok=True)
            else:
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(data)
                place.chmod(0o600)


def record(program: str, root: Path) -> list[Op]:
    """What ``program`` does below ``root``. It is Python, and has ``ROOT`` and ``ack(text)``."""
    root.mkdir(parents=True, exist_ok=True)
    acks = root.with_name(root.name + ".acks")
    trace = root.with_name(root.name + ".strace")
    prelude = (
        "import os, sys\nfrom pathlib import Path\nROOT = Path(sys.argv[1])\n"
        "_acks = os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT)\n"
        "def ack(text): os.write(_acks, text.encode())\n"
    )
    subprocess.run(
        ["strace", "-f", "-qq", "-y", "-xx", "-s", "4000000", "-e", f"trace={_CALLS}", "-o", trace,
         sys.executable, "-B", "-c", prelude + program, root, acks],
        check=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    return _parsed(trace.read_text(), str(root), str(acks))


def _text(escaped: str) -> bytes:
    return bytes.fromhex(escaped.replace("\\x", ""))


def _parsed(trace: str, root: str, acks: str) -> list[Op]:
    ops: list[Op] = []
    names: dict[str, int] = {"": 0}
    sizes: dict[int, int] = {}
    opened: dict[int, tuple[int, int, bool]] = {}  # descriptor → inode, position, appends
    count = itertools.count(1)

    def below(path: str) -> str | None:
        if path == root:
            return ""
        return path[len(root) + 1 :] if path.startswith(root + "/") else None

    for line in trace.splitlines():
        match = _LINE.match(line)
        assert match or "+++" in line or "---" in line or "exited" in line, f"not understood: {line[:200]}"
        if not match or int(match[3]) < 0:
            continue
        call, arguments, result = match[1], match[2], int(match[3])
        # Names relative to an open directory stand behind its descriptor.
        paths = []
        for before, quoted in zip(_STRING.split(arguments)[0::2], _STRING.findall(arguments), strict=False):
            path = os.fsdecode(_text(quoted))
            base = re.search(r"(?:AT_FDCWD|\d+)<((?:\\x[0-9a-f]{2})*)>, $", before)
            if not path.startswith("/") and base:
                path = os.path.join(os.fsdecode(_text(base[1])), path)
            paths.append(os.path.normpath(path))
        fd = _FD.match(arguments)
        if call in ("open", "openat", "creat"):
            name = below(paths[0])
            if name is None:
                continue
            if name not in names:
                if "O_DIRECTORY" in arguments or os.path.isdir(paths[0]):
                    continue
                names[name] = next(count)
                sizes[names[name]] = 0
                ops.append(Op("enter", names[name], name))
            inode = names[name]
            if "O_TRUNC" in arguments and sizes.get(inode):
                ops.append(Op("truncate", inode, offset=0))
                sizes[inode] = 0
            opened[result] = (inode, 0, "O_APPEND" in arguments)
        elif call == "close" and fd:
            opened.pop(int(fd[1]), None)
        elif call in ("write", "pwrite64") and fd:
            number, path = int(fd[1]), os.fsdecode(_text(fd[2]))
            (quoted,) = _STRING.findall(arguments)[:1]
            data = _text(quoted)[:result]
            if path == acks:
                ops.append(Op("ack", data=data))
            elif below(path) is not None and number in opened:
                inode, position, appends = opened[number]
                at = sizes[inode] if appends else position
                if call == "pwrite64":
                    at = int(arguments.rsplit(", ", 1)[1])
                else:
                    opened[number] = (inode, at + len(data), appends)
                sizes[inode] = max(sizes[inode], at + len(data))
                ops.append(Op("write", inode, offset=at, data=data))
        elif call == "ftruncate" and fd and int(fd[1]) in opened:
            inode, size = opened[int(fd[1])][0], int(arguments.rsplit(", ", 1)[1])
            if sizes[inode] != size:
                ops.append(Op("truncate", inode, offset=size))
                sizes[inode] = size
        elif call in ("fsync", "fdatasync") and fd:
            name = below(os.fsdecode(_text(fd[2])))
            if name is not None:
                is_file = int(fd[1]) in opened and opened[int(fd[1])][0] in sizes
                ops.append(Op("sync", opened[int(fd[1])][0]) if is_file else Op("sync", -1, name))
        elif call in ("sync", "syncfs"):
            ops.append(Op("sync", -2))
        elif call.startswith("rename"):
            source, target = below(paths[0]), below(paths[1])
            if source is not None and target is not None:
                ops.append(Op("move", names.get(source, 0), source, target))
                for name in [name for name in names if name == source or name.startswith(source + "/")]:
                    names[target + name[len(source) :]] = names.pop(name)
        elif call in ("unlink", "unlinkat", "rmdir"):
            name = below(paths[0])
            if name is not None:
                ops.append(Op("leave", path=name))
                names.pop(name, None)
        elif call in ("mkdir", "mkdirat"):
            name = below(paths[0])
            if name:
                names[name] = next(count)
                ops.append(Op("enter", -names[name], name))
        else:
            assert below(paths[0] if paths else "") is None, f"not understood: {line[:200]}"
    return ops


def states(ops: list[Op], *, strict: bool = True) -> Iterator[State]:
    """Every state that a power loss may leave, each once."""
    seen: set[tuple[tuple[str, bytes | None], ...]] = set()
    acks: tuple[str, ...] = ()
    for end in range(len(ops) + 1):
        if end and ops[end - 1].kind == "ack":
            acks = (*acks, ops[end - 1].data.decode())
            seen = set()  # what had to be there before may not be enough now
        prefix = ops[:end]
        loose = [
            at
            for at, op in enumerate(prefix)
            if op.kind not in ("sync", "ack") and not _synced(prefix, at, strict)
        ]
        for kept in _subsets(loose):
            lost = frozenset(loose) - set(kept)
            for torn in _torn(prefix, kept):
                files = _apply(prefix, lost, torn)
                key = tuple(sorted(files.items(), key=lambda item: item[0]))
                if key in seen:
                    continue
                seen.add(key)
                yield State(
                    files, acks, f"after {end} of {len(ops)} operations, without {sorted(lost)}, {torn}"
                )


def _synced(prefix: list[Op], at: int, strict: bool) -> bool:
    op = prefix[at]
    for later in prefix[at + 1 :]:
        if later.kind != "sync":
            continue
        if not strict and op.kind in ("enter", "move") and later.inode == op.inode:
            return True
        if later.inode == -2 or (op.kind in ("write", "truncate") and later.inode == op.inode):
            return True
        if later.inode == -1 and op.kind in ("enter", "leave", "move"):
            parents = {os.path.dirname(op.path)} | (
                {os.path.dirname(op.target)} if op.kind == "move" else set()
            )
            if later.path in parents:
                return True
    return False


def _subsets(loose: list[int]) -> Iterator[tuple[int, ...]]:
    sizes = range(len(loose) + 1)
    if len(loose) > _ALL_UP_TO:
        sizes = [size for size in sizes if size <= 2 or size >= len(loose) - 2]  # type: ignore[assignment]
    for size in sizes:
        yield from itertools.combinations(loose, size)


def _torn(prefix: list[Op], kept: tuple[int, ...]) -> Iterator[tuple[int, str] | None]:
    """The last write that is kept: whole, cut in half, or as zeros."""
    yield None
    writes = [at for at in kept if prefix[at].kind == "write" and prefix[at].data]
    if writes:
        yield writes[-1], "half"
        yield writes[-1], "zeros"


def _apply(prefix: list[Op], lost: frozenset[int], torn: tuple[int, str] | None) -> dict[str, bytes | None]:
    content: dict[int, bytearray] = {}
    entries: dict[str, int] = {}
    for at, op in enumerate(prefix):
        if at in lost:
            continue
        match op.kind:
            case "enter":
                entries[op.path] = op.inode
            case "leave":
                entries.pop(op.path, None)
            case "move":
                for name in [name for name in entries if name.startswith(op.path + "/")]:
                    entries[op.target + name[len(op.path) :]] = entries.pop(name)
                inode = entries.pop(op.path, None)
                # Its first name may not have reached the disk: what was moved has only the new one then.
                entries[op.target] = op.inode if inode is None else inode
            case "write":
                data = op.data
                if torn and torn[0] == at:
                    data = bytes(len(data)) if torn[1] == "zeros" else data[: len(data) // 2]
                into = content.setdefault(op.inode, bytearray())
                if len(into) < op.offset:
                    into.extend(bytes(op.offset - len(into)))
                into[op.offset : op.offset + len(data)] = data
            case "truncate":
                into = content.setdefault(op.inode, bytearray())
                del into[op.offset :]
                into.extend(bytes(op.offset - len(into)))
    directories = {name for name, inode in entries.items() if inode < 0}
    reachable = {
        name: inode
        for name, inode in entries.items()
        if all(parent in directories for parent in _parents(name))
    }
    return {name: None if inode < 0 else bytes(content.get(inode, b"")) for name, inode in reachable.items()}


def _parents(name: str) -> Iterator[str]:
    while name := os.path.dirname(name):
        yield name
