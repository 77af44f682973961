"""The blob store: durable, deduplicated, and honest about damage."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from typing import BinaryIO

import blake3
import pytest

from gradient_jupyter.resources.errors import InvalidRequest, ServerError
from gradient_jupyter.workspace import blobs as blobs_module
from gradient_jupyter.workspace.blobs import BlobStore, Damaged


def content(store: BlobStore, digest: str) -> bytes:
    with store.open(digest) as file:
        return file.read()


def file_of(store: BlobStore, digest: str) -> Path:
    return store.root / digest[:2] / digest


def copied(out: BinaryIO, store: BlobStore, digest: str) -> bytes:
    out.seek(0)
    out.truncate()
    store.copy_to(digest, out.fileno())
    return Path(out.name).read_bytes()


NOISE = os.urandom(700_000)


@pytest.mark.parametrize("data", [b"", b"x", b"abc" * 1000, NOISE, b"0123456789" * 600_000])
def test_what_is_put_comes_back(blobs: BlobStore, tmp_path: Path, data: bytes) -> None:
    digest = blobs.put_bytes(data)
    assert digest == blake3.blake3(data).hexdigest()
    assert blobs.has(digest)
    assert blobs.size(digest) == len(data)
    assert content(blobs, digest) == data
    with open(tmp_path / "out", "wb") as out:
        assert blobs.copy_to(digest, out.fileno()) == len(data)
    assert (tmp_path / "out").read_bytes() == data
    assert blobs.delete(digest) > 0
    assert not blobs.has(digest)
    assert blobs.delete(digest) == 0


def test_a_reader_can_stop_early(blobs: BlobStore) -> None:
    digest = blobs.put_bytes(NOISE)
    with blobs.open(digest) as file:
        assert file.read(10) == NOISE[:10]


@pytest.mark.parametrize(
    "data", [b"small content " * 20, NOISE, b"0123456789abcdef" * 400_000], ids=["s", "raw", "zstd"]
)
def test_damage_at_rest_is_named_and_never_read_to_the_end(
    blobs: BlobStore, tmp_path: Path, data: bytes
) -> None:
    digest = blobs.put_bytes(data)
    path = file_of(blobs, digest)
    good = path.read_bytes()
    damages = [good[:length] for length in (0, 5, 16, len(good) // 2, len(good) - 1)]
    step = max(1, len(good) // 40)
    damages += [
        good[:i] + bytes((good[i] ^ 4,)) + good[i + 1 :] for i in (*range(16), *range(16, len(good), step))
    ]
    damages += [good + b"x"]
    noticed = 0
    for damaged in damages:
        path.write_bytes(damaged)
        with open(tmp_path / "out", "wb") as out:
            for read in (content, partial(copied, out)):
                try:
                    assert read(blobs, digest) == data, "a bit without meaning in a zstd frame"
                except Damaged as error:
                    assert isinstance(error, ServerError)
                    assert error.code == "blob-damaged"
                    assert digest in error.message
                    noticed += 1
    assert noticed > 1.8 * len(damages) - 8
    path.write_bytes(good)
    assert content(blobs, digest) == data


def test_a_small_damaged_blob_gives_not_a_single_byte(blobs: BlobStore) -> None:
    digest = blobs.put_bytes(os.urandom(5000))
    path = file_of(blobs, digest)
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with blobs.open(digest) as file, pytest.raises(Damaged):
        file.read(1)


def test_a_missing_blob_is_damage(blobs: BlobStore) -> None:
    with pytest.raises(Damaged, match="missing"):
        content(blobs, "0" * 64)
    with pytest.raises(Damaged, match="missing"):
        blobs.size("0" * 64)


def test_putting_again_repairs(blobs: BlobStore) -> None:
    digest = blobs.put_bytes(b"content")
    file_of(blobs, digest).write_bytes(b"")
    blobs.put_bytes(b"content")
    assert content(blobs, digest) == b"content"


@pytest.mark.parametrize(
    "name", ["", "..", "../" * 22, "0" * 63, "0" * 65, "G" * 64, "A" * 64, "0" * 64 + "\n", "/" + "0" * 63]
)
def test_only_digests_become_paths(blobs: BlobStore, name: str) -> None:
    for use in (blobs.has, blobs.size, blobs.open, blobs.delete):
        with pytest.raises(InvalidRequest):
            found = use(name)
            if use == blobs.open:
                found.read()  # type: ignore[union-attr]


def test_concurrent_puts_of_one_content_are_fine(blobs: BlobStore) -> None:
    digests: list[str] = []

    def put() -> None:
        for i in range(10):
            digests.append(blobs.put_bytes(b"shared %d" % i))
            assert content(blobs, digests[-1]) == b"shared %d" % i

    threads = [threading.Thread(target=put) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(digests) == 40 and len(set(digests)) == 10
    assert os.listdir(blobs.root / "tmp") == []


def test_a_batch_is_invisible_until_it_is_committed(blobs: BlobStore) -> None:
    contents = [b"blob %d" % i for i in range(20)]
    with blobs.batch() as batch:
        for data in contents:
            batch.put(blake3.blake3(data).hexdigest(), blobs_module.RAW, len(data), data)
        assert not any(blobs.has(blake3.blake3(data).hexdigest()) for data in contents)
        stored = batch.commit()
    assert [blob.size for blob in stored] == [len(data) for data in contents]
    assert all(content(blobs, blake3.blake3(data).hexdigest()) == data for data in contents)
    with blobs.batch() as batch:
        batch.put("0" * 64, blobs_module.RAW, 1, b"x")
        batch.writer(blobs_module.RAW, 5).write(b"y")
    assert not blobs.has("0" * 64)
    assert os.listdir(blobs.root / "tmp") == []


def test_leftovers_of_a_crash_go_at_the_next_start_whatever_the_clock_says(tmp_path: Path) -> None:
    """Fault: SIGKILL in the middle of an upload. P11, P14: heals when the store is opened again."""
    leftover = tmp_path / "tmp" / "leftover"
    leftover.parent.mkdir()
    leftover.write_text("x")
    os.utime(leftover, (2**32, 2**32))
    BlobStore(tmp_path, alone=True)
    assert not leftover.exists()


def test_what_somebody_who_lives_is_writing_stays(blobs: BlobStore) -> None:
    with blobs.batch() as batch:
        writer = batch.writer(blobs_module.RAW, 1)
        writer.write(b"x")
        BlobStore(blobs.root)
        assert len(os.listdir(blobs.root / "tmp")) == 1


FULL_DISK = """
import os, sys, pathlib
from gradient_jupyter.resources.errors import NoSpace
from gradient_jupyter.resources.snapshot import File, Manifest
from gradient_jupyter.workspace.blobs import BlobStore
from gradient_jupyter.workspace.materialise import materialise
import blake3, errno
root = pathlib.Path(sys.argv[1])
store = BlobStore(root / "blobs")
kept = store.put_bytes(os.urandom(100_000))
for size in (300_000, 3_000_000):
    try:
        store.put_bytes(os.urandom(size))
    except NoSpace as error:
        assert error.code == "no-space" and error.next
    else:
        raise SystemExit("no error")
assert os.listdir(root / "blobs" / "tmp") == []
manifest = Manifest(entries=tuple(File(path=n, size=100_000, digest=kept) for n in "abc"))
try:
    materialise(manifest, store, root / "tree")
except OSError as error:
    assert error.errno == errno.ENOSPC
else:
    raise SystemExit("no error")
assert sorted(os.listdir(root)) == ["blobs"], os.listdir(root)
with store.open(kept) as file:
    assert len(file.read()) == 100_000
materialise(Manifest(entries=manifest.entries[:1]), store, root / "tree")
print("survived")
"""


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    mount = ["unshare", "--user", "--map-root-user", "--mount"]
    if (
        shutil.which("unshare") is None
        or subprocess.run([*mount, "true"], capture_output=True, check=False).returncode
    ):
        pytest.skip("no user namespace to mount a small file system in")
    script = 'mount -t tmpfs -o size=320k none "$1" && exec "$2" -c "$3" "$1"'
    done = subprocess.run(
        [*mount, "sh", "-c", script, "sh", tmp_path, sys.executable, FULL_DISK],
        capture_output=True, text=True, cwd=Path(__file__).parents[2], check=False,
    )  # fmt: skip
    if "permission denied" in done.stderr.lower() and "mount" in done.stderr:
        pytest.skip("this system does not let us mount")
    assert done.stdout.strip() == "survived", done.stderr
