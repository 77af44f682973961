"""Data from a URL: fetched by the server for a user, unpacked if it is an archive, kept as a dataset's
version.

Each hop of the way is asked of ``outbound`` and connected to at the address that was checked, so neither a
redirect nor a name that changes its mind leads elsewhere. No cookie, password or proxy of the server's goes
along. Whatever comes is counted while it comes. A version is there when it is whole; before, and whenever the
caller hangs up, nothing is.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import socket
import ssl
import zlib
from collections.abc import AsyncIterator, Iterator
from importlib import import_module
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal

import blake3
from sqlalchemy import Connection

from gradient_jupyter.control.data import datasets
from gradient_jupyter.control.fetching.outbound import Target
from gradient_jupyter.control.fetching.visits import Stay, to_the_end
from gradient_jupyter.control.people.access import Principal
from gradient_jupyter.resources.base import now_us
from gradient_jupyter.resources.dataset import AddedVersion, FetchDataset, FetchProgress
from gradient_jupyter.resources.errors import Forbidden, NoSpace, NotFound, OutsideFailed, TooLarge
from gradient_jupyter.resources.snapshot import Snapshot
from gradient_jupyter.store import datasets as rows
from gradient_jupyter.store import snapshots as snapshot_rows
from gradient_jupyter.workspace import durable
from gradient_jupyter.workspace.address import Address, file_name, parse
from gradient_jupyter.workspace.archive import is_archive
from gradient_jupyter.workspace.expand import expand
from gradient_jupyter.workspace.tarred import Unpacked
from gradient_jupyter.workspace.wording import size_text

if TYPE_CHECKING:
    import aiohttp
    from aiohttp.abc import ResolveResult

    from gradient_jupyter.control.plane import Plane

_REDIRECTS = 5
_PIECE = 1 << 18
_SILENT_S = 60.0
_MOVED = frozenset({301, 302, 303, 307, 308})


class _Stopped(Exception):
    """The caller has hung up."""


class _Fetch:
    """One fetch under way. Threads tell it what they have read."""

    def __init__(self) -> None:
        self.stage: Literal["waiting", "fetching", "unpacking"] = "waiting"
        self.done = 0
        self.total = 0
        self.stopped = False

    def begin(self, stage: Literal["fetching", "unpacking"], total: int) -> None:
        self.stage, self.done, self.total = stage, 0, total

    def went(self, count: int) -> None:
        if self.stopped:
            raise _Stopped
        self.done += count

    def stop(self) -> None:
        self.stopped = True


class Downloads:
    def __init__(self, plane: Plane) -> None:
        self._plane = plane
        self._under_way: dict[tuple[str, str], _Fetch] = {}

    def progress(self, principal: Principal, tag: str) -> FetchProgress:
        found = self._under_way.get((principal.owner, tag))
        if found is None:
            raise NotFound("No fetch of yours with this tag is under way.", code="no-such-fetch")
        return FetchProgress(stage=found.stage, bytes=found.done, total=found.total)

    async def fetch(self, principal: Principal, request: FetchDataset) -> AddedVersion:
        """Returns when it is durable. Cancelled, it leaves nothing behind."""
        plane = self._plane
        owner = datasets.owner_of(principal, request.owner)
        address = parse(request.url)
        plane.check_space()
        under_way = _Fetch()
        key = (principal.owner, request.tag) if request.tag else None
        if key:
            self._under_way[key] = under_way
        try:
            async with plane.visits.stay(principal.owner, address.source, "fetch-timeout") as stay:
                path = await self._get(address, stay, request, under_way)

                async def unpack() -> Unpacked:
                    under_way.begin("unpacking", path.stat().st_size)
                    limit = min(plane.settings.max_snapshot_bytes, stay.limits.room_bytes)
                    return await plane.visits.until_done(
                        under_way.stop, _Stopped,
                        lambda: expand(
                            path, plane.blobs, extract=request.extract, limit_bytes=limit, went=under_way.went
                        ),
                    )  # fmt: skip

                unpacked = await unpack()
                manifest = unpacked.manifest
                canonical = await plane.on_files(manifest.canonical)
                identity = blake3.blake3(canonical).hexdigest()
                snapshot = Snapshot(
                    id=identity, files=len(manifest.files), bytes=manifest.size, created_us=now_us()
                )

                def work(connection: Connection) -> AddedVersion:
                    plane.garbage.needed(manifest.digests())
                    snapshot_rows.hold(connection, owner, unpacked.blobs)
                    stored = snapshot_rows.create(connection, owner, snapshot)
                    dataset = rows.named(connection, [owner], request.name) or rows.create(
                        connection, owner, request.name, "", principal.user_id
                    )
                    if request.description is not None:
                        rows.describe(connection, dataset.id, request.description)
                    version, new = datasets.add(connection, dataset, stored, address.source, principal)
                    dataset = datasets.found(connection, [owner], dataset.id)
                    return AddedVersion(dataset=dataset, version=version, new=new)

                arrived = [*manifest.digests(), identity]
                plane.garbage.leases.take(owner, arrived)
                with plane.garbage.leases.pinned(arrived):
                    # Before they were pinned some may have been cleared away: nobody knew that they are
                    # needed.
                    if not await plane.on_files(plane.blobs.has_all, manifest.digests()):
                        unpacked = await unpack()
                    await plane.on_files(plane.blobs.put_bytes, canonical)
                    return await plane.database.write(work)
        finally:
            if key and self._under_way.get(key) is under_way:
                del self._under_way[key]

    async def _get(self, address: Address, stay: Stay, request: FetchDataset, under_way: _Fetch) -> Path:
        """The file that ``address`` leads to, under a name that says what it is."""
        await asyncio.to_thread(import_module, "aiohttp")  # the first time it takes a while
        import aiohttp

        here = address
        try:
            for _ in range(_REDIRECTS + 1):
                async with self._asked(here) as answer:
                    location = answer.headers.get("Location")
                    if answer.status in _MOVED and location is not None:
                        here = _followed(here, location)
                        continue
                    _check_answer(here, answer, request)
                    path = stay.home / _name(address, here, answer)
                    await self._take(here, answer, path, stay, request, under_way)
                    return path
        except aiohttp.ClientSSLError as error:
            raise OutsideFailed(
                f"The server of {here.source} cannot show who it is: its certificate is not trusted.",
                next="An administrator can name the authority to trust: GradientServer.outbound_ca_file.",
                code="tls-failed",
            ) from error
        except (aiohttp.ClientError, TimeoutError, ssl.SSLError, ValueError) as error:
            if isinstance(error, TimeoutError) and not isinstance(error, aiohttp.ServerTimeoutError):
                raise  # the whole took too long
            raise OutsideFailed(
                f"{here.source} could not be fetched: the other side broke off, fell silent or does not "
                "speak HTTP as it should.",
                next="Try again; if it repeats, download it yourself and send the file.",
                code="fetch-failed",
            ) from error
        raise OutsideFailed(
            f"{address.source} sends those who ask elsewhere more than {_REDIRECTS} times.",
            next="Open it in a browser and use the address that it ends at.",
            code="too-many-redirects",
        )

    @contextlib.asynccontextmanager
    async def _asked(self, address: Address) -> AsyncIterator[aiohttp.ClientResponse]:
        """The answer, from the one address that was checked; the certificate is that of the name."""
        import aiohttp
        from yarl import URL

        plane = self._plane
        target = await plane.visits.outbound.target(address.scheme, address.host, address.port)
        context = await asyncio.to_thread(ssl.create_default_context, cafile=plane.visits.outbound.ca_file)
        url = URL(address.url, encoded=True)
        if (url.scheme, url.host, url.port) != (address.scheme, address.host, address.port):
            raise ValueError("two readers of this URL do not agree on where it leads")
        connector = aiohttp.TCPConnector(
            resolver=_Pinned(target),  # type: ignore[arg-type]  # its base would load aiohttp with this module
            use_dns_cache=False,
            ssl=context,
            force_close=True,
            limit=1,
        )
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_SILENT_S, sock_read=_SILENT_S)
        async with (
            aiohttp.ClientSession(
                connector=connector, cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False,
                trust_env=False, timeout=timeout,
                headers={"User-Agent": "gradient-jupyter", "Accept-Encoding": "identity", "Accept": "*/*"},
            ) as session,
            session.get(url, allow_redirects=False) as answer,
        ):  # fmt: skip
            try:
                yield answer
            finally:
                # At once: whoever is hung up on must not keep the connection by not taking leave.
                connection = answer.connection
                if connection is not None and connection.transport is not None:
                    connection.transport.abort()
                answer.close()
                await connector.close(abort_ssl=True)

    async def _take(
        self,
        here: Address,
        answer: aiohttp.ClientResponse,
        path: Path,
        stay: Stay,
        request: FetchDataset,
        under_way: _Fetch,
    ) -> None:
        most = stay.limits.bytes
        if (length := answer.content_length or 0) > most:
            raise _too_large(here, stay)
        under_way.begin("fetching", length)
        decode = _decoder(here, path.name, answer)
        digest = hashlib.sha256()
        size = 0
        on_thread = self._plane.visits.on_thread
        with path.open("xb", buffering=0) as file:
            async for piece in answer.content.iter_chunked(_PIECE):
                under_way.went(len(piece))
                for data in decode.feed(piece):
                    size += len(data)
                    if size > most:
                        raise _too_large(here, stay)
                    # To its end, whoever hangs up: the file is not to be closed under it.
                    await to_the_end(on_thread(_write, file, digest, data))
        decode.finish()
        if request.sha256 is not None and digest.hexdigest() != request.sha256.lower():
            raise OutsideFailed(
                f"What {here.source} yields has another SHA-256 than was given: {digest.hexdigest()}.",
                next="It was changed, or the digest is that of another file. Do not use it before you know.",
                code="sha256-mismatch",
            )


class _Pinned:
    """Resolves one host to the address that was checked, and no other: ``aiohttp.abc.AbstractResolver``."""

    def __init__(self, target: Target) -> None:
        self._target = target

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        if (host, port) != (self._target.host, self._target.port):
            raise OSError(f"{host} is not where this connection was to lead")
        address = self._target.address
        return [
            {
                "hostname": host, "host": address, "port": port, "proto": 0, "flags": socket.AI_NUMERICHOST,
                "family": socket.AF_INET6 if ":" in address else socket.AF_INET,
            }
        ]  # fmt: skip

    async def close(self) -> None:
        pass


class _Identity:
    """What comes is what is kept."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        yield data

    def finish(self) -> None:
        pass


class _Inflating(_Identity):
    """Takes off a compression that the other side has put around it although nobody asked for one. Never
    makes more than a piece at a time."""

    def __init__(self, here: Address, wbits: int) -> None:
        self._here = here
        self._inflate = zlib.decompressobj(wbits)

    def feed(self, data: bytes) -> Iterator[bytes]:
        while data:
            if self._inflate.eof:
                raise self._bad()
            try:
                made = self._inflate.decompress(data, _PIECE)
            except zlib.error:
                raise self._bad() from None
            if self._inflate.unused_data:
                raise self._bad()
            data = self._inflate.unconsumed_tail
            yield made

    def finish(self) -> None:
        if not self._inflate.eof:
            raise self._bad()

    def _bad(self) -> OutsideFailed:
        return OutsideFailed(
            f"{self._here.source} answers in a compression that is damaged.",
            next="Try again; if it repeats, download it yourself and send the file.",
            code="fetch-failed",
        )


def _decoder(here: Address, name: str, answer: aiohttp.ClientResponse) -> _Identity:
    encoding = answer.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding in ("gzip", "x-gzip") and name.lower().endswith((".gz", ".tgz", ".gzip")):
        return _Identity()  # many servers say of a file that is compressed that their answer were
    if encoding in ("", "identity"):
        return _Identity()
    if encoding in ("gzip", "x-gzip"):
        return _Inflating(here, 31)
    if encoding == "deflate":
        return _Inflating(here, zlib.MAX_WBITS)
    raise OutsideFailed(
        f"{here.source} answers in a compression that was not asked for.",
        next="Download it yourself and send the file.",
        code="fetch-failed",
    )


def _followed(here: Address, location: str) -> Address:
    there = here.follow(location)
    if here.scheme == "https" and there.scheme != "https":
        raise Forbidden(
            f"{here.source} sends those who ask to an address without encryption, and that is not followed.",
            next="Look for an https:// address of it.",
            code="address-refused",
        )
    return there


def _check_answer(here: Address, answer: aiohttp.ClientResponse, request: FetchDataset) -> None:
    if answer.status != 200:
        raise OutsideFailed(
            f"{here.source} answers with the status {answer.status}.",
            next="Open it in a browser. What needs a login: download it and send the file.",
            code="url-refused",
        )
    if request.etag is None:
        return
    said = answer.headers.get("ETag", "")
    if _bare(said) != _bare(request.etag):
        raise OutsideFailed(
            f"{here.source} has the version (ETag) {said[:100]!a} now, not {request.etag[:100]!a}.",
            next="Take the new one on purpose: leave out --etag, or give the new.",
            code="etag-mismatch",
        )


def _bare(etag: str) -> str:
    return etag.strip().removeprefix("W/").strip('"')


def _name(asked: Address, here: Address, answer: aiohttp.ClientResponse) -> str:
    """The first name that says that it is an archive, else the first there is."""
    said = answer.content_disposition.filename if answer.content_disposition else None
    names = [name for name in (asked.name, file_name(said or ""), here.name) if name]
    return next((name for name in names if is_archive(name)), names[0] if names else "data")


def _write(file: BinaryIO | FileIO, digest: hashlib._Hash, data: bytes) -> None:
    digest.update(data)
    try:
        durable.write_all(file.fileno(), data)
    except OSError as error:
        if error.errno not in durable.NO_SPACE:
            raise
        raise NoSpace("The server's disk has no room for what was to be fetched.") from error


def _too_large(here: Address, stay: Stay) -> NoSpace | TooLarge:
    if stay.limits.room_bytes < stay.limits.most_bytes:
        return NoSpace("The server's disk has no room for what was to be fetched.")
    return TooLarge(
        f"What {here.source} yields is larger than the limit of {size_text(stay.limits.most_bytes)}.",
        next="Download it and send the file, or ask the administrator: GradientServer.outbound_max_bytes.",
        code="download-too-large",
    )
