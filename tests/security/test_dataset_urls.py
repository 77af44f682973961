"""What the server fetches as a dataset: never from where it may not go, never more than it may, never half.

Boundary B2, abuse 11 (a URL into the inner network), rows 23 to 28; abuse 10 (bombs). The far side is a real
TLS server of the test's own authority; a silent listener plays what lies behind the server.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import io
import os
import sys
import tarfile
import threading
import zlib
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from gitserver import GitServer, Hang, Silent, redirect, refuse

sys.path.insert(0, str(Path(__file__).parents[1] / "control"))

from conftest import plane_at
from sending import ANN, BOB

from gradient_jupyter.control.data import datasets
from gradient_jupyter.control.fetching.outbound import Outbound, Resolve, parse_rule, resolve
from gradient_jupyter.control.plane import Plane
from gradient_jupyter.resources.dataset import AddedVersion, FetchDataset
from gradient_jupyter.resources.errors import GradientError, NotFound
from gradient_jupyter.workspace.address import parse

Answer = Callable[[BaseHTTPRequestHandler], None]
Fetch = Callable[..., AddedVersion]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[GitServer]:
    found = GitServer(tmp_path / "server")
    yield found
    found.stop()


@pytest.fixture
def inner() -> Iterator[Silent]:
    """What must stay silent. The test fails when it heard anything."""
    with Silent() as listener:
        yield listener
        assert not listener.heard


@pytest.fixture
def fetch(data: Path, server: GitServer) -> Fetch:
    """Fetches as the server does. Nothing is left behind, and what failed made nothing."""

    def fetch(
        url: str,
        *,
        allow: list[str] | None = None,
        resolve: Resolve = resolve,
        ca_file: str | None = str(server.cert),
        most: int = 1 << 20,
        timeout_s: float = 60,
        **asked: object,
    ) -> AddedVersion:
        rules = [f"localhost:{server.port}", f"git.test:{server.port}"] if allow is None else allow

        async def run() -> AddedVersion:
            async with plane_at(
                data, outbound_ca_file=ca_file, outbound_max_bytes=most, outbound_timeout_s=timeout_s,
                max_snapshot_bytes=most,
            ) as plane:  # fmt: skip
                outbound = Outbound([parse_rule(rule) for rule in rules], ca_file=ca_file, resolve=resolve)
                plane.visits.outbound = outbound
                try:
                    return await plane.downloads.fetch(ANN, FetchDataset(name="leaf", url=url, **asked))
                except BaseException:
                    await nothing_came(plane)
                    raise
                finally:
                    assert list(plane.layout.fetches.glob("*")) == []

        return asyncio.run(run())

    return fetch


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


async def nothing_came(plane: Plane) -> None:
    assert (await datasets.page(plane, ANN, 10, None, None)).items == ()
    assert list(plane.blobs.names()) == []
    assert list((plane.layout.blobs / "tmp").iterdir()) == []


def refused(fetch: Fetch, *args: object, **more: object) -> str:
    with pytest.raises(GradientError) as error:
        fetch(*args, **more)
    assert error.value.message.endswith(".") and 400 <= error.value.status < 500
    return error.value.code


def says(body: bytes, *, status: int = 200, length: int | None = None, **headers: str) -> Answer:
    """An answer with this body. ``length``: what it says of it, if not the truth; -1: nothing."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        if length != -1:
            handler.send_header("Content-Length", str(len(body) if length is None else length))
        handler.send_header("Connection", "close")
        handler.end_headers()
        handler.wfile.write(body)
        handler.close_connection = True

    return answer


def url(server: GitServer, path: str, host: str = "localhost") -> str:
    return f"https://{host}:{server.port}{path}"


def tar(**files: bytes) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return made.getvalue()


# What comes.


def test_an_archive_is_unpacked_and_any_other_file_is_kept(fetch: Fetch, server: GitServer) -> None:
    packed = tar(a=b"1", b=b"22")
    server.answers = {
        "/leaf.tar.gz": says(packed), "/table.csv": says(b"1,2"), "/": says(b"named by nothing"),
    }  # fmt: skip
    added = fetch(url(server, "/leaf.tar.gz?signature=secret"))
    assert (added.version.files, added.version.bytes, added.version.number) == (2, 3, 1)
    assert added.version.source == url(server, "/leaf.tar.gz"), "a signature is not stored"
    assert fetch(url(server, "/leaf.tar.gz")).new is False
    kept = fetch(url(server, "/leaf.tar.gz"), extract=False)
    assert (kept.version.files, kept.version.bytes) == (1, len(packed))
    assert fetch(url(server, "/table.csv")).version.bytes == 3
    assert fetch(url(server, "/")).version.files == 1


def test_the_name_may_stand_in_the_answer_or_at_the_end_of_the_way(fetch: Fetch, server: GitServer) -> None:
    packed = tar(a=b"1", b=b"22")
    disposition = {"Content_Disposition": 'attachment; filename="../../leaf.tgz"'}
    server.answers = {
        "/download": says(packed, **disposition), "/latest": redirect("/v2/leaf.tgz"), "/v2/": says(packed),
    }  # fmt: skip
    assert fetch(url(server, "/download?id=5")).version.files == 2
    assert fetch(url(server, "/latest")).version.files == 2


def test_what_it_must_be_is_checked(fetch: Fetch, server: GitServer) -> None:
    server.answers = {"/x": says(b"data", ETag='W/"v1"')}
    where = url(server, "/x")
    assert refused(fetch, where, sha256="0" * 64) == "sha256-mismatch"
    assert refused(fetch, where, etag="v2") == "etag-mismatch"
    server.answers = {"/y": says(b"data"), **server.answers}
    assert refused(fetch, url(server, "/y"), etag="v1") == "etag-mismatch"
    assert fetch(where, sha256=hashlib.sha256(b"data").hexdigest().upper(), etag='"v1"').new


def test_a_compression_nobody_asked_for_is_taken_off(fetch: Fetch, server: GitServer) -> None:
    body, packed = b"text" * 1000, tar(a=b"1")
    server.answers = {
        "/gzip": says(gzip.compress(body), Content_Encoding="gzip"),
        "/deflate": says(zlib.compress(body), Content_Encoding="deflate"),
        "/leaf.tar.gz": says(packed, Content_Encoding="x-gzip"),  # what many servers say of such a file
        "/br": says(body, Content_Encoding="br"),
        "/cut": says(gzip.compress(body)[:-9], Content_Encoding="gzip"),
        "/more": says(gzip.compress(body) + b"x", Content_Encoding="gzip"),
    }
    for path in ("/br", "/cut", "/more"):
        assert refused(fetch, url(server, path)) == "fetch-failed"
    assert fetch(url(server, "/gzip")).version.bytes == len(body)
    assert fetch(url(server, "/deflate")).version.bytes == len(body)
    assert fetch(url(server, "/leaf.tar.gz")).version.bytes == 1


# Where it goes.


def test_it_goes_where_the_administrator_lets_it_and_nowhere_else(fetch: Fetch, inner: Silent) -> None:
    port = inner.port
    for where in (
        f"https://127.0.0.1:{port}/", f"https://localhost:{port}/", f"https://[::1]:{port}/",
        f"https://[::ffff:127.0.0.1]:{port}/", f"http://127.0.0.1:{port}/", "https://127.0.0.1/",
        "https://169.254.169.254/latest/meta-data", "http://169.254.169.254/", "https://10.0.0.1/x",
        "https://localhost/x", "http://localhost/x", "https://metadata.google.internal:8080/",
    ):  # fmt: skip
        assert refused(fetch, where) == "address-refused", where


@pytest.mark.parametrize(
    "text",
    [
        "file:///etc/passwd", "ftp://example.com/x", "//example.com/x", "example.com/x", "https://", "https:///x",
        "https://user:secret@example.com/x", "https://token@example.com/", "https://2130706433/x", "https://0x7f.1/",
        "https://0177.0.0.1/", "https://127.1/", "https://exa mple.com/", "https://example.com\\@evil/", "https://é.fr/",
        "https://example.com:0/", "https://example.com:99999/", "https://example.com/\r\nHost: x", "gopher://x/",
        "https://[::1%25eth0]/", "https://[::1/", "git+https://example.com/x", "https://example.com/%zz", "",
    ],
)  # fmt: skip
def test_what_could_be_read_in_two_ways_is_not_read_at_all(text: str) -> None:
    with pytest.raises(GradientError) as error:
        parse(text)
    assert error.value.code == "bad-url" and "secret" not in error.value.message


def test_a_redirect_is_asked_of_the_same_policy(fetch: Fetch, server: GitServer, inner: Silent) -> None:
    for to in (
        f"https://127.0.0.1:{inner.port}/", f"https://localhost:{inner.port}/", f"//localhost:{inner.port}/x",
        "https://169.254.169.254/latest", f"http://localhost:{server.port}/down", "http://example.com/",
    ):  # fmt: skip
        server.answers = {"/x": redirect(to)}
        assert refused(fetch, url(server, "/x")) == "address-refused", to
    for to in ("file:///etc/passwd", "ftp://x/", "https://u:p@localhost/"):
        server.answers = {"/x": redirect(to)}
        assert refused(fetch, url(server, "/x")) == "bad-url", to


def test_a_circle_of_redirects_ends(fetch: Fetch, server: GitServer) -> None:
    server.answers = {"/x": redirect("/x")}
    assert refused(fetch, url(server, "/x")) == "too-many-redirects"
    assert len(server.seen) == 6
    server.answers = {"/end": says(b"1"), **{f"/{n}": redirect(f"/{n + 1}") for n in range(5)}}
    server.answers["/5"] = says(b"there")
    assert fetch(url(server, "/0")).version.bytes == 5


def test_a_name_that_changes_its_mind_changes_nothing(fetch: Fetch, server: GitServer) -> None:
    """Rebinding: the address that was checked is the one that is connected to."""
    answers = ["169.254.169.254", "127.0.0.1", "169.254.169.254"]

    async def rebinding(host: str, port: int) -> list[str]:
        assert host == "git.test"
        return [answers.pop(0)]

    server.answers = {"/x": says(b"data")}
    assert refused(fetch, url(server, "/x", "git.test"), resolve=rebinding) == "address-refused"
    assert fetch(url(server, "/x", "git.test"), resolve=rebinding).version.bytes == 4
    assert answers == ["169.254.169.254"], "nobody resolved a second time"


def test_a_name_with_one_inner_address_among_others_is_refused(
    fetch: Fetch, server: GitServer, inner: Silent
) -> None:
    async def both(host: str, port: int) -> list[str]:
        return ["8.8.8.8", "169.254.169.254"]

    assert refused(fetch, "https://git.test/x", resolve=both) == "address-refused"


def test_a_certificate_that_is_not_trusted_or_is_anothers_ends_it(fetch: Fetch, server: GitServer) -> None:
    async def here(host: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    server.answers = {"/x": says(b"data")}
    assert refused(fetch, url(server, "/x"), ca_file=None) == "tls-failed"
    other = url(server, "/x", "evil.test")
    assert refused(fetch, other, allow=[f"evil.test:{server.port}"], resolve=here) == "tls-failed"
    assert server.seen == []


def test_nothing_of_the_servers_own_goes_along(
    fetch: Fetch, server: GitServer, inner: Silent, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """No proxy from the environment, no password from a .netrc, no cookie from one answer to the next."""
    netrc = tmp_path / ".netrc"
    netrc.write_text("machine localhost login me password secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "http_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{inner.port}")

    def first(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(302)
        handler.send_header("Set-Cookie", "session=1; Path=/")
        handler.send_header("Location", "/y")
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    server.answers = {"/x": first, "/y": says(b"data")}
    assert fetch(url(server, "/x")).new
    assert server.credentials == []


# How much.


def test_more_than_the_limit_is_refused_whatever_is_said_of_it(fetch: Fetch, server: GitServer) -> None:
    def endless(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        while True:
            handler.wfile.write(bytes(1 << 16))

    server.answers = {
        "/said": says(b"", length=1 << 40), "/endless": endless, "/silent": says(bytes(3 << 20), length=-1),
        "/bomb": says(gzip.compress(bytes(200 << 20)), Content_Encoding="gzip"),
    }  # fmt: skip
    for path in server.answers:
        assert refused(fetch, url(server, path)) == "download-too-large", path


def test_archives_that_unfold_beyond_the_limit_are_refused(fetch: Fetch, server: GitServer) -> None:
    import zipfile

    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x", bytes(20 << 20))
    hidden = bytearray(made.getvalue())
    at = hidden.rfind(b"PK\x01\x02")
    hidden[at + 24 : at + 28] = (5).to_bytes(4, "little")  # says that it unfolds to five bytes
    server.answers = {
        "/a.tgz": says(tar(x=bytes(20 << 20))), "/a.zip": says(made.getvalue()),
        "/lie.zip": says(bytes(hidden)),
        "/out.tgz": says(tar(**{"../x": b"1"})), "/no.zip": says(b"no zip"), "/no.tar.xz": says(b"no tar"),
    }  # fmt: skip
    for path, code in {
        "/a.tgz": "dataset-too-large", "/a.zip": "dataset-too-large", "/lie.zip": "archive-refused",
        "/out.tgz": "archive-refused", "/no.zip": "archive-refused", "/no.tar.xz": "archive-refused",
    }.items():  # fmt: skip
        assert refused(fetch, url(server, path)) == code, path


def test_one_that_breaks_off_or_lies_about_its_length_is_not_believed(
    fetch: Fetch, server: GitServer
) -> None:
    def reset(handler: BaseHTTPRequestHandler) -> None:
        handler.connection.close()

    def garbage(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"SSH-2.0-OpenSSH\r\n" + b"x" * 70000)
        handler.close_connection = True

    def chunked(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nZZ\r\n")
        handler.close_connection = True

    server.answers = {
        "/short": says(b"half", length=8), "/reset": reset, "/garbage": garbage, "/chunked": chunked,
        "/many": says(b"x", **{f"X-{n}": "y" * 8000 for n in range(200)}),
        "/negative": says(b"x", length=-5), "/long": says(b"x", X="y" * 70000),
    }  # fmt: skip
    for path in server.answers:
        if path != "/many":
            assert refused(fetch, url(server, path)) == "fetch-failed", path


def test_a_refusal_of_the_far_side_is_told(fetch: Fetch, server: GitServer) -> None:
    server.answers = {f"/{status}": refuse(status) for status in (204, 206, 304, 401, 403, 404, 500)}
    for path in server.answers:
        assert refused(fetch, url(server, path)) == "url-refused", path
    server.answers = {"/x": refuse(301)}
    assert refused(fetch, url(server, "/x")) == "url-refused"


def test_one_that_never_ends_is_given_up(fetch: Fetch, server: GitServer) -> None:
    def slow(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "1000000")
        handler.end_headers()
        while True:
            handler.wfile.write(b"x")
            handler.wfile.flush()
            never.wait(0.05)

    never = threading.Event()
    server.answers = {"/never": Hang(), "/slow": slow}
    assert refused(fetch, url(server, "/never"), timeout_s=1) == "fetch-timeout"
    assert refused(fetch, url(server, "/slow"), timeout_s=1) == "fetch-timeout"


# Who asks.


def test_hanging_up_ends_it_and_how_far_it_is_is_told_to_nobody_else(data: Path, server: GitServer) -> None:
    hang = Hang()

    def begins(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "5000")
        handler.end_headers()
        handler.wfile.write(bytes(1000))
        handler.wfile.flush()
        hang(handler)

    server.answers = {"/x": begins}

    async def run() -> None:
        async with plane_at(data, outbound_ca_file=str(server.cert)) as plane:
            plane.visits.outbound = Outbound(
                [parse_rule(f"localhost:{server.port}")], ca_file=str(server.cert)
            )
            tag = "t" * 20
            request = FetchDataset(name="leaf", url=url(server, "/x"), tag=tag)
            with pytest.raises(NotFound):
                plane.downloads.progress(ANN, tag)
            task = asyncio.create_task(plane.downloads.fetch(ANN, request))
            while not task.done():
                await asyncio.sleep(0.01)
                try:
                    far = plane.downloads.progress(ANN, tag)
                except NotFound:
                    continue
                if far.bytes:
                    break
            assert (far.stage, far.bytes, far.total) == ("fetching", 1000, 5000)
            with pytest.raises(NotFound):
                plane.downloads.progress(BOB, tag)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.to_thread(hang.left.wait, 60)
            assert hang.left.is_set()
            await nothing_came(plane)
            assert os.listdir(plane.layout.fetches) == []
            with pytest.raises(NotFound):
                plane.downloads.progress(ANN, tag)

    asyncio.run(run())
