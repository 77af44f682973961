"""Finding and starting a user's own server, and never telling its token to anybody else."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from solo import PATIENCE_S, SoloServer

from gradient_jupyter.client import Client
from gradient_jupyter.client.connection import NotOurs
from gradient_jupyter.client.solo import Solo, read_runtime
from gradient_jupyter.resources.errors import InvalidRequest, ServerUnavailable
from gradient_jupyter.resources.server import Hello, Runtime, runtime_file

TOKEN = "gru_very-secret"


class Squatter:
    """Holds a port, answers every request with ``answer`` and keeps all it is told."""

    def __init__(self, answer: bytes, port: int = 0) -> None:
        self._socket = _listen(port)
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self.heard = b""
        self._answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(answer), answer)
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                caller, _ = self._socket.accept()
            except OSError:
                return
            with caller:
                caller.settimeout(5)
                try:
                    while data := caller.recv(65536):
                        self.heard += data
                        if b"\r\n\r\n" in data:
                            caller.sendall(self._answer)
                except OSError:
                    pass

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()


def _listen(port: int) -> socket.socket:
    """A port whose holder was killed is free when its last descriptor is: also that of a child that the
    holder was just starting, which closes it before it becomes another program."""
    until = time.monotonic() + PATIENCE_S
    while True:
        try:
            return socket.create_server(("127.0.0.1", port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() > until:
                raise
        time.sleep(0.01)


LIE = msgspec.json.encode(Hello(version="0.1.0", api="v1", proof="0" * 64))


@pytest.fixture
def squatter() -> Iterator[Squatter]:
    squatter = Squatter(LIE)
    yield squatter
    squatter.close()


def write_runtime(data: Path, url: str, mode: int = 0o600, **changes: Any) -> Path:
    path = runtime_file(data)
    path.parent.mkdir(parents=True, exist_ok=True)
    fields = {
        "url": url,
        "token": TOKEN,
        "version": "0.1.0",
        "api": "v1",
        "pid": os.getpid(),
        "data": str(data),
    }
    path.write_bytes(msgspec.json.encode(msgspec.convert({**fields, **changes}, Runtime)))
    path.chmod(mode)
    return path


def test_a_program_on_our_port_does_not_get_the_token(alone: SoloServer, squatter: Squatter) -> None:
    write_runtime(alone.data, squatter.url)
    with pytest.raises(ServerUnavailable, match="No Gradient server"):
        Client(start=False)
    assert b"/api/v1/hello" in squatter.heard
    assert TOKEN.encode() not in squatter.heard


def test_nor_does_one_that_took_the_port_later(alone: SoloServer) -> None:
    alone.start()
    assert alone.runtime is not None
    token = alone.runtime.token
    with Client(alone.runtime.url, token) as client:
        client.server()
        alone.kill()
        squatter = Squatter(LIE, int(alone.runtime.url.rpartition(":")[2]))
        try:
            with pytest.raises(NotOurs):
                client.server()
        finally:
            squatter.close()
    assert b"/api/v1/hello" in squatter.heard
    assert token.encode() not in squatter.heard


def test_two_that_stop_it_at_once_both_see_it_gone(alone: SoloServer) -> None:
    with Client() as client:
        pid = client.server().pid
    threads = [threading.Thread(target=Solo(start=False).stop) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Solo(start=False).running() is None
    with Client() as client:
        assert client.server().pid != pid


@pytest.mark.parametrize("answer", [b"", b"not json", b"[]", b'{"proof": "\xff"}', b"x" * 200_000])
def test_what_is_no_hello_is_no_server_of_ours(alone: SoloServer, answer: bytes) -> None:
    squatter = Squatter(answer)
    try:
        with pytest.raises(NotOurs), Client(squatter.url, TOKEN) as client:
            client.server()
    finally:
        squatter.close()
    assert TOKEN.encode() not in squatter.heard


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o602])
def test_a_runtime_file_that_others_may_open_is_refused(alone: SoloServer, mode: int) -> None:
    write_runtime(alone.data, "http://127.0.0.1:9", mode)
    with pytest.raises(ServerUnavailable, match=rf"others may open it \(mode 0{mode:o}\)") as refused:
        Client()
    assert refused.value.code == "runtime-file"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_runtime_file_of_somebody_else_is_refused(alone: SoloServer) -> None:
    os.chown(write_runtime(alone.data, "http://127.0.0.1:9"), 12345, -1)
    with pytest.raises(ServerUnavailable, match="belongs to user 12345"):
        Client()


def test_a_link_or_a_pipe_is_no_runtime_file(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("{}")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    os.mkfifo(tmp_path / "pipe", 0o600)
    for name in ("link", "pipe"):
        with pytest.raises(ServerUnavailable, match="should lead to your Gradient server"):
            read_runtime(tmp_path / name)
    assert read_runtime(tmp_path / "absent") is None


def test_clients_that_start_at_once_share_one_server(alone: SoloServer) -> None:
    program = "from gradient_jupyter import Client; print(Client().server().pid)"
    many = [
        subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) for _ in range(4)
    ]
    pids = {one.communicate()[0].strip() for one in many}
    assert len(pids) == 1
    assert pids != {""}
    with Client(start=False) as client:
        assert str(client.server().pid) in pids
        client.stop_server()
    with pytest.raises(ServerUnavailable) as gone:
        Client(start=False)
    assert gone.value.code == "not-running"


def test_an_older_server_hands_over(alone: SoloServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with Client() as client:
        old = client.server().pid
        monkeypatch.setattr("gradient_jupyter.client.solo.__version__", "0.2.0")
        # The server that is started is as old as this one, but it is ours: it is taken as it is.
        address = Solo().find()
        monkeypatch.undo()
    with Client(address.url, address.token) as client:
        assert client.server().pid != old
        client.stop_server()


def test_a_server_that_cannot_start_says_why(alone: SoloServer) -> None:
    alone.data.mkdir(mode=0o700)
    (alone.data / "gradient.sqlite").write_text("this is no database")
    with pytest.raises(ServerUnavailable, match=r"did not start: .") as failed:
        Client()
    assert failed.value.code == "start-failed"
    assert str(alone.data / "server.log") in failed.value.next


def test_a_server_elsewhere_that_holds_the_data_root_is_named(
    alone: SoloServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone.start()
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(alone.root / "another"))
    monkeypatch.setattr("gradient_jupyter.client.solo.RACES_S", (0.0, 0.0))
    with pytest.raises(ServerUnavailable, match="Another Gradient server holds"):
        Client()


def test_inside_a_hub_there_is_no_silent_fallback(alone: SoloServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUPYTERHUB_API_URL", "http://hub:8081/hub/api")
    with pytest.raises(ServerUnavailable) as refused:
        Client()
    assert refused.value.code == "hub-without-service"
    assert not alone.data.exists()


def test_the_environment_names_a_server(
    solo: SoloServer, enter: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    enter(solo)
    assert solo.runtime is not None
    monkeypatch.setenv("JUPYTERHUB_API_URL", "http://hub:8081/hub/api")
    monkeypatch.setenv("GRADIENT_URL", solo.runtime.url + "/")
    with pytest.raises(InvalidRequest, match="only an address"):
        Client()
    monkeypatch.setenv("GRADIENT_TOKEN", solo.runtime.token)
    with Client() as client:
        assert client.server().pid == solo.runtime.pid


@pytest.mark.parametrize(
    "url", ["ftp://127.0.0.1", "127.0.0.1:80", "http://", "http://me:pw@127.0.0.1", "http://a:99999"]
)
def test_an_address_that_is_none_is_the_callers_mistake(url: str) -> None:
    with pytest.raises(InvalidRequest, match="not the address of a server"):
        Client(url, TOKEN).server()


def test_starting_keeps_what_the_server_says(alone: SoloServer) -> None:
    with Client() as client:
        info = client.server()
    assert (info.mode, Path(info.data)) == ("solo", alone.data)
    assert (alone.data / "server.log").stat().st_mode & 0o077 == 0
    assert alone.data.stat().st_mode & 0o077 == 0
