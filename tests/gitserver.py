"""A real git server for tests: ``git http-backend`` behind TLS on loopback; and listeners that stay silent.

``GitServer.answers`` puts other answers in the place of git's: a redirect, a refusal, silence.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import shutil
import socket
import ssl
import subprocess
import tempfile
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

#: Names the certificate is for. ``git.test`` is known to no resolver.
NAMES = ("localhost", "git.test", "other.test")

Answer = Callable[[BaseHTTPRequestHandler], None]
#: Contents by path; a tuple is a link, ``...`` as a value a submodule.
Tree = dict[str, "bytes | str | tuple[str]"]


@functools.cache
def certificate() -> tuple[Path, Path]:
    """A certificate that is its own authority, and its key; one for all tests of this process."""
    directory = Path(tempfile.mkdtemp(prefix="gradient-tls-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    cert, key = directory / "cert.pem", directory / "key.pem"
    names = ",".join((*(f"DNS:{name}" for name in NAMES), "IP:127.0.0.1", "IP:::1"))
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=git.test",
            "-addext", f"subjectAltName={names}", "-keyout", str(key), "-out", str(cert),
        ],
        check=True, capture_output=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    return cert, key


def run_git(*words: str | Path, cwd: Path, input: bytes | None = None, check: bool = True) -> str:
    """git without anybody's configuration."""
    done = subprocess.run(
        ["git", "-c", "protocol.file.allow=always", *map(str, words)], cwd=cwd, input=input, check=False,
        capture_output=True,
        env={
            "PATH": os.environ["PATH"], "HOME": str(cwd), "GIT_CONFIG_NOSYSTEM": "1", "LC_ALL": "C",
            "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a",
            "GIT_COMMITTER_EMAIL": "a@b", "GIT_AUTHOR_DATE": "1700000000 +0000",
            "GIT_COMMITTER_DATE": "1700000000 +0000",
        },
    )  # fmt: skip
    assert not check or done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().strip()


class GitServer:
    """Serves the repositories below ``root`` at ``https://…:port/NAME.git``."""

    def __init__(self, directory: Path, *, tls: bool = True) -> None:
        self.root = directory / "repositories"
        self.root.mkdir(parents=True)
        self.cert, key = certificate()
        self.answers: dict[str, Answer] = {}
        self.seen: list[str] = []
        self.credentials: list[str] = []
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        if tls:
            self._server.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._server.context.load_cert_chain(self.cert, key)
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def url(self, name: str = "leaf", ref: str = "", host: str = "localhost") -> str:
        """The workspace address of a repository here."""
        return f"git+https://{host}:{self.port}/{name}.git" + (f"@{ref}" if ref else "")

    def repository(self, name: str = "leaf") -> Path:
        """The bare repository, made empty when it is absent."""
        path = self.root / f"{name}.git"
        if not path.exists():
            run_git("init", "-q", "--bare", "-b", "main", path, cwd=self.root)
        return path

    def commit(self, tree: Tree, name: str = "leaf", branch: str = "main") -> str:
        """A commit that holds exactly ``tree``, on a branch. Its id."""
        repository = self.repository(name)
        stream = [
            f"commit refs/heads/{branch}\ncommitter a <a@b> 1700000000 +0000\ndata 1\n.\ndeleteall\n".encode()
        ]
        for path, content in tree.items():
            link = isinstance(content, tuple)
            data = content[0] if isinstance(content, tuple) else content
            data = data.encode() if isinstance(data, str) else data
            mode = "120000" if link else "100755" if path.endswith(".sh") else "100644"
            stream.append(f"M {mode} inline {path}\ndata {len(data)}\n".encode() + data + b"\n")
        run_git("fast-import", "--quiet", "--force", cwd=repository, input=b"".join(stream))
        return run_git("rev-parse", branch, cwd=repository)

    def tree(self, entries: list[tuple[str, str, bytes]], name: str = "leaf") -> str:
        """A commit on ``main`` whose tree is made of (mode, object, name) as they stand, however hostile."""
        repository = self.repository(name)
        raw = b"".join(f"{mode} ".encode() + path + b"\0" + bytes.fromhex(oid) for mode, oid, path in entries)
        tree = run_git("hash-object", "-t", "tree", "-w", "--stdin", "--literally", cwd=repository, input=raw)
        commit = run_git("commit-tree", "-m", "hostile", tree, cwd=repository)
        run_git("update-ref", "refs/heads/main", commit, cwd=repository)
        return commit

    def git(self, *words: str, name: str = "leaf") -> str:
        return run_git(*words, cwd=self.repository(name))

    def blob(self, content: bytes, name: str = "leaf") -> str:
        return run_git("hash-object", "-w", "--stdin", cwd=self.repository(name), input=content)


class Silent:
    """A listener on loopback that nobody may connect to."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        self._socket = socket.create_server((host, port))
        self._socket.setblocking(False)
        self.port: int = self._socket.getsockname()[1]

    def __enter__(self) -> Silent:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    @property
    def heard(self) -> bool:
        """Whether anybody connected: the kernel keeps connections until they are accepted."""
        try:
            self._socket.accept()[0].close()
        except BlockingIOError:
            return False
        return True


class Hang:
    """An answer that never comes. ``arrived``: somebody waits for it; ``left``: they do no more."""

    def __init__(self) -> None:
        self.arrived = threading.Event()
        self.left = threading.Event()

    def __call__(self, handler: BaseHTTPRequestHandler) -> None:
        self.arrived.set()
        with contextlib.suppress(OSError):
            while handler.connection.recv(65536):
                pass
        self.left.set()
        handler.close_connection = True


def working_in(directory: Path) -> dict[int, str]:
    """Processes whose working directory is below ``directory``: pid to command line."""
    found = {}
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and os.readlink(entry / "cwd").startswith(str(directory)):
                found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    return found


def redirect(location: str) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(301)
        handler.send_header("Location", location)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


def refuse(status: int, **headers: str) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    context: ssl.SSLContext | None = None

    def finish_request(self, request: object, client_address: object) -> None:
        assert isinstance(request, socket.socket)
        # A client that only looks whether somebody is there, or leaves in the middle, is no error.
        with contextlib.suppress(OSError):
            wire = self.context.wrap_socket(request, server_side=True) if self.context else request
            with wire:
                self.RequestHandlerClass(wire, client_address, self)  # type: ignore[arg-type]

    def handle_error(self, request: object, client_address: object) -> None:
        pass


def _handler(server: GitServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._serve()

        do_POST = do_GET

        def _serve(self) -> None:
            server.seen.append(f"{self.command} {self.path}")
            server.credentials += [
                value
                for name, value in self.headers.items()
                if name.lower() in ("authorization", "cookie", "proxy-authorization")
            ]
            path = urlsplit(self.path).path
            for prefix, answer in list(server.answers.items()):
                if path.startswith(prefix):
                    answer(self)
                    return
            self._git(path)

        def _git(self, path: str) -> None:
            backend = subprocess.run(
                ["git", "http-backend"], input=self._body(), capture_output=True, check=False,
                env={
                    "PATH": os.environ["PATH"], "GIT_PROJECT_ROOT": str(server.root),
                    "GIT_HTTP_EXPORT_ALL": "1",
                    "GIT_CONFIG_NOSYSTEM": "1", "HOME": str(server.root), "PATH_INFO": unquote(path),
                    "QUERY_STRING": urlsplit(self.path).query, "REQUEST_METHOD": self.command,
                    "CONTENT_TYPE": self.headers.get("Content-Type", ""),
                    "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
                    "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""), "REMOTE_ADDR": "127.0.0.1",
                },
            )  # fmt: skip
            head, _, body = backend.stdout.partition(b"\r\n\r\n")
            headers = [line.split(": ", 1) for line in head.decode().split("\r\n") if line]
            status = next((value for name, value in headers if name == "Status"), "200 OK")
            self.send_response(int(status.split()[0]))
            for name, value in headers:
                if name != "Status":
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") == "chunked":
                body = b""
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return body
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler


def have_parts() -> str | None:
    """Why there can be no git server here, or None."""
    for need in ("git", "openssl"):
        if shutil.which(need) is None:
            return f"{need} is not installed"
    return None


def outbound_options(server: GitServer) -> tuple[str, ...]:
    """What lets a server of ours go there."""
    return (
        f"--GradientServer.outbound_allow=['localhost:{server.port}']",
        f"--GradientServer.outbound_ca_file={server.cert}",
    )
