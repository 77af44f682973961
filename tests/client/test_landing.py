"""Downloads land under the directory that was named, whatever they are called and whatever stands there."""

from __future__ import annotations

import os
from pathlib import Path

import blake3
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradient_jupyter.client.landing import Landing
from gradient_jupyter.resources.artifact import Artifact
from gradient_jupyter.resources.errors import InvalidRequest

CONTENT = b"what the job wrote"


def artifact(path: str, content: bytes = CONTENT, *, final: bool = True) -> Artifact:
    digest = blake3.blake3(content).hexdigest() if final else ""
    return Artifact(path=path, size=len(content), modified_us=1_700_000_000_000_000, digest=digest)


def land(dest: Path, what: Artifact, content: bytes = CONTENT) -> Path:
    with Landing(dest) as landing, landing.begin(what) as part:
        part.restart()
        part.write(content)
        assert part.matches()
        return part.land()


def everything_under(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*")}


@pytest.mark.parametrize(
    "name",
    [
        "../out",
        "a/../../out",
        "/etc/out",
        "a//b",
        "./a",
        "a/.",
        "..",
        "",
        "a\x00b",
        "a/" + "b" * 256,
        "\udcff",
    ],
)
def test_names_that_lead_elsewhere_are_refused(tmp_path: Path, name: str) -> None:
    dest = tmp_path / "dest"
    with pytest.raises(InvalidRequest):
        land(dest, artifact(name))
    assert everything_under(tmp_path) == {"dest"}


@given(
    st.lists(st.sampled_from(["..", ".", "", "a", "b", "~", "C:", "\\..", "-", " "]), min_size=1).map(
        "/".join
    )
)
def test_nothing_is_ever_written_outside(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    root = tmp_path_factory.mktemp("landing")
    try:
        landed = land(root / "dest", artifact(name))
    except InvalidRequest:
        landed = None
    assert all(path.startswith("dest") for path in everything_under(root))
    assert landed is None or landed.read_bytes() == CONTENT


def test_a_link_on_the_way_is_not_followed(tmp_path: Path) -> None:
    (outside := tmp_path / "outside").mkdir()
    (dest := tmp_path / "dest").mkdir()
    (dest / "plots").symlink_to(outside)
    with pytest.raises(InvalidRequest, match="plots"):
        land(dest, artifact("plots/loss.png"))
    assert list(outside.iterdir()) == []


def test_a_link_at_the_end_is_replaced_and_its_target_untouched(tmp_path: Path) -> None:
    (secret := tmp_path / "secret").write_text("mine")
    (dest := tmp_path / "dest").mkdir()
    (dest / "out.txt").symlink_to(secret)
    land(dest, artifact("out.txt"))
    assert secret.read_text() == "mine"
    assert not (dest / "out.txt").is_symlink()
    assert (dest / "out.txt").read_bytes() == CONTENT


def test_a_link_in_place_of_the_part_is_not_written_through(tmp_path: Path) -> None:
    (secret := tmp_path / "secret").write_text("mine")
    what = artifact("out.txt")
    dest = tmp_path / "dest"
    with Landing(dest) as landing, landing.begin(what) as part:
        part.write(CONTENT[:4])
    (left,) = dest.iterdir()
    left.unlink()
    left.symlink_to(secret)
    with pytest.raises(InvalidRequest):
        land(dest, what)
    assert secret.read_text() == "mine"


def test_a_directory_in_the_way_is_an_error_and_leaves_no_trace(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(InvalidRequest, match="out cannot be written"):
        land(tmp_path, artifact("out", final=False))
    assert everything_under(tmp_path) == {"out"}


def test_what_was_cut_off_is_taken_up_again(tmp_path: Path) -> None:
    what = artifact("a/out.txt")
    with Landing(tmp_path) as landing, landing.begin(what) as part:
        part.write(CONTENT[:7])
    assert not (tmp_path / "a" / "out.txt").exists()
    with Landing(tmp_path) as landing, landing.begin(what) as part:
        assert part.size == 7
        part.write(CONTENT[7:])
        assert part.matches()
        part.land()
    assert (tmp_path / "a" / "out.txt").read_bytes() == CONTENT
    assert everything_under(tmp_path) == {"a", "a/out.txt"}
    assert (tmp_path / "a" / "out.txt").stat().st_mtime == 1_700_000_000


def test_of_a_running_job_nothing_is_taken_up(tmp_path: Path) -> None:
    what = artifact("out.txt", final=False)
    with Landing(tmp_path) as landing, landing.begin(what) as part:
        part.write(CONTENT[:7])
    assert list(tmp_path.iterdir()) == []


def test_two_downloads_at_once_do_not_meet(tmp_path: Path) -> None:
    what = artifact("out.txt")
    with (
        Landing(tmp_path) as one,
        one.begin(what) as first,
        Landing(tmp_path) as two,
        two.begin(what) as second,
    ):
        first.write(CONTENT[:3])
        second.write(CONTENT)
        second.land()
        first.write(CONTENT[3:])
        first.land()
    assert everything_under(tmp_path) == {"out.txt"}
    assert (tmp_path / "out.txt").read_bytes() == CONTENT


def test_what_is_there_with_the_right_content_is_known(tmp_path: Path) -> None:
    what = artifact("out.txt")
    with Landing(tmp_path) as landing:
        assert landing.complete(what) is None
        (tmp_path / "out.txt").write_bytes(CONTENT)
        assert landing.complete(what) == tmp_path / "out.txt"
        (tmp_path / "out.txt").write_bytes(CONTENT.upper())
        assert landing.complete(what) is None
        os.mkfifo(tmp_path / "pipe")
        assert landing.complete(artifact("pipe", b"")) is None
