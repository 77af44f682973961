"""Files that come in: whole or not at all, and nowhere else than where they belong."""

from __future__ import annotations

import os

import pytest

from gradient_jupyter.resources.errors import Conflict, InvalidRequest
from gradient_jupyter.workspace import incoming
from gradient_jupyter.workspace.incoming import Incoming
from gradient_jupyter.workspace.inside import Entry, list_inside


@pytest.fixture(params=["nameless", "named"])
def place(request, tmp_path, monkeypatch):
    """Where files come in, and where they go; also on a system that knows no files without a name."""
    if request.param == "named":
        monkeypatch.delattr(os, "O_TMPFILE", raising=False)
    target = tmp_path / "target"
    target.mkdir()
    fd = os.open(target, os.O_RDONLY | os.O_DIRECTORY)
    yield tmp_path / "staging", target, fd
    os.close(fd)


def came(staging, data=b"data"):
    file = Incoming(staging)
    file.write(data)
    return file


@pytest.mark.parametrize("durable", [False, True])
def test_a_file_is_put_into_place_in_place_of_another(place, durable):
    staging, target, fd = place
    for data in (b"one", b"two"):
        came(staging, data).place(fd, "a/b/file", durable=durable)
        assert (target / "a/b/file").read_bytes() == data
    assert os.listdir(staging) == []


def test_what_is_discarded_never_was(place):
    staging, target, _ = place
    file = came(staging)
    file.discard()
    file.discard()
    assert os.listdir(staging) == [] and os.listdir(target) == []


@pytest.mark.parametrize("name", ["", "/a", "../a", "a/../b", "a//b", "a/", "a\x00", "x" * 256])
def test_a_name_that_leads_elsewhere_is_refused_and_leaves_nothing(place, name):
    staging, target, fd = place
    with pytest.raises(InvalidRequest):
        came(staging).place(fd, name, durable=False)
    assert os.listdir(staging) == [] and os.listdir(target) == []


def test_what_stands_in_the_way_stays(place, tmp_path):
    """Asset A4: a link in a directory that hostile code owns leads nowhere."""
    staging, target, fd = place
    outside = tmp_path / "outside"
    outside.mkdir()
    os.symlink(outside, target / "link")
    (target / "file").write_text("old")
    (target / "directory").mkdir()
    for name in ("link/new", "file/new", "directory"):
        with pytest.raises(Conflict):
            came(staging).place(fd, name, durable=True)
    assert os.listdir(outside) == [] and (target / "file").read_text() == "old"
    came(staging, b"ours").place(fd, "link", durable=False)
    assert (target / "link").read_bytes() == b"ours" and not (target / "link").is_symlink()
    assert os.listdir(staging) == []


def test_without_proc_or_with_an_old_system_it_has_a_name_of_its_own(tmp_path, monkeypatch):
    def unknown(path, flags, *rest, **more):
        if flags & getattr(os, "O_TMPFILE", 0) == getattr(os, "O_TMPFILE", -1):
            raise OSError(95, "Operation not supported")
        return opened(path, flags, *rest, **more)

    opened = os.open
    monkeypatch.setattr(incoming.os, "open", unknown)
    file = Incoming(tmp_path)
    assert len(os.listdir(tmp_path)) == 1
    file.discard()
    assert os.listdir(tmp_path) == []


def test_a_directory_is_listed_without_what_is_neither_file_nor_directory(place):
    _, target, fd = place
    (target / "d/e").mkdir(parents=True)
    (target / "d/f").write_text("12")
    os.symlink("/etc", target / "d/link")
    os.mkfifo(target / "d/pipe")
    os.symlink(target / "d", target / "to-d")
    assert list_inside(fd, "d", 10) == [Entry("e", True, 0), Entry("f", False, 2)]
    assert list_inside(fd, "", 10) == [Entry("d", True, 0)]
    assert list_inside(fd, "d", 1) == [Entry("e", True, 0)]
    for absent in ("to-d", "d/f", "nothing", "d/link"):
        assert list_inside(fd, absent, 10) == []
    with pytest.raises(InvalidRequest):
        list_inside(fd, "../x", 10)
