"""Solo's server: reads its configuration, opens the data root, serves, and ends when nobody needs it.

Prints one line of JSON on its standard output when it is ready and closes it; everything else it has to
say goes to its standard error, which whoever starts it appends to ``server.log``.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import os
import secrets
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any, Literal, cast, get_args

import msgspec
import traitlets
from sqlalchemy import Connection
from tornado.netutil import bind_sockets
from traitlets.config import Application

from gradient_jupyter import __version__
from gradient_jupyter.api import routes
from gradient_jupyter.api.app import Api
from gradient_jupyter.api.door import Door
from gradient_jupyter.api.health import Readiness
from gradient_jupyter.api.meter import Meter
from gradient_jupyter.api.streams import Heart
from gradient_jupyter.api.watch import Watch
from gradient_jupyter.control.fetching.outbound import parse_rule
from gradient_jupyter.control.layout import Layout
from gradient_jupyter.control.people.access import Principal
from gradient_jupyter.control.plane import Plane, Settings
from gradient_jupyter.control.scheduling.machines import Size
from gradient_jupyter.control.scheduling.queue import Limits
from gradient_jupyter.engines.base import Unreachable
from gradient_jupyter.engines.local import LocalEngine
from gradient_jupyter.resources.base import now_us
from gradient_jupyter.resources.decoding import convert
from gradient_jupyter.resources.errors import GradientError
from gradient_jupyter.resources.owner import User
from gradient_jupyter.resources.server import API, Runtime, config_root, data_root, runtime_file
from gradient_jupyter.resources.token import Scope
from gradient_jupyter.server import claimed, descriptors, loglines
from gradient_jupyter.server.dataroot import DataRootRefused, Opened, open_data_root
from gradient_jupyter.server.listening import Listener
from gradient_jupyter.server.patience import Patience
from gradient_jupyter.server.public import public_datasets
from gradient_jupyter.store import jobs as job_rows
from gradient_jupyter.store import schema, users
from gradient_jupyter.workspace.blobs import BlobStore

log = logging.getLogger("gradient_jupyter.server")

Isolation = Literal["auto", "bubblewrap", "none"]

#: Exit codes that whoever starts the server may test.
TAKEN, REFUSED = 3, 4


class GradientServer(Application):
    """The control plane for one user, on loopback, started on demand by the client."""

    name = "gradient-server"
    version = __version__
    description = __doc__

    data = traitlets.Unicode(
        help="The data root. Default: $GRADIENT_DATA_DIR, else $XDG_DATA_HOME/gradient_jupyter."
    ).tag(config=True)
    port = traitlets.Int(0, min=0, max=65535, help="The port on 127.0.0.1; 0 takes a free one.").tag(
        config=True
    )
    idle_s = traitlets.Float(
        300.0, min=0, help="Ends this long after the last job, request and stream; 0: never."
    ).tag(config=True)
    isolation = traitlets.Enum(
        list(get_args(Isolation)), "auto",
        help="How the local engine makes a job's world. auto: by bubblewrap where this system allows it.",
    ).tag(config=True)  # fmt: skip
    machine_types = traitlets.Dict(
        help="Named sizes beside `local`, e.g. {'small': {'cpus': 2, 'memory_bytes': 4 * 2**30, 'gpus': 0}}. "
        "Jobs of a size run side by side as far as the machine holds them."
    ).tag(config=True)
    default_machine_type = traitlets.Unicode(
        help="The machine type of a job that names none. Default: local, the whole machine."
    ).tag(config=True)
    max_running_jobs = traitlets.Int(
        None,
        min=1,
        allow_none=True,
        help="How many jobs of one owner run at a time. Default: as many as fit.",
    ).tag(config=True)
    max_queued_jobs = traitlets.Int(
        None, min=1, allow_none=True, help="How many jobs of one owner may wait; one more is refused."
    ).tag(config=True)
    max_gpus = traitlets.Int(
        None, min=0, allow_none=True, help="How many GPUs the jobs of one owner hold at a time."
    ).tag(config=True)
    stop_grace_s = traitlets.Float(10.0, min=0, help="Between TERM and KILL when a job is stopped.").tag(
        config=True
    )
    patience_s = traitlets.Float(
        10.0,
        min=0,
        help="How long a job's supervisor that does not answer (paused, stuck on a disk) is waited for, "
        "after the grace, before it is killed with the job.",
    ).tag(config=True)
    retry_delay_s = traitlets.Float(
        1.0,
        min=0,
        help="From the end of a job's first attempt to its second (--retries); twice as long before each one "
        "after it, up to five minutes.",
    ).tag(config=True)
    reserve_bytes = traitlets.Int(
        256 * 2**20,
        min=0,
        help="Nothing is taken in and nothing started when less than this is free on the disk.",
    ).tag(config=True)
    ballast_bytes = traitlets.Int(
        16 * 2**20,
        min=0,
        help="Kept allocated on the disk and given up when it is full, so that things can be deleted then.",
    ).tag(config=True)
    garbage_grace_s = traitlets.Float(
        3600.0, min=0, help="How long files that no job refers to are kept after they came."
    ).tag(config=True)
    keep_jobs_days = traitlets.Float(
        0.0,
        min=0,
        help="Jobs that ended longer ago are deleted, unless they are tagged `keep`. 0: none ever is.",
    ).tag(config=True)
    max_artifacts = traitlets.Int(
        1_000_000, min=0, help="How many files one job may leave; those beyond are not collected."
    ).tag(config=True)
    max_artifact_bytes = traitlets.Int(
        2**40, min=0, help="How many bytes one job may leave, by size or by space, whichever is more."
    ).tag(config=True)

    system_metrics_s = traitlets.Float(
        10.0,
        min=0,
        help="How often it is measured what a running job uses (CPU, memory, GPUs): its system metrics. "
        "0: never.",
    ).tag(config=True)
    max_metric_points = traitlets.Int(
        10_000_000, min=0, help="How many points of metrics one attempt of a job may write."
    ).tag(config=True)
    max_metrics = traitlets.Int(
        10_000, min=0, help="How many metrics one attempt of a job may have, each a series of points."
    ).tag(config=True)

    max_snapshot_bytes = traitlets.Int(
        16 * 2**30,
        min=0,
        help="The most that the files of one job may have together. Clients have a smaller limit of their "
        "own, which is their user's to raise; this one is not.",
    ).tag(config=True)

    outbound_allow = traitlets.List(
        traitlets.Unicode(),
        help="Where the server may go when users name an address, beside public addresses by https on port "
        "443: networks and hosts, each with a port where it is not the usual one, e.g. ['10.1.0.0/16', "
        "'git.example.com:8443', 'http://10.2.0.5:3000'].",
    ).tag(config=True)
    outbound_ca_file = traitlets.Unicode(
        help="A PEM file with the certificate authorities that are trusted there, in place of the system's."
    ).tag(config=True)
    outbound_timeout_s = traitlets.Float(
        300.0, min=1, help="How long the server takes at most to fetch something for a user."
    ).tag(config=True)
    outbound_max_bytes = traitlets.Int(
        512 * 2**20, min=1, help="How much the server fetches at most at a time."
    ).tag(config=True)
    outbound_at_once = traitlets.Int(
        4, min=1, help="How many fetches run at a time; of one user at most half of them. Others wait."
    ).tag(config=True)

    public_datasets = traitlets.Dict(
        help="Directories that every job finds read-only at /datasets/NAME and /data/NAME, e.g. "
        "{'mnist': '/srv/data/mnist'}."
    ).tag(config=True)
    trees_bytes = traitlets.Int(
        50 * 2**30,
        min=0,
        help="How much disk unpacked versions of datasets may take together: the longest unused go first. "
        "Those that jobs use are kept whatever they take.",
    ).tag(config=True)

    header_timeout_s = traitlets.Float(
        30.0, min=0.1, help="How long the head of a request may take to arrive."
    ).tag(config=True)
    body_timeout_s = traitlets.Float(
        60.0,
        min=0.1,
        help="How long a body may stand still; after as long it also has to come at 1 kB/s on the whole.",
    ).tag(config=True)
    audit_keep_days = traitlets.Float(
        365.0, min=0, help="How long the record of what was done is kept (gradient admin audit)."
    ).tag(config=True)
    audit_keep_entries = traitlets.Int(
        1_000_000, min=1, help="The most entries it keeps; the oldest go first."
    ).tag(config=True)
    log_json = traitlets.Bool(
        False, help="The log as one JSON object a line, for programs that collect logs."
    ).tag(config=True)
    log_requests = traitlets.Bool(
        True, help="Tell each request in the log; of a flood only some, and how many were left out."
    ).tag(config=True)

    @traitlets.default("log_level")
    def _log_level(self) -> int:
        return logging.INFO

    aliases = {  # noqa: RUF012  # traitlets wants a plain class attribute
        "data": "GradientServer.data",
        "port": "GradientServer.port",
        "idle": "GradientServer.idle_s",
        "isolation": "GradientServer.isolation",
        "log-level": "Application.log_level",
    }

    def initialize(self, argv: list[str] | None = None) -> None:
        self.parse_command_line(argv)
        config = config_root() / "gradient_config.py"
        if config.exists():
            given = self.cli_config
            self.load_config_file(config.stem, path=str(config.parent))
            self.update_config(given)
        level: Any = self.log_level
        loglines.set_up(level, as_json=self.log_json)
        logging.getLogger("gradient_jupyter.requests").disabled = not self.log_requests

    def start(self) -> None:
        layout = Layout(Path(self.data).expanduser().absolute() if self.data else data_root())
        try:
            opened = open_data_root(layout)
        except claimed.DataRootTaken as error:
            self._give_up(str(error), TAKEN)
        except (claimed.DataRootUnsafe, DataRootRefused) as error:
            self._give_up(str(error), REFUSED)
        open_files = descriptors.raise_limit()
        descriptors.dump_nothing()
        try:
            asyncio.run(Solo(self, layout, opened, open_files).serve())
        except CannotStart as error:
            self._give_up(str(error), REFUSED)
        finally:
            os.close(opened.lock)

    def settings(self, root: Path) -> Settings:
        try:
            sizes = convert(dict(self.machine_types), dict[str, Size])
        except msgspec.ValidationError as error:
            self._give_up(f"GradientServer.machine_types is wrong: {error}.", REFUSED)
        try:
            rules = tuple(parse_rule(each) for each in self.outbound_allow)
        except ValueError as error:
            self._give_up(f"GradientServer.outbound_allow is wrong: {error}", REFUSED)
        if self.outbound_ca_file:
            self._check_authorities(self.outbound_ca_file)
        try:
            public = public_datasets(self.public_datasets, root)
        except ValueError as error:
            self._give_up(f"GradientServer.public_datasets is wrong: {error}", REFUSED)
        return Settings(
            public_datasets=public,
            trees_bytes=self.trees_bytes,
            machine_types=sizes,
            default_machine_type=self.default_machine_type or None,
            limits=Limits(
                max_running_jobs=self.max_running_jobs,
                max_queued_jobs=self.max_queued_jobs,
                max_gpus=self.max_gpus,
            ),
            stop_grace_s=self.stop_grace_s,
            patience_s=self.patience_s,
            retry_delay_s=self.retry_delay_s,
            reserve_bytes=self.reserve_bytes,
            max_snapshot_bytes=self.max_snapshot_bytes,
            ballast_bytes=self.ballast_bytes,
            garbage_grace_s=self.garbage_grace_s,
            keep_jobs_days=self.keep_jobs_days,
            max_artifacts=self.max_artifacts,
            max_artifact_bytes=self.max_artifact_bytes,
            system_metrics_s=self.system_metrics_s,
            max_metric_points=self.max_metric_points,
            max_metrics=self.max_metrics,
            outbound_allow=rules,
            outbound_ca_file=self.outbound_ca_file or None,
            outbound_timeout_s=self.outbound_timeout_s,
            outbound_max_bytes=self.outbound_max_bytes,
            outbound_at_once=self.outbound_at_once,
            audit_keep_days=self.audit_keep_days,
            audit_keep_entries=self.audit_keep_entries,
        )

    def _check_authorities(self, path: str) -> None:
        import ssl

        try:
            if not Path(path).is_absolute():
                raise ValueError("it is not an absolute path")
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            self._give_up(f"GradientServer.outbound_ca_file is wrong: {path!r}: {error}.", REFUSED)

    def _give_up(self, message: str, code: int) -> Any:
        sys.stderr.write(f"gradient server: {message}\n")
        raise SystemExit(code)


class CannotStart(Exception):
    """Something the server needs is not to be had. The text says what and what to do."""


class Solo:
    """One run of the server. Satisfies ``api.routes.Host``."""

    mode = "solo"

    def __init__(self, program: GradientServer, layout: Layout, opened: Opened, open_files: int) -> None:
        self._program = program
        self._layout = layout
        self._install = opened.install
        self._read_only = opened.read_only
        self._open_files = open_files
        self._done = asyncio.Event()
        self.token = "gru_" + secrets.token_urlsafe(32)
        self.url = ""
        self.streams = 0
        self.heart: routes.Heart = Heart()
        self._watch, self._meter = Watch(), Meter()
        self.watch: routes.Watch = self._watch
        self.meter: routes.Meter = self._meter
        self.readiness: routes.Readiness
        self.started_us = now_us()
        self._needed = time.monotonic()

    def stop(self) -> None:
        self._done.set()

    def touch(self) -> None:
        self._needed = time.monotonic()

    async def serve(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, self._done.set)
        layout, program = self._layout, self._program
        # The port first: whoever waits for it is told at once when it cannot be had.
        try:
            sockets = _listen(program.port, layout.port)
        except OSError as error:
            raise CannotStart(
                f"The port {program.port} cannot be had: {error.strerror}. Take another (--port)."
            ) from error
        port = sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        try:
            key = claimed.key(config_root() / "keys" / self._install)
        except OSError as error:
            raise CannotStart(f"This server's key cannot be read or made: {error}.") from error
        try:
            # The lock on the data root makes us its only writer.
            blobs = BlobStore(layout.blobs, alone=True, tidy=not self._read_only)
            plane = Plane(
                layout, self._install, program.settings(layout.root), blobs, self._local_engine, key,
                f"{self.url}/api/{API}", self._read_only, claimed.keyring(self._install),
            )  # fmt: skip
            await plane.start()
            user = await self._user(plane)
            plane.granted.operators = frozenset({user.id})
            self.readiness = Readiness(plane)
        except Unreachable as error:
            raise CannotStart(f"The engine cannot be used. {error}") from error
        except GradientError as error:
            raise CannotStart(str(error)) from error
        except OSError as error:
            raise CannotStart(f"The data root {layout.root} cannot be used: {error}.") from error
        if self._read_only:
            log.error("read-only: %s", self._read_only)
        runtime_path = runtime_file(layout.root)
        runtime = Runtime(
            url=self.url,
            token=self.token,
            version=__version__,
            api=API,
            pid=os.getpid(),
            data=str(layout.root),
        )
        listener: Listener | None = None
        patience: Patience | None = None
        try:
            hosts = frozenset(f"{name}:{port}" for name in ("127.0.0.1", "localhost", "[::1]"))
            everything = Principal(user_id=user.id, name=user.name, scopes=frozenset(Scope))
            door = Door(self.token, everything, hosts)
            listener = Listener(Api(plane, self, door), sockets)
            patience = Patience(listener.connections, program.header_timeout_s, program.body_timeout_s)
            self._watch.start()
            self._meter.start()
            claimed.publish(runtime_path, runtime)
            _ready(self.url)
            gc.collect()
            gc.set_threshold(10_000)  # a batch of numbers makes thousands of objects, and none is garbage
            gc.freeze()  # what is loaded stays: to look through it for garbage takes tens of milliseconds
            log.info("serving %s on %s", layout.root, self.url)
            await self._until_done(plane)
        finally:
            claimed.withdraw(runtime_path, runtime)
            if patience is not None:
                patience.close()
            self._meter.close()
            await self._watch.close()
            if listener is not None:
                await listener.close()
            await plane.close()
            log.info("stopped; jobs that run go on")

    def _local_engine(self, plane: Plane) -> LocalEngine:
        return LocalEngine(
            self._layout.engines / "local",
            plane.unpack,
            install=self._install,
            isolation=cast("Isolation", self._program.isolation),
            patience_s=self._program.patience_s,
            open_files=self._open_files,
        )

    async def _until_done(self, plane: Plane) -> None:
        """Until asked to stop, or until nobody has needed us for ``idle_s``.

        An open connection alone needs nobody: a notebook keeps its client for days.
        """
        idle_s = self._program.idle_s
        if not idle_s:
            await self._done.wait()
            return
        while not self._done.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._done.wait(), min(idle_s / 4, 15))
            if self.streams or await self._works(plane):
                self.touch()
            elif time.monotonic() - self._needed >= idle_s:
                log.info("nothing ran and nobody asked for %.0f s", idle_s)
                return

    async def _works(self, plane: Plane) -> bool:
        """Whether a job needs us. A read-only server does nothing for any."""
        if plane.read_only:
            return False
        try:
            return await plane.database.read(job_rows.live) > 0
        except Exception as error:  # a disk that has no answer now: not a reason to go
            log.warning("whether jobs run cannot be read: %s", error)
            return True

    async def _user(self, plane: Plane) -> User:
        if plane.read_only:
            found = await plane.database.read(lambda connection: users.find(connection, "solo"))
            if found is None:
                raise CannotStart(f"There is nothing to show yet. {plane.read_only}")
            return found

        def arrive(connection: Connection) -> User:
            schema.note_start(connection)
            return users.ensure(connection, "solo", _login())

        return await plane.database.write(arrive)


def _listen(port: int, last: Path) -> list[socket.socket]:
    """The sockets on loopback. Without a port of its own, the one it had ``last``, for the jobs that know it;
    else any."""
    if not port:
        with contextlib.suppress(OSError, ValueError):
            return bind_sockets(int(last.read_text()), "127.0.0.1", socket.AF_INET)
    sockets = bind_sockets(port, "127.0.0.1", socket.AF_INET)
    with contextlib.suppress(OSError):  # a full disk: then jobs that run do not find the next server
        last.write_text(str(sockets[0].getsockname()[1]))
    return sockets


def _login() -> str:
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


def _ready(url: str) -> None:
    """Tells whoever started us, then lets go of their pipe."""
    with contextlib.suppress(OSError):
        os.write(1, json.dumps({"url": url, "pid": os.getpid()}).encode() + b"\n")
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)
