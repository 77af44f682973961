"""How a local task's world is made: which paths it sees, and which variables.

With bubblewrap a task has the paths every engine has: ``/home/paperspace`` (its working directory, also
``/paperspace``), ``/artifacts``, ``/storage``, ``/datasets``; the rest of the host is there and read-only.
Without it the task runs on the host's own paths, and the variables (``GRADIENT_ARTIFACTS_DIR`` …), which are
set in both, are how a program finds its places. Either way it tidies paths and is no security boundary: a
local task has its owner's rights on this machine.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import pwd
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Literal

import msgspec

from gradient_jupyter.engines.base import Resources, Task
from gradient_jupyter.engines.local import command, private
from gradient_jupyter.resources.job import HostEnvironment

Isolation = Literal["auto", "bubblewrap", "none"]

WORKSPACE = "/home/paperspace"
HOME = "/home/gradient"
MARKER = "GRADIENT_TASK_MARK"
"""In every process of a task: how leftovers are found when their supervisor is gone. Its value is random and
the task's own: another installation on this host may use the same keys, and its processes are not ours."""

_OURS = "/gradient"
"""Where a task finds what the platform brings along, by variables only."""

_PROBE_S = 20
#: Top-level entries that the world makes itself.
_OWN = frozenset(
    {"proc", "dev", "tmp", "home", "storage", "artifacts", "datasets", "data", "paperspace", "gradient"}
)
#: Where the world hides what the host has there.
_HIDDEN = (
    "/tmp", "/dev/shm", WORKSPACE, HOME, "/storage", "/artifacts", "/datasets", "/paperspace", _OURS,  # noqa: S108
)  # fmt: skip
#: Of a host's own ``/data``.
_MOST_BESIDE = 200
_SAFE_PATH = command.DEFAULT_PATH.split(":")


class Places(msgspec.Struct, frozen=True):
    """A task's directories on the host."""

    workspace: str
    artifacts: str
    home: str
    tmp: str
    sdk: str
    """Holds ``gradient_job.py``."""
    spool: str
    """Metric points on their way to the server."""
    storage: str
    datasets: str
    """Where the datasets are, each under its name."""

    @classmethod
    def of(cls, task: Task) -> Places:
        at = task.directory
        return cls(
            workspace=str(at / "workspace"),
            artifacts=str(at / "artifacts"),
            home=str(at / "home"),
            tmp=str(at / "tmp"),
            sdk=str(at / "sdk"),
            spool=str(at / "spool"),
            storage=str(task.storage),
            datasets=str(at / "datasets"),
        )


class World(msgspec.Struct, frozen=True):
    """What a supervisor is told of it; the fields are those of ``supervisor.World``."""

    prefix: list[str]
    mounts: list[tuple[str, str]]
    inside: str
    cwd: str
    env: dict[str, str]
    notices: list[str]
    command: list[str]
    max_duration_s: float | None = None
    open_files: int = 0
    secrets: tuple[str, ...] = ()
    """Values that are masked in what the supervisor writes."""

    def __repr__(self) -> str:
        return f"World({self.command!r} in {self.cwd!r})"  # the environment may hold secrets


class Worlds:
    """Makes worlds one way, found out once. ``bubblewrap`` is its path, or None; ``why`` says why not."""

    def __init__(self, bubblewrap: str | None, why: str) -> None:
        self.bubblewrap = bubblewrap
        self.why = why

    @classmethod
    def probe(cls, isolation: Isolation, directory: Path) -> Worlds:
        """Runs a command in a world of exactly the kind that tasks get, in a scratch place in ``directory``.

        Nothing less tells: the program may be there while the kernel, a security module or the container
        around us refuses one of the many things it does.
        """
        if isolation == "none":
            return cls(None, "its configuration says so")
        program = shutil.which("bwrap")
        if program is None:
            return cls(None, "bubblewrap (bwrap) is not installed")
        with tempfile.TemporaryDirectory(prefix=".probe-", dir=directory) as scratch:
            places = Places(**{name: f"{scratch}/{name}" for name in Places.__struct_fields__})
            for place in msgspec.structs.astuple(places):
                Path(place).mkdir()
            prefix, _ = _bubblewrap(program, places, None, {"d": Path(places.datasets)}, {}, gpus=True)
            why = _try_out(prefix, scratch)
        return cls(None if why else program, why)

    def sentence(self) -> str:
        if self.bubblewrap:
            return (
                "Each task sees its own paths through bubblewrap, the host read-only beside them; "
                "this tidies paths and is no security boundary."
            )
        return f"Tasks run on the host's own paths, because {self.why}; there is no isolation."

    def make(self, task: Task, host_cpus: float, mark: str) -> World:
        places = Places.of(task)
        env = _environment(task, host_cpus)
        words = _in_host_python(task)
        if self.bubblewrap:
            prefix, mounts = _bubblewrap(
                self.bubblewrap, places, task.host, task.datasets, task.public, gpus=bool(task.resources.gpus)
            )
            inside = Places(
                workspace=WORKSPACE, artifacts="/artifacts", home=HOME, tmp="/tmp",  # noqa: S108
                sdk=f"{_OURS}/sdk", spool=f"{_OURS}/spool", storage="/storage", datasets="/datasets",
            )  # fmt: skip
            env = _at(inside, env, task, mark)
            return World(
                prefix, mounts, WORKSPACE, places.workspace, env, [], words, task.max_duration_s,
                secrets=_revealed(task),
            )  # fmt: skip
        notice = (
            f"This task runs on the host's own paths, because {self.why}. Use $GRADIENT_WORKSPACE_DIR, "
            "$GRADIENT_ARTIFACTS_DIR, $GRADIENT_STORAGE_DIR and $GRADIENT_DATASETS_DIR; /artifacts, "
            "/storage, /datasets and /data are not there."
        )
        env = {"TMPDIR": places.tmp, "PWD": places.workspace, **_at(places, env, task, mark)}
        return World(
            [], [("/", "/")], places.workspace, places.workspace, env, [notice], words, task.max_duration_s,
            secrets=_revealed(task),
        )  # fmt: skip


def _try_out(prefix: list[str], scratch: str) -> str:
    """Why no world can be made; empty when it can."""
    status = os.path.join(scratch, "status")
    test = (
        'test "$PWD" = "$1" && : > /artifacts/a && : > /storage/s && : > /tmp/t && ! (: > /datasets/d/d) && '
    )
    test += "! (: > /datasets/e) && ! (: > /data/e) && test -d /data/d/."
    with open(status, "wb") as file:  # noqa: PTH123  # only its descriptor matters
        number = str(file.fileno())
        argv = [number if word == str(private.STATUS_FD) else word for word in prefix]
        try:
            done = subprocess.run(
                [*argv, "/bin/sh", "-c", f"{{ {test}; }} 2>/dev/null", "sh", WORKSPACE],
                env={"PATH": command.DEFAULT_PATH},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                pass_fds=(file.fileno(),),
                timeout=_PROBE_S,
                check=False,
            )
        except (OSError, subprocess.SubprocessError) as error:
            return f"bubblewrap does not run here ({error})"
    said = done.stderr.strip().rpartition("\n")[2]
    lines = Path(status).read_text(errors="replace").splitlines()
    reported = [json.loads(line).get("exit-code") for line in lines if '"exit-code"' in line]
    if reported == [0] and done.returncode == 0:
        return ""
    return f"bubblewrap cannot make a world here ({said or f'exit code {done.returncode}'})"


def _bubblewrap(
    program: str,
    places: Places,
    host: HostEnvironment | None,
    datasets: Mapping[str, Path],
    public: Mapping[str, Path],
    *,
    gpus: bool,
) -> tuple[list[str], list[tuple[str, str]]]:
    """The command line up to the task's own command, and the same as (inside, outside) pairs.

    The user namespace and the dropped capabilities are asked for always: as root, bubblewrap would otherwise
    leave a task all of root's power. The environment goes beside the command line, which others can read.
    """
    argv = [program, "--unshare-user", "--unshare-pid", "--unshare-ipc", "--cap-drop", "ALL"]
    argv += ["--die-with-parent", "--json-status-fd", str(private.STATUS_FD), "--tmpfs", "/"]
    mounts = [("/", "/")]
    for name, link in _entries("/", _OWN):
        path = "/" + name
        argv += ["--symlink", link, path] if link else ["--ro-bind-try", path, path]
    argv += ["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/dev/shm"]  # noqa: S108
    mounts += [("/proc", "/proc"), ("/dev", "/dev"), ("/dev/shm", "")]  # noqa: S108
    if gpus:
        for pattern in ("/dev/nvidia*", "/dev/dri", "/dev/kfd"):
            for device in sorted(glob.glob(pattern)):  # noqa: PTH207  # strings, for a command line
                argv += ["--dev-bind-try", device, device]
    argv += ["--dir", "/home"]
    mounts.append(("/home", ""))
    for name, link in _entries("/home", {Path(WORKSPACE).name, Path(HOME).name}):
        path = "/home/" + name
        argv += ["--symlink", link, path] if link else ["--ro-bind-try", path, path]
        mounts.append((path, path))
    argv += ["--dir", _OURS]
    mounts.append((_OURS, ""))
    own = [
        ("--bind", places.tmp, "/tmp"),  # noqa: S108
        ("--ro-bind", places.sdk, f"{_OURS}/sdk"),
        ("--bind", places.spool, f"{_OURS}/spool"),
        ("--bind", places.workspace, WORKSPACE),
        ("--bind", places.home, HOME),
        ("--bind", places.artifacts, "/artifacts"),
        ("--bind", places.storage, "/storage"),
    ]
    for option, outside, inside in own:
        argv += [option, outside, inside]
        mounts.append((inside, outside))
    argv += ["--symlink", WORKSPACE, "/paperspace"]
    mounts.append(("/paperspace", places.workspace))
    _mount_datasets(argv, mounts, datasets, public)
    for path in _hidden_again(host):
        argv += ["--ro-bind-try", path, path]
        mounts.append((path, path))
    argv += ["--remount-ro", "/datasets", "--remount-ro", "/data"]
    argv += ["--chdir", WORKSPACE, "--"]
    return argv, mounts


def _mount_datasets(
    argv: list[str],
    mounts: list[tuple[str, str]],
    datasets: Mapping[str, Path],
    public: Mapping[str, Path],
) -> None:
    """Each at ``/datasets/NAME`` and ``/data/NAME``. The directories themselves take no writes either.

    Many hosts have a ``/data`` of their own. Where there are no datasets it is there as it is; else what it
    holds is shown beside them, if that is not too much for a command line.
    """
    given = {**public, **datasets}
    argv += ["--tmpfs", "/datasets"]
    mounts.append(("/datasets", ""))
    if not given and Path("/data").is_dir():
        argv += ["--ro-bind", "/data", "/data"]
        mounts.append(("/data", "/data"))
        return
    argv += ["--tmpfs", "/data"]
    mounts.append(("/data", ""))
    beside = list(islice(_entries("/data", set(given)), _MOST_BESIDE + 1))
    for name, link in beside if len(beside) <= _MOST_BESIDE else ():
        path = "/data/" + name
        argv += ["--symlink", link, path] if link else ["--ro-bind-try", path, path]
        mounts.append((path, path))
    for name, outside in given.items():
        # What was asked for must be there; what the administrator provides may be just gone.
        bind = "--ro-bind" if name in datasets else "--ro-bind-try"
        argv += [bind, str(outside), f"/datasets/{name}", "--symlink", f"/datasets/{name}", f"/data/{name}"]
        mounts += [(f"/datasets/{name}", str(outside)), (f"/data/{name}", str(outside))]


def _entries(directory: str, without: frozenset[str] | set[str]) -> Iterator[tuple[str, str]]:
    """Names in a directory, with a symbolic link's target; what cannot even be looked at is left out."""
    try:
        names = sorted(os.listdir(directory))  # noqa: PTH208
    except OSError:
        return
    for name in names:
        path = f"{directory.rstrip('/')}/{name}"
        try:
            mode = os.lstat(path).st_mode
            if name in without:
                continue
            if stat.S_ISLNK(mode):
                yield name, str(Path(path).readlink())
            elif stat.S_ISDIR(mode) or stat.S_ISREG(mode):
                yield name, ""
        except OSError:
            continue  # e.g. another user's FUSE mount, which bubblewrap could not bind either


def _hidden_again(host: HostEnvironment | None) -> list[str]:
    """The submitter's interpreter and commands, where the world would hide them: they are shown read-only."""
    if host is None:
        return []
    python = Path(host.python)
    roots = [python.parent.parent, _resolved(python).parent.parent, *map(Path, host.path)]
    base = _venv_base(python)
    if base is not None:
        roots += [base.parent, _resolved(base).parent]
    user_base = _user_base(python)
    if user_base is not None:
        roots.append(user_base)
    found: list[str] = []
    for root in sorted({os.path.normpath(root) for root in roots}):
        hidden = any(root.startswith(place + "/") for place in _HIDDEN)
        shown = any(root.startswith(other + "/") for other in found)
        if hidden and not shown and Path(root).is_dir():
            found.append(root)
    return found


def _resolved(path: Path) -> Path:
    with contextlib.suppress(OSError, RuntimeError):
        return path.resolve()
    return path


def _venv_base(python: Path) -> Path | None:
    """The base interpreter's directory, if ``python`` is in a virtual environment."""
    try:
        lines = (python.parent.parent / "pyvenv.cfg").read_text(errors="replace").splitlines()
    except OSError:
        return None
    for line in lines:
        key, _, value = line.partition("=")
        if key.strip() == "home":
            return Path(value.strip())
    return None


def _user_base(python: Path) -> Path | None:
    """Where ``pip install --user`` put the submitter's packages: a new HOME must not lose them."""
    base = Path.home() / ".local"
    if sys.platform == "darwin" or _venv_base(python) is not None:
        return None
    return base if any(base.glob("lib/python3*/site-packages")) else None


def _in_host_python(task: Task) -> list[str]:
    """``python`` means the submitter's, also where it is installed under another name only."""
    words = list(task.command)
    if task.host and words[0] in ("python", "python3"):
        python = Path(task.host.python)
        if not os.path.lexists(python.parent / words[0]):
            words[0] = str(python)
    return words


def _environment(task: Task, host_cpus: float) -> dict[str, str]:
    """What every task starts with. Built up from nothing: the server's own environment may hold secrets."""
    user = _user()
    env = {
        "PATH": os.pathsep.join(_search_path(task.host)),
        "LANG": "C.UTF-8",
        "TERM": "dumb",
        "USER": user,
        "LOGNAME": user,
        "PYTHONUNBUFFERED": "1",
        **_sizes(task.resources, host_cpus),
    }
    if task.host:
        prefix = Path(task.host.python).parent.parent
        if (prefix / "pyvenv.cfg").is_file():
            env["VIRTUAL_ENV"] = str(prefix)
        elif (prefix / "conda-meta").is_dir():
            env["CONDA_PREFIX"] = str(prefix)
        user_base = _user_base(Path(task.host.python))
        if user_base is not None:
            env["PYTHONUSERBASE"] = str(user_base)
    return env


def _at(places: Places, env: dict[str, str], task: Task, mark: str) -> dict[str, str]:
    """``env``, overruled by what the task wants, overruled by what it cannot choose."""
    gpus = ",".join(task.resources.gpus)
    fixed = {
        "GRADIENT_WORKSPACE_DIR": places.workspace,
        "GRADIENT_ARTIFACTS_DIR": places.artifacts,
        "GRADIENT_STORAGE_DIR": places.storage,
        "GRADIENT_DATASETS_DIR": places.datasets,
        "PS_JOBSPACE": places.storage,
        "PS_MODEL_PATH": places.artifacts,
        "GRADIENT_SDK_DIR": places.sdk,
        "GRADIENT_SPOOL_DIR": places.spool,
        "GRADIENT_TASK_KEY": task.key,
        MARKER: mark,
        "CUDA_VISIBLE_DEVICES": gpus,
    }
    if gpus:
        fixed["NVIDIA_VISIBLE_DEVICES"] = gpus
    secret = {name: value.reveal() for name, value in task.secret.items()}
    given = {"HOME": places.home, **env, **task.env, **task.private, **secret}
    # Last, so that it hides nothing of the task's. An empty part would be the working directory.
    before = given.get("PYTHONPATH", "")
    return {**given, "PYTHONPATH": f"{before}{os.pathsep}{places.sdk}" if before else places.sdk, **fixed}


def _revealed(task: Task) -> tuple[str, ...]:
    return tuple(dict.fromkeys(value.reveal() for value in task.secret.values()))


def _sizes(resources: Resources, host_cpus: float) -> dict[str, str]:
    """How much it was given. Numeric libraries start a thread per core of the host unless told otherwise."""
    env = {"GRADIENT_CPUS": f"{resources.cpus:g}", "GRADIENT_MEMORY_BYTES": str(resources.memory_bytes)}
    if resources.cpus < host_cpus:
        threads = str(max(1, int(resources.cpus)))
        env |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), threads)
    return env


def _search_path(host: HostEnvironment | None) -> list[str]:
    if host is None:
        return _SAFE_PATH
    path = [str(Path(host.python).parent), *(host.path or _SAFE_PATH)]
    return list(dict.fromkeys(path))


def _user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container may run under an id that nobody registered; programs still ask
        return "gradient"
