"""A zip file is unpacked by our own reader: what it holds is sent, and what is wrong with it is named."""

from __future__ import annotations

import io
import os
import resource
import shutil
import stat
import struct
import subprocess
import warnings
import zipfile
import zlib
from pathlib import Path

import descriptors
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gradient_jupyter.resources.errors import WorkspaceError
from gradient_jupyter.resources.snapshot import CHUNK_BYTES, WHOLE_BYTES, Directory
from gradient_jupyter.workspace.blobs import BlobStore
from gradient_jupyter.workspace.ignore import Ignore
from gradient_jupyter.workspace.materialise import materialise
from gradient_jupyter.workspace.packs import Unpacker, pack
from gradient_jupyter.workspace.scan import scan
from gradient_jupyter.workspace.zipped import Zipped, zipped

DEFLATED, STORED = zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED
UNIX, DOS = 3, 0
Entry = tuple[str, bytes]


def archive(
    path: Path, *entries: Entry, method: int = DEFLATED, mode: int = 0o100644, host: int = UNIX
) -> Path:
    """A zip file as the standard library makes it, with these entries as they stand."""
    with zipfile.ZipFile(path, "w", method) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of names that are there twice
        for name, content in entries:
            info = zipfile.ZipInfo(name)
            info.filename = name  # it would mend it
            info.create_system = host
            info.external_attr = mode << 16 if host == UNIX else 0x20
            info.compress_type = method
            file.writestr(info, content)
    return path


def refusal(path: Path, **limits: int) -> WorkspaceError:
    with pytest.raises(WorkspaceError) as caught:
        zipped(path, **limits)
    assert caught.value.next, "says what to do"
    return caught.value


def paths(result: Zipped) -> list[str]:
    return [entry.path for entry in result.manifest.entries]


def stored(contents: Zipped, blobs: BlobStore) -> None:
    for one in pack(contents.manifest.files, contents.open_file):
        unpacker = Unpacker(blobs, max_blob_bytes=WHOLE_BYTES, max_pack_bytes=2 * WHOLE_BYTES)
        for part in one:
            unpacker.feed(part)
        unpacker.close()


@pytest.fixture
def z(tmp_path: Path) -> Path:
    return tmp_path / "code.zip"


def test_it_is_the_snapshot_of_the_directory_it_was_made_of(
    tmp_path: Path, z: Path, blobs: BlobStore
) -> None:
    """With the zip program of the system: modes, nested and empty directories, names of all kinds."""
    root = tmp_path / "tree"
    (root / "pkg/empty").mkdir(parents=True)
    for name in ("train.py", "pkg/mod.py", "ünï çødé", "日本", ".env", ".git/config", "-rf", "a b"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(name * 100)
    (root / "run.sh").write_text("#!/bin/sh\n")
    (root / "run.sh").chmod(0o755)
    (root / "noise").write_bytes(os.urandom(300_000))
    if shutil.which("zip"):
        subprocess.run(["zip", "-qr", z, "."], cwd=root, check=True, env={"LC_ALL": "C.UTF-8", **os.environ})
    else:
        shutil.make_archive(str(z.with_suffix("")), "zip", root)
    result = zipped(z)
    assert result.manifest == scan(root, ignore=Ignore(defaults=False)).manifest
    assert not result.warnings and not result.left_out
    stored(result, blobs)
    materialise(result.manifest, blobs, tmp_path / "copy")
    assert scan(tmp_path / "copy", ignore=Ignore(defaults=False)).manifest == result.manifest
    assert (tmp_path / "copy/run.sh").stat().st_mode & stat.S_IXUSR


@pytest.mark.parametrize("method", [STORED, DEFLATED])
@pytest.mark.parametrize("host", [UNIX, DOS])
def test_content_comes_back_whatever_the_method(
    z: Path, tmp_path: Path, blobs: BlobStore, method: int, host: int
) -> None:
    entries = [("a", b""), ("b", b"x" * 100_000), ("c", os.urandom(50_000)), ("d/e", b"deep")]
    result = zipped(archive(z, *entries, method=method, host=host))
    stored(result, blobs)
    materialise(result.manifest, blobs, tmp_path / "copy")
    assert [(name, (tmp_path / "copy" / name).read_bytes()) for name, _ in entries] == entries


def test_a_single_folder_around_everything_stays(z: Path) -> None:
    assert paths(zipped(archive(z, ("repo-main/train.py", b"x"), ("repo-main/lib/a.py", b"y")))) == [
        "repo-main/lib/a.py",
        "repo-main/train.py",
    ]


def test_an_empty_one_is_the_snapshot_of_nothing(z: Path) -> None:
    assert zipped(archive(z)).manifest.entries == ()


def test_directories_without_files_are_kept_and_the_top_is_none(z: Path) -> None:
    result = zipped(archive(z, ("./", b""), ("empty/", b""), ("full/", b""), ("./full/a", b"x")))
    assert result.manifest.entries[0] == Directory(path="empty")
    assert paths(result) == ["empty", "full/a"]


def test_a_self_extracting_one_is_read(z: Path) -> None:
    archive(z, ("a", b"content"))
    z.write_bytes(b"#!/bin/sh\nexit 0\n" + z.read_bytes())
    assert paths(zipped(z)) == ["a"]


def test_large_numbers_stand_in_zip64_fields(z: Path) -> None:
    with zipfile.ZipFile(z, "w", DEFLATED) as file, file.open("forced", "w", force_zip64=True) as entry:
        entry.write(b"x" * 1000)
    data = z.read_bytes()
    end = data.rindex(b"PK\x05\x06")
    count, size, offset = struct.unpack_from("<H2L", data, end + 10)
    record = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, size, offset)
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, end, 1)
    hollow = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    z.write_bytes(data[:end] + record + locator + hollow)
    assert [file.size for file in zipped(z).manifest.files] == [1000]


@pytest.mark.parametrize(
    ("name", "host", "says"),
    [
        ("../evil", UNIX, "empty part, '.' or '..'"),
        ("a/../../evil", UNIX, "'..'"),
        ("/etc/passwd", UNIX, "is absolute"),
        ("//host/share", UNIX, "is absolute"),
        ("C:/evil", UNIX, "begins with a drive"),
        ("C:evil", DOS, "begins with a drive"),
        ("C:\\evil", DOS, "begins with a drive"),
        ("..\\..\\evil", DOS, "'..'"),
        ("..\\..\\evil", UNIX, "leads upwards"),
        ("\\evil", DOS, "is absolute"),
        ("a//b", UNIX, "empty part"),
        ("/", UNIX, ""),
        ("", UNIX, "is empty"),
        ("x" * 300, UNIX, "255 bytes"),
        ("d/" * 120 + "x", UNIX, "directories deep"),
        ("a\x00b", UNIX, "null byte"),
    ],
)
def test_names_that_lead_elsewhere_are_refused(z: Path, name: str, host: int, says: str) -> None:
    error = refusal(archive(z, ("good", b"x"), (name, b"evil"), host=host))
    assert error.code == "zip-refused"
    assert says in error.message
    assert "code.zip" in error.message


def test_backslashes_that_some_windows_programs_write_are_separators(z: Path) -> None:
    assert paths(zipped(archive(z, ("dir\\a.py", b"x"), host=DOS))) == ["dir/a.py"]


@pytest.mark.parametrize(
    ("mode", "says"),
    [
        (0o120777, "which is a link"),
        (0o010644, "no regular file"),
        (0o020644, "no regular file"),
        (0o060644, "no regular file"),
        (0o140644, "no regular file"),
    ],
)
def test_links_and_devices_are_refused(z: Path, mode: int, says: str) -> None:
    error = refusal(archive(z, ("evil", b"/etc/passwd"), mode=mode))
    assert "'evil'" in error.message and says in error.message


def test_the_same_name_twice_is_refused(z: Path) -> None:
    assert "'a' twice" in refusal(archive(z, ("a", b"1"), ("a", b"2"))).message
    assert "'a' twice" in refusal(archive(z, ("a", b"1"), ("./a", b"2"))).message
    assert "'a' twice" in refusal(archive(z, ("a", b"1"), ("a/", b""))).message
    error = refusal_of_any_kind(archive(z, ("a", b"1"), ("a/b", b"2")))
    assert "'a' is a file and cannot hold 'a/b'" in error


def refusal_of_any_kind(path: Path) -> str:
    with pytest.raises(Exception, match=r".") as caught:
        zipped(path)
    return str(caught.value)


def test_names_that_are_one_on_other_systems_are_named(z: Path) -> None:
    result = zipped(archive(z, ("Data.csv", b"1"), ("data.csv", b"2"), ("é", b"3"), ("e\u0301", b"4")))
    (warning,) = result.warnings
    assert "Data.csv and data.csv" in warning and "é and e\u0301" in warning


def test_encrypted_entries_are_refused(z: Path) -> None:
    data = bytearray(archive(z, ("secret", b"x" * 50)).read_bytes())
    central = data.index(b"PK\x01\x02")
    data[central + 8] |= 1
    z.write_bytes(data)
    assert "'secret', which is encrypted" in refusal(z).message
    data[central + 8] &= ~1
    data[6] |= 1  # only the entry's own header says so
    z.write_bytes(data)
    assert "'secret', which is encrypted" in refusal(z).message


@pytest.mark.parametrize(
    ("method", "says"), [(zipfile.ZIP_BZIP2, "bzip2"), (zipfile.ZIP_LZMA, "LZMA"), (77, "method 77")]
)
def test_other_methods_are_named(z: Path, method: int, says: str) -> None:
    data = bytearray(archive(z, ("a", b"x" * 50)).read_bytes())
    struct.pack_into("<H", data, data.index(b"PK\x01\x02") + 10, method)
    z.write_bytes(data)
    error = refusal(z)
    assert f"compressed by {says}" in error.message and "deflate" in error.next


def test_a_bomb_is_refused_before_anything_is_decompressed(z: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive(z, *((f"zeros-{n}", bytes(64 << 20)) for n in range(5)))
    monkeypatch.setattr("zlib.decompressobj", None)  # whoever decompresses fails
    assert "as only bombs do" in refusal(z).message
    error = refusal(z, limit_bytes=1 << 20)
    assert error.code == "workspace-too-large"
    assert "zeros-4 (64.0 MiB)" in error.message and "--max-size 320MiB" in error.next


def test_a_bomb_of_many_entries_is_refused_before_they_are_read(z: Path) -> None:
    data = bytearray(archive(z, ("a", b"x")).read_bytes())
    end = data.rindex(b"PK\x05\x06")
    struct.pack_into("<2H", data, end + 8, 0xFFFF, 0xFFFF)
    z.write_bytes(data)
    assert "cut off" in refusal(z).message
    record = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 10**6, 10**6, 0, 0)
    z.write_bytes(data[:end] + record + struct.pack("<4sLQL", b"PK\x06\x07", 0, end, 1) + data[end:])
    assert "1000000 entries, more than the limit" in refusal(z).message


def test_entries_that_share_their_bytes_are_refused(z: Path) -> None:
    """The bomb that needs no nesting: a thousand entries that all decompress the same kernel."""
    data = archive(z, ("a", b"x" * 100_000)).read_bytes()
    central, end = data.index(b"PK\x01\x02"), data.rindex(b"PK\x05\x06")
    entry = data[central:end]
    last = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 2, 2, 2 * len(entry), central, 0)
    z.write_bytes(data[:central] + entry + entry.replace(b"a", b"b", 1) + last)
    assert "two different things about" in refusal(z).message
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w", STORED) as inner:
        inner.writestr("b", b"y" * 1000)
    # The entry "b" lies inside the bytes of "a".
    outer = bytearray(archive(z, ("a", body.getvalue()), method=STORED).read_bytes())
    inside, central, end = outer.index(b"PK\x03\x04", 10), outer.rindex(b"PK\x01\x02"), len(outer) - 22
    second = bytearray(body.getvalue()[body.getvalue().index(b"PK\x01\x02") : -22])
    struct.pack_into("<L", second, 42, inside)
    both = bytes(outer[central:end]) + bytes(second)
    last = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 2, 2, len(both), central, 0)
    z.write_bytes(bytes(outer[:central]) + both + last)
    assert "share bytes" in refusal(z).message


def lied(path: Path, offset: int, form: str, value: int) -> Path:
    """A zip of one entry whose directory says something else."""
    data = bytearray(archive(path, ("a", b"x" * 1000)).read_bytes())
    struct.pack_into(form, data, data.index(b"PK\x01\x02") + offset, value)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("offset", "form", "value", "says"),
    [
        (24, "<L", 999, "longer than the archive says"),
        (24, "<L", 1001, "shorter than the archive says"),
        (24, "<L", 2**31, "a size that it cannot have"),
        (24, "<L", 0xFFFFFFFF, "without its sizes"),
        (20, "<L", 1, "shorter than the archive says"),
        (20, "<L", 2**31, "share bytes"),
        (20, "<L", 18, "followed by bytes"),
        (16, "<L", 0, "its checksum differs"),
        (42, "<L", 5, "does not hold 'a' where it says"),
        (42, "<L", 2**31, "does not hold 'a' where it says"),
        (34, "<H", 1, "several disks"),
        (28, "<H", 9999, "damaged"),
    ],
)
def test_numbers_that_lie_are_noticed(z: Path, offset: int, form: str, value: int, says: str) -> None:
    error = refusal(lied(z, offset, form, value), limit_bytes=1 << 40)
    if value == 18:
        assert any(words in error.message for words in ("cut off", "shorter", "followed by bytes"))
        return
    assert says in error.message


@pytest.mark.parametrize("content", [b"", b"PK", b"no zip" * 100, b"PK\x05\x06", b"\x1f\x8b\x08" + bytes(40)])
def test_what_is_no_zip_is_named(z: Path, content: bytes) -> None:
    z.write_bytes(content)
    assert "is no zip file, or is cut off" in refusal(z).message


def test_what_cannot_be_opened_is_named(tmp_path: Path) -> None:
    assert "cannot be read" in refusal(tmp_path / "gone.zip").message
    os.mkfifo(tmp_path / "pipe.zip")
    assert "no regular file" in refusal(tmp_path / "pipe.zip").message


GOOD_ENTRIES = (("a.py", b"print()\n" * 40), ("dir/b", os.urandom(64)), ("dir/", b""), ("z", b""))


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return archive(tmp_path_factory.mktemp("zip") / "good.zip", *GOOD_ENTRIES).read_bytes()


def survives(path: Path, data: bytes) -> bool:
    """It is read, and then it is what was put in, or it is refused."""
    path.write_bytes(data)
    try:
        result = zipped(path)
    except WorkspaceError as error:
        assert error.code in ("zip-refused", "workspace-too-large")
        return False
    except Exception as error:
        assert getattr(error, "code", "") == "bad-manifest", repr(error)
        return False
    for file in result.manifest.files:
        with result.open_file(file) as opened:
            assert len(opened.read()) == file.size
    return True


def test_cut_anywhere_it_is_refused(good: bytes, z: Path) -> None:
    assert survives(z, good)
    assert not any(survives(z, good[:length]) for length in range(len(good)))


def test_a_flipped_bit_anywhere_is_noticed_or_harmless(good: bytes, z: Path) -> None:
    contents = dict(GOOD_ENTRIES)
    for position in range(len(good)):
        for bit in (0x01, 0x80):
            z.write_bytes(good[:position] + bytes((good[position] ^ bit,)) + good[position + 1 :])
            if survives(z, z.read_bytes()):
                for file in zipped(z).manifest.files:
                    if file.path in contents:
                        assert file.size == len(contents[file.path])


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=200), at=st.integers(0, 700), cut=st.integers(0, 60))
def test_garbage_is_refused_with_a_stable_code(good: bytes, z: Path, data: bytes, at: int, cut: int) -> None:
    survives(z, good[:at] + data + good[at + cut :])
    survives(z, data)


def test_memory_does_not_grow_with_what_is_inside(z: Path, blobs: BlobStore) -> None:
    with zipfile.ZipFile(z, "w", STORED) as file, file.open("large", "w") as entry:
        for n in range(12):
            entry.write(bytes((n,)) * CHUNK_BYTES)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    stored(zipped(z), blobs)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 8 * CHUNK_BYTES // 1024, "KiB"


@pytest.mark.parametrize("method", [STORED, DEFLATED])
def test_a_large_entry_travels_in_chunks_and_is_inflated_once(
    z: Path, tmp_path: Path, blobs: BlobStore, monkeypatch: pytest.MonkeyPatch, method: int
) -> None:
    with zipfile.ZipFile(z, "w", method, compresslevel=1) as file, file.open("large", "w") as entry:
        for n in range(9):
            entry.write(bytes((n,)) * (CHUNK_BYTES - 1))
    result = zipped(z)
    (large,) = result.manifest.files
    assert len(list(large.blobs())) == 9
    begun = []
    inflate = zlib.decompressobj
    monkeypatch.setattr(zlib, "decompressobj", lambda wbits: begun.append(wbits) or inflate(wbits))
    stored(result, blobs)
    assert len(begun) == (method == DEFLATED), "each chunk goes on where the one before it ended"
    materialise(result.manifest, blobs, tmp_path / "copy")
    assert scan(tmp_path / "copy").manifest == result.manifest
    # And in any order, from any offset.
    for offset in (5 * CHUNK_BYTES + 3, CHUNK_BYTES, large.size - 1, 0):
        with result.open_file(large, offset) as opened:
            assert opened.read(2) == bytes((min(offset // (CHUNK_BYTES - 1), 8),)) * min(
                2, large.size - offset
            )


def test_an_archive_that_changes_while_it_is_sent_is_noticed(z: Path, blobs: BlobStore) -> None:
    result = zipped(archive(z, ("a", os.urandom(5000))))
    size = z.stat().st_size
    with z.open("r+b") as file:
        file.seek(size // 2)
        file.write(b"other bytes")
    with pytest.raises(WorkspaceError, match="'a' changed"):
        stored(result, blobs)


def test_no_descriptor_stays_open(z: Path) -> None:
    before = descriptors.held()
    result = zipped(archive(z, ("a", b"x" * 100_000)))
    opened = result.open_file(result.manifest.files[0])
    opened.read(10)
    opened.close()
    del result, opened
    refusal(lied(z, 16, "<L", 0))
    assert descriptors.held() <= before
