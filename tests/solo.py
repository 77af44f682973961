"""A real solo server for tests: its own process, data root, runtime directory and HOME."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import urllib3

from gradient_jupyter.resources.server import Runtime

#: Generous: a loaded machine is slow, and nothing here asserts a time.
PATIENCE_S = 60.0


class SoloServer:
    """One data root and the server that works on it; ``kill`` and ``start`` again as often as wanted."""

    def __init__(self, root: Path, *options: str) -> None:
        self.root = root
        self.data = root / "data"
        self.home = root / "home"
        self.home.mkdir(parents=True, exist_ok=True)
        self.options = options
        self.environment = {
            **{
                name: value for name, value in os.environ.items() if not name.startswith(("GRADIENT_", "PS_"))
            },
            "HOME": str(self.home),
            "XDG_DATA_HOME": str(root / "share"),
            "XDG_CONFIG_HOME": str(root / "config"),
            "XDG_CACHE_HOME": str(root / "cache"),
            "JUPYTER_RUNTIME_DIR": str(root / "runtime"),
            "GRADIENT_DATA_DIR": str(self.data),
        }
        self.process: subprocess.Popen[bytes] | None = None
        self.runtime: Runtime | None = None
        self._pool = urllib3.PoolManager(retries=False, timeout=PATIENCE_S)

    def start(self) -> SoloServer:
        self.launch()
        assert self.ready(), f"the server did not start:\n{self.log()}"
        return self

    def launch(self, before: tuple[str, ...] = ()) -> None:
        """Starts the process and does not wait for it. ``before`` is put before its command."""
        with (self.root / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*before, sys.executable, "-m", "gradient_jupyter.server", *self._stays(), *self.options],
                env=self.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log,
                start_new_session=True,
            )  # fmt: skip

    def _stays(self) -> list[str]:
        """Not to end by itself, however long the tests have no need of it; unless a test is about that."""
        return [] if any("idle" in option for option in self.options) else ["--idle=0"]

    def ready(self) -> bool:
        """Waits until it can be reached. False: it ended before."""
        assert self.process is not None and self.process.stdout is not None
        with self.process.stdout as ready:
            line = ready.readline()
        if not line:
            return False
        assert json.loads(line)["pid"] == self.process.pid
        (path,) = (self.root / "runtime").glob("gradient-*.json")
        self.runtime = msgspec.json.decode(path.read_bytes(), type=Runtime)
        return True

    def kill(self) -> None:
        """As a power cut to the process would: no handler runs."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> None:
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(number)
            self.process.wait(PATIENCE_S)
            self.process = None
        self._pool.clear()

    def log(self) -> str:
        return (self.root / "server.log").read_text()

    def request(
        self,
        method: str,
        path: str,
        *,
        json_body: object = None,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        token: str | None = "ours",
        stream: bool = False,
    ) -> urllib3.BaseHTTPResponse:
        """One request. ``token``: "ours" is the right one, None sends none."""
        assert self.runtime is not None
        sent = dict(headers or {})
        if token is not None:
            sent.setdefault("Authorization", f"Bearer {self.runtime.token if token == 'ours' else token}")
        if json_body is not None:
            body = json.dumps(json_body).encode()
            sent.setdefault("Content-Type", "application/json")
        url = self.runtime.url + (path if path.startswith(("/api", "/mlflow")) else f"/api/v1{path}")
        return self._pool.request(method, url, body=body, headers=sent, preload_content=not stream)

    def job(self, *command: str, **fields: object) -> dict[str, object]:
        """Submits a job without files and returns it."""
        empty = self.request("POST", "/snapshots", json_body={"entries": []}).json()["id"]
        asked = {"command": command, "snapshot": empty, "project": "tests", **fields}
        asked.setdefault("host", {"python": sys.executable, "path": ["/usr/bin", "/bin"]})
        answer = self.request("POST", "/jobs", json_body=asked)
        assert answer.status == 201, answer.data
        return dict(answer.json())

    def storage(self) -> Path:
        """The user's persistent storage: the place that tests and jobs both see."""
        user = self.data / "storage" / "user"
        if not user.exists():
            self.finished(self.job("true")["id"])
        (found,) = user.iterdir()
        return found

    def events(self, path: str, headers: dict[str, str] | None = None) -> Iterator[tuple[str, str, object]]:
        """(event, id, data) of a Server-Sent Events stream, until it ends."""
        answer = self.request("GET", path, headers=headers, stream=True)
        assert answer.status == 200, answer.data
        event, identity, pending = "", "", b""
        for chunk in answer.stream(65536):
            pending += chunk
            *lines, pending = pending.split(b"\n")
            for line in lines:
                name, _, value = line.decode().partition(": ")
                if name == "event":
                    event = value
                elif name == "id":
                    identity = value
                elif name == "data":
                    yield event, identity, json.loads(value)
                elif not line:
                    event, identity = "", ""
        answer.release_conn()

    def printed(self, job_id: object, text: str) -> str:
        """Follows the job's log until it printed ``text``. Returns the position after it."""
        seen = ""
        for event, identity, data in self.events(f"/jobs/{job_id}/logs?follow=true"):
            if event == "log":
                seen += data["text"]  # type: ignore[index]
                if seen.endswith(text):
                    return identity
            assert event != "end", f"it ended without printing {text!r}: {seen}"
        raise AssertionError("the stream ended without `end`")

    def finished(self, job_id: object) -> dict[str, object]:
        """The job once it is final, by following its log to the explicit end."""
        for event, _, data in self.events(f"/jobs/{job_id}/logs?follow=true"):
            if event == "end":
                return dict(data["job"])  # type: ignore[index]
        raise AssertionError("the stream ended without `end`")

    def deleted(self, *job_ids: object) -> None:
        """Deletes them, and returns when they are gone."""
        install = self.request("GET", "/server").json()["install"]
        for job_id in job_ids:
            assert self.request("DELETE", f"/jobs/{job_id}").status == 202
        left = set(job_ids)
        for _, _, event in self.events("/events", headers={"Last-Event-ID": f"{install}-0"}):
            if event["noun"] == "job" and event["action"] == "deleted":
                left.discard(event["id"])
                if not left:
                    return

    def text(self, job_id: object) -> str:
        return self.request("GET", f"/jobs/{job_id}/log").data.decode()
