"""A server that several people use, for the tests of who may do what.

Solo has one person. The others, their projects, roles and tokens are put into its database before it starts,
by the same functions the server has. ``CANARY`` stands in everything that is the owner's: names, tags,
variables, logs, artifacts. Nobody who may not see the owner's things may ever be told it.
"""

from __future__ import annotations

import hashlib
import http.client
import itertools
import json
import signal
import sqlite3
import sys
from pathlib import Path
from typing import Any

import blake3
import urllib3
from solo import PATIENCE_S, SoloServer
from sqlalchemy import insert

from gradient_jupyter.control.running.tokens import PUSH_PREFIX, Tokens
from gradient_jupyter.resources.base import new_id, now_us
from gradient_jupyter.resources.token import Scope, Token, digest
from gradient_jupyter.store import projects, tokens, users
from gradient_jupyter.store.database import _CHANGES, connect
from gradient_jupyter.store.tables import members
from gradient_jupyter.workspace.wire import END, HEADER, MAGIC, RAW

CANARY = "canary-7f3a91"

#: Rows that say what was asked, not what there is: refused requests add to them by design.
_NOT_STATE = {"audit", "facts", "alembic_version", "sqlite_sequence"}

#: Who may ask. Those of the first line are nobody here.
NOBODY = ("none", "wrong", "expired", "revoked")
ROLES = (
    "stranger",  # has an account, and nothing of the owner's is shared with them
    "viewer",
    "member",
    "admin",  # of the owner's project
    "owner",  # by a token with every scope
    "operator",  # solo's own user, by the runtime file; in no project of the owner's
    "reader",  # the owner, by a token that only reads
    "scraper",  # the operator, by a token for /metrics alone
    "inner",  # the owner, by a token that opens this project alone
    "outer",  # the owner, by a token that opens another project alone
    "job",  # a run of the owner's, by its own token
    "other",  # another run of the owner's
    "fenced",  # a run of the owner's that is over
    "push",  # a run of the owner's, by the token in the address where it pushes metrics
)


class People(SoloServer):
    """``tokens``: what each of ``NOBODY`` and ``ROLES`` bears. ``ids``: the owner's things by a short
    name."""

    def __init__(self, root: Path, *options: str) -> None:
        super().__init__(
            root,
            "--GradientServer.machine_types={'small': {'cpus': 0.01, 'memory_bytes': 1048576}}",
            "--GradientServer.default_machine_type=small",
            "--GradientServer.stop_grace_s=1",
            "--GradientServer.system_metrics_s=0",  # what is measured changes files by itself
            *options,
        )
        self.tokens: dict[str, str | None] = {"none": None, "wrong": "gru_" + "w" * 43}
        self.ids: dict[str, str] = {}
        self.user_ids: dict[str, str] = {}
        self._line: http.client.HTTPConnection | None = None
        self._numbers = itertools.count()
        self.http = urllib3.PoolManager(retries=False, timeout=PATIENCE_S)

    def start(self) -> People:
        first = not self.tokens.get("owner")
        if first:
            super().start()
            self.stop()
            self._seed()
        super().start()
        assert self.runtime is not None
        self.tokens["operator"] = self.runtime.token
        if first:
            self._make_things()
        return self

    def _end(self, number: signal.Signals) -> None:
        super()._end(number)
        self.http.clear()
        if self._line is not None:
            self._line.close()
            self._line = None

    def ask(
        self,
        who: str,
        method: str,
        path: str,
        *,
        body: object = None,
        data: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> urllib3.BaseHTTPResponse:
        """One request by somebody, to a whole path. Of a stream the head alone is read."""
        assert self.runtime is not None
        sent = dict(headers or {})
        token = self.tokens[who]
        if token is not None:
            sent.setdefault("Authorization", f"Bearer {token}")
        if body is not None:
            data = json.dumps(body).encode()
        answer = self.http.request(
            method, self.runtime.url + path, body=data, headers=sent, preload_content=False
        )
        if answer.headers.get("Content-Type") == "text/event-stream":
            answer.close()
        else:
            answer.read(cache_content=True)
            answer.release_conn()
        return answer

    def exactly(
        self,
        who: str,
        method: str,
        path: str,
        data: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> tuple[int, bytes, http.client.HTTPMessage]:
        """A request whose path goes over the wire as it stands: no client tidies it up."""
        assert self.runtime is not None
        connection, self._line = self._line, None
        if connection is None:
            connection = http.client.HTTPConnection(self.host, timeout=PATIENCE_S)
        token = self.tokens[who]
        known = {} if token is None else {"Authorization": f"Bearer {token}"}
        connection.putrequest(method, "/", skip_accept_encoding=True)
        # http.client refuses some of what an attacker would send.
        connection._buffer[0] = f"{method} ".encode() + path.encode() + b" HTTP/1.1"  # type: ignore[attr-defined]
        for name, value in (known | (headers or {})).items():
            connection.putheader(name, value)
        if data is not None:
            connection.putheader("Content-Length", str(len(data)))
        connection.endheaders(data)
        answer = connection.getresponse()
        stream = answer.getheader("Content-Type") == "text/event-stream"
        content = b"" if stream else answer.read()
        if stream or answer.will_close:
            connection.close()
        else:
            self._line = connection
        return answer.status, content, answer.headers

    @property
    def host(self) -> str:
        assert self.runtime is not None
        return self.runtime.url.removeprefix("http://")

    def quiet(self) -> None:
        """Waits until nothing is under way but the two jobs that run."""
        while True:
            database = sqlite3.connect(f"file:{self.data / 'gradient.sqlite'}?mode=ro", uri=True)
            ((claims,),) = database.execute("SELECT count(*) FROM claims")
            database.close()
            tasks = [each for each in (self.data / "engines" / "local").iterdir() if each.is_dir()]
            copies = list((self.data / "jobs").glob("*/*/workspace"))
            if (claims, len(tasks), len(copies)) == (2, 2, 2):
                return

    def owner_job(self, *command: str, **fields: object) -> str:
        """A job of the owner's, sent by them."""
        asked = {
            "command": list(command), "snapshot": self.ids["snapshot"], "project_id": self.ids["project"],
            "host": {"python": sys.executable, "path": ["/usr/bin", "/bin"]}, **fields,
        }  # fmt: skip
        answer = self.ask("owner", "POST", "/api/v1/jobs", body=asked)
        assert answer.status == 201, answer.data
        return str(answer.json()["id"])

    def new_project(self) -> str:
        """A project to be deleted. Everybody has the role in it that they have in the owner's own, and what
        opens that one alone opens this one alone."""
        number = len(self.ids)
        made = self.ask("owner", "POST", "/api/v1/projects", body={"name": f"new {number} {CANARY}"}).json()[
            "id"
        ]
        self.ids[f"new-{number}"] = made
        database = sqlite3.connect(self.data / "gradient.sqlite", timeout=PATIENCE_S)
        with database:
            database.execute(
                "INSERT INTO members SELECT ?, principal, role FROM members WHERE project_id = ?",
                (made, self.ids["project"]),
            )
        database.close()
        return str(made)

    def first_events(self, who: str, after: str) -> str:
        """What comes first on somebody's stream of changes: all that there is, as far as one read holds
        it."""
        assert self.runtime is not None
        answer = self.http.request(
            "GET", f"{self.runtime.url}/api/v1/events", preload_content=False,
            headers={"Authorization": f"Bearer {self.tokens[who]}", "Last-Event-ID": after},
        )  # fmt: skip
        seen = ""
        for chunk in answer.stream(65536):
            seen += chunk.decode()
            if "\n\n" in seen:
                break
        answer.close()
        return seen

    def until(self, job_id: str, state: str, who: str = "owner") -> None:
        """Follows the job's log until it is in that state."""
        assert self.runtime is not None
        answer = self.http.request(
            "GET", f"{self.runtime.url}/api/v1/jobs/{job_id}/logs?follow=true",
            headers={"Authorization": f"Bearer {self.tokens[who]}"}, preload_content=False,
        )  # fmt: skip
        for chunk in answer.stream(65536):
            if f'"state":"{state}"'.encode() in chunk and (state != "Running" or b'"running"' in chunk):
                break
        answer.close()

    def gone(self, path: str) -> None:
        """Waits until the owner's thing there is removed."""
        while self.ask("owner", "GET", path).status != 404:
            pass

    def state(self) -> dict[str, str]:
        """Everything stored, a digest for each table's rows and each room's files with their sizes."""
        found = {}
        database = sqlite3.connect(f"file:{self.data / 'gradient.sqlite'}?mode=ro", uri=True)
        try:
            names = [
                row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            ]
            for name in sorted(set(names) - _NOT_STATE):
                columns = [row[1] for row in database.execute(f"PRAGMA table_info('{name}')")]
                kept = ", ".join(f'"{column}"' for column in columns if column != "last_used_us")
                rows = database.execute(f'SELECT {kept} FROM "{name}" ORDER BY rowid').fetchall()
                found[name] = hashlib.sha256(repr(rows).encode()).hexdigest()
        finally:
            database.close()
        for room in ("blobs", "jobs", "runs", "storage", "datasets"):
            files = [
                (str(path), _content(path))
                for path in sorted((self.data / room).rglob("*"))
                if not path.name.startswith("metrics.sqlite-")
            ]
            found[f"{room}/"] = hashlib.sha256(repr(files).encode()).hexdigest()
        return found

    def _seed(self) -> None:
        engine = connect(self.data / "gradient.sqlite")
        with engine.connect().execution_options(immediate=True) as connection, connection.begin():
            connection.info[_CHANGES] = []
            people = {
                name: users.ensure(connection, f"test-{name}", f"{name} {CANARY if name == 'owner' else ''}")
                for name in ("owner", "admin", "member", "viewer", "stranger", "guest")
            }
            self.user_ids = {name: user.id for name, user in people.items()}
            operator = users.find(connection, "solo")
            assert operator is not None
            self.user_ids["operator"] = operator.id
            owner = f"user:{people['owner'].id}"
            # What ``outer`` may see bears no canary.
            for name, called in (("project", f"project {CANARY}"), ("elsewhere", "elsewhere")):
                made = projects.create(connection, owner, called, people["owner"].id)
                self.ids[name] = made.id
            for name in ("admin", "member", "viewer"):
                connection.execute(
                    insert(members).values(
                        project_id=self.ids["project"], principal=f"user:{people[name].id}", role=name
                    )
                )
            now = now_us()
            everything, most = tuple(Scope), (Scope.READ, Scope.WRITE, Scope.ACCESS)
            for who, of, scopes, project, expires_us, revoked_us in (
                *((name, name, everything, None, None, None) for name in people if name != "guest"),
                ("reader", "owner", (Scope.READ,), None, None, None),
                ("scraper", "operator", (Scope.METRICS,), None, None, None),
                ("inner", "owner", most, self.ids["project"], None, None),
                ("outer", "owner", most, self.ids["elsewhere"], None, None),
                ("expired", "owner", everything, None, now - 1, None),
                ("revoked", "owner", everything, None, None, now),
            ):
                secret = f"gru_{(known := new_id('tk'))}_{'s' * 30}{len(self.tokens):013}"
                tokens.create(
                    connection,
                    Token(
                        id=known, name=who if who not in ("owner", "reader", "inner") else f"{who} {CANARY}",
                        scopes=scopes,
                        project_id=project, created_us=now, created_by=self.user_ids[of],
                        expires_us=expires_us, revoked_us=revoked_us,
                    ),
                    user_id=self.user_ids[of], digest=digest(secret),
                )  # fmt: skip
                self.tokens[who] = secret
                self.ids[f"token-{who}"] = known
        engine.dispose()

    def _make_things(self) -> None:
        blob = CANARY.encode() * 3
        self.ids["blob"] = self._send(blob)
        entries = [{"kind": "file", "path": "a.txt", "size": len(blob), "digest": self.ids["blob"]}]
        answer = self.ask("owner", "POST", "/api/v1/snapshots", body={"entries": entries})
        assert answer.status == 201, answer.data
        self.ids["snapshot"] = answer.json()["id"]
        empty = self.ask("stranger", "POST", "/api/v1/snapshots", body={"entries": []})
        self.ids["empty"] = empty.json()["id"]
        self.ids["done"] = self.finished_job()
        script = "import time; print('up', flush=True); time.sleep(36000)"
        for name in ("running", "second"):
            self.ids[name] = self.owner_job(sys.executable, "-c", script)
            self.until(self.ids[name], "Running")
            while self.ask("owner", "GET", f"/api/v1/jobs/{self.ids[name]}/log").data != b"up\n":
                pass
        (key,) = (self.root / "config" / "gradient_jupyter" / "keys").iterdir()
        made = Tokens(key.read_bytes())
        self.tokens["job"] = made.of(self.ids["running"], 1)
        self.tokens["other"] = made.of(self.ids["second"], 1)
        self.tokens["fenced"] = made.of(self.ids["done"], 1)
        self.tokens["push"] = made.of(self.ids["running"], 1, PUSH_PREFIX)
        progress = {"fraction": 0.5}
        path = f"/api/v1/jobs/{self.ids['running']}"
        assert self.ask("owner", "PUT", f"{path}/progress", body=progress).status == 202
        while self.ask("owner", "GET", path).json()["progress"] is None:
            pass
        self._log_things()
        self.quiet()
        # Every token has been used once, so that no later request is the first.
        for who in ROLES:
            self.ask(who, "GET", "/api/v1/machine-types")

    def _log_things(self) -> None:
        """What is kept beside jobs: members, secrets, a dataset, and what MLflow logs."""
        self.ids |= {
            "guest": f"user:{self.user_ids['guest']}", "seen": f"user:{self.user_ids['viewer']}",
            "team": "some-team", "tag": "t" * 16, "put-secret": "set-here",
            "project-name": f"project%20{CANARY}",
            "secret": self.new_secret(), "shared-secret": self.new_secret(self.ids["project"]),
            "dataset": self.new_dataset(), "run": self.new_run(), "model": self.new_model(),
        }  # fmt: skip
        self.ids["notes"] = f"{self.ids['project']}/{self.ids['run']}/artifacts"
        self.ids["note"] = self.new_note("note.txt")
        for key in ("tag-of-run", "tag-of-experiment", "tag-of-model"):
            self.ids[key] = key
        self.mlflow("runs/set-tag", {"run_id": self.ids["running"], "key": "tag-of-run", "value": CANARY})
        point = {"run_id": self.ids["running"], "key": "loss", "value": 0.5, "step": 0}
        self.mlflow("runs/log-metric", point)

    def mlflow(self, what: str, body: object, method: str = "POST") -> Any:
        """Something of the owner's, by MLflow's API."""
        answer = self.ask("owner", method, f"/mlflow/api/2.0/mlflow/{what}", body=body)
        assert answer.status == 200, answer.data
        return answer.json()

    def new_secret(self, project_id: str | None = None) -> str:
        name = f"secret-{len(self.ids)}-{next(self._numbers)}"
        where = "secrets/user" if project_id is None else f"projects/{project_id}/secrets"
        answer = self.ask("owner", "PUT", f"/api/v1/{where}/{name}", body={"value": f"{CANARY} {name}"})
        assert answer.status == 200, answer.data
        return name

    def new_dataset(self) -> str:
        body = {
            "name": f"data-{CANARY}-{next(self._numbers)}", "snapshot": self.ids["snapshot"],
            "description": CANARY,
        }  # fmt: skip
        answer = self.ask("owner", "POST", "/api/v1/datasets", body=body)
        assert answer.status == 201, answer.data
        return str(answer.json()["id"])

    def new_run(self) -> str:
        made = self.mlflow("runs/create", {"experiment_id": self.ids["project"], "run_name": CANARY})
        return str(made["run"]["info"]["run_id"])

    def new_model(self) -> str:
        made = self.mlflow("logged-models", {"experiment_id": self.ids["project"], "name": CANARY})
        return str(made["model"]["info"]["model_id"])

    def new_note(self, name: str) -> str:
        """The path of a new artifact of the run's."""
        path = f"{self.ids['notes']}/{name}"
        at = f"/mlflow/api/2.0/mlflow-artifacts/artifacts/{path}"
        assert self.ask("owner", "PUT", at, data=CANARY.encode()).status == 200
        return path

    def finished_job(self) -> str:
        """A job of the owner's that has left ``model.bin``."""
        script = (
            f"import os; print('{CANARY}'); "
            f"open(os.environ['GRADIENT_ARTIFACTS_DIR'] + '/model.bin', 'w').write('{CANARY}')"
        )
        job = self.owner_job(
            sys.executable, "-c", script, name=f"job {CANARY}", tags=[CANARY], env={"SECRETIVE": CANARY}
        )
        self.until(job, "Stopped")
        return job

    def _send(self, content: bytes) -> str:
        digest = blake3.blake3(content)
        answer = self.ask("owner", "POST", "/api/v1/blobs", data=packed(content))
        assert answer.status == 201, answer.data
        return digest.hexdigest()


def _content(path: Path) -> object:
    """Of a file its size; of metrics what is stored, since their files settle by themselves."""
    if path.name != "metrics.sqlite":
        return path.lstat().st_size if path.is_file() else 0
    database = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=PATIENCE_S)
    try:
        names = [row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return [database.execute(f'SELECT * FROM "{name}"').fetchall() for name in sorted(names)]
    finally:
        database.close()


def packed(content: bytes) -> bytes:
    """One blob in a pack, as a client sends it."""
    head = HEADER.pack(blake3.blake3(content).digest(), RAW, len(content), len(content))
    return MAGIC + head + content + HEADER.pack(bytes(32), END, 1, len(content))
