"""What a hostile or unlucky sender of snapshots can do over HTTP: nothing."""

from __future__ import annotations

import os
import socket
from urllib.parse import urlsplit

import blake3
import pytest

from gradient_jupyter.resources.snapshot import CHUNK_BYTES, WHOLE_BYTES
from gradient_jupyter.workspace.wire import END, HEADER, MAGIC, RAW

LARGE = WHOLE_BYTES + 1
D = [f"{n:064x}" for n in range(1, 20)]


def digest_of(data):
    return blake3.blake3(data).hexdigest()


def blob(data, **lies):
    fields = {
        "digest": blake3.blake3(data).digest(),
        "encoding": RAW,
        "decoded": len(data),
        "encoded": len(data),
    }
    return HEADER.pack(*(fields | lies).values()) + data


def a_pack(*contents):
    end = HEADER.pack(bytes(32), END, len(contents), sum(map(len, contents)))
    return MAGIC + b"".join(map(blob, contents)) + end


def a_file(path="a", **fields):
    return {"kind": "file", "path": path, "size": 1, "digest": D[0], **fields}


def send(solo, *contents):
    assert solo.request("POST", "/blobs", body=a_pack(*contents)).status == 201


def cut_off(solo, body, length):
    """Sends ``body`` and goes away, although ``length`` bytes were announced. What the server still says."""
    where = urlsplit(solo.runtime.url)
    head = (
        f"POST /api/v1/blobs HTTP/1.1\r\nHost: {where.netloc}\r\n"
        f"Authorization: Bearer {solo.runtime.token}\r\nContent-Length: {length}\r\n\r\n"
    )
    answer = b""
    with socket.create_connection((where.hostname, where.port), timeout=60) as connection:
        connection.sendall(head.encode() + body)
        connection.shutdown(socket.SHUT_WR)
        while piece := connection.recv(4096):
            answer += piece
    return answer


def refused(solo, *entries, path="/snapshots"):
    answer = solo.request("POST", path, json_body={"entries": entries})
    return answer.status, answer.json().get("error", {}).get("code"), answer.json()


def missing(solo, *entries):
    answer = solo.request("POST", "/snapshots/missing", json_body={"entries": entries})
    assert answer.status == 200, answer.data
    return answer.json()["missing"]


def test_a_digest_that_was_never_sent_is_missing_whatever_the_server_holds(solo):
    """The manifest of another snapshot lies among the blobs, but nobody has sent it as a file."""
    inner = os.urandom(10)
    send(solo, inner)
    identity = solo.request(
        "POST", "/snapshots", json_body={"entries": [a_file(size=10, digest=digest_of(inner))]}
    ).json()["id"]
    assert (solo.data / "blobs" / identity[:2] / identity).exists()
    entry = a_file(digest=identity, size=5)
    assert missing(solo, entry) == [identity]
    assert refused(solo, entry)[:2] == (409, "missing-blobs")


@pytest.mark.parametrize("size", [0, 9, 11, WHOLE_BYTES])
def test_a_size_that_lies_about_what_was_sent_is_refused(solo, size):
    data = os.urandom(10)
    send(solo, data)
    status, code, answer = refused(solo, a_file(digest=digest_of(data), size=size))
    assert (status, code) == (400, "bad-manifest")
    assert "it has 10" in answer["error"]["message"]


def test_a_chunk_of_another_size_than_its_place_has_is_refused(solo):
    data = [os.urandom(100), b"x"]
    send(solo, *data)
    chunks = [digest_of(data[0])] * 8 + [digest_of(data[1])]
    status, code, answer = refused(solo, a_file(size=LARGE, chunks=chunks))
    assert (status, code) == (400, "bad-manifest")
    assert f"has {CHUNK_BYTES} bytes; it has 100" in answer["error"]["message"]


@pytest.mark.parametrize(
    "fields",
    [
        {"size": LARGE},
        {"size": LARGE, "chunks": []},
        {"size": LARGE, "chunks": D[:8]},
        {"size": LARGE, "chunks": D[:10]},
        {"size": WHOLE_BYTES, "chunks": D[:8]},
        {"size": 1, "chunks": [D[0]]},
        {"size": 1, "chunks": []},
        {"size": LARGE, "chunks": [*D[:8], D[0]]},
        {"size": LARGE, "chunks": ["x"] * 9},
        {"size": LARGE, "chunks": None},
        {"size": -1},
        {"size": 2**53 + 1},
        {"size": 2**64},
        {"size": 1.5},
        {"digest": "0" * 63},
        {"path": ""},
        {"unknown": 1},
    ],
)
def test_an_entry_that_cannot_be_is_refused(solo, fields):
    for path in ("/snapshots", "/snapshots/missing"):
        status, code, _ = refused(solo, a_file(**fields), path=path)
        assert status == 400
        assert code in ("bad-manifest", "bad-body", "bad-json")


def test_a_million_chunks_are_too_much_before_they_are_looked_at(solo):
    count = 10**6
    entry = a_file(size=count * CHUNK_BYTES, digest="f" * 64, chunks=[D[0]] * count)
    status, code, _ = refused(solo, entry)
    assert (status, code) == (413, "body-too-large")
    entry = a_file(size=count // 2 * CHUNK_BYTES, digest="f" * 64, chunks=[D[0]] * (count // 2))
    status, code, answer = refused(solo, entry)
    assert (status, code) == (413, "snapshot-too-large")
    assert "max_snapshot_bytes" in answer["error"]["next"]


def test_one_chunk_cannot_stand_for_more_than_the_server_takes(solo):
    """A few stored bytes, named again and again: 16 GiB when unpacked, and one byte more."""
    count = 16 * 2**30 // CHUNK_BYTES
    assert (
        refused(solo, a_file(size=count * CHUNK_BYTES, digest="f" * 64, chunks=[D[0]] * count))[1]
        == "missing-blobs"
    )
    files = [a_file(path=f"f{n}", size=WHOLE_BYTES) for n in range(257)]
    assert refused(solo, *files)[:2] == (413, "snapshot-too-large")


def test_a_blob_over_the_limit_comes_in_chunks_or_not_at_all(solo):
    body = MAGIC + HEADER.pack(bytes(32), RAW, LARGE, LARGE)
    answer = solo.request("POST", "/blobs", body=body)
    assert (answer.status, answer.json()["error"]["code"]) == (413, "too-large")


def test_what_a_job_gets_is_what_its_manifest_says_or_nothing(solo):
    """Chunks in another order than the digest of the whole file says: P13, at the moment it is made."""
    data = [bytes((n,)) * CHUNK_BYTES for n in range(8)]
    send(solo, *data, b"x")
    order = [1, 0, *range(2, 8)]
    chunks = [*(digest_of(data[n]) for n in order), digest_of(b"x")]
    entry = a_file(path="large", size=LARGE, digest=digest_of(b"".join(data) + b"x"), chunks=chunks)
    answer = solo.request("POST", "/snapshots", json_body={"entries": [entry]})
    assert answer.status == 201, "the server does not read 64 MiB to answer"
    job = solo.job("true", snapshot=answer.json()["id"])
    ended = solo.finished(job["id"])
    assert ended["state"] == "Error"
    assert "'large'" in ended["reason"]["message"], ended["reason"]


def test_a_cut_upload_keeps_the_blobs_that_came_whole(solo):
    """The sender's connection ends in the middle of the third blob."""
    contents = [os.urandom(1000) for _ in range(3)]
    body = a_pack(*contents)
    cut = body[: len(MAGIC) + 2 * (HEADER.size + 1000) + HEADER.size + 500]
    entries = [a_file(path=str(n), size=1000, digest=digest_of(data)) for n, data in enumerate(contents)]
    assert cut_off(solo, cut, len(body)) == b"", "the server has seen the end"
    assert missing(solo, *entries) == [digest_of(contents[2])]
    assert not list((solo.data / "blobs" / "tmp").iterdir())
    send(solo, contents[2])
    answer = solo.request("POST", "/snapshots", json_body={"entries": entries})
    assert answer.status == 201


def test_a_cut_upload_with_a_lie_in_it_keeps_nothing(solo):
    good, bad = os.urandom(1000), os.urandom(1000)
    body = MAGIC + blob(good) + blob(bad, digest=bytes(32)) + b"x"
    cut_off(solo, body, len(body) + 1000)
    assert missing(solo, a_file(size=1000, digest=digest_of(good))) == [digest_of(good)]
