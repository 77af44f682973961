"""Artifacts through a real server: listed, read, downloaded, deleted."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest

from gradient_jupyter.client import Client, Job
from gradient_jupyter.resources.errors import Conflict, NotFound

LEAVE = """
import os, pathlib
root = pathlib.Path(os.environ["GRADIENT_ARTIFACTS_DIR"])
(root / "plots" / "a b").mkdir(parents=True)
(root / "plots" / "loss.png").write_bytes(b"png" * 1000)
(root / "plots" / "a b" / "ü?#%.txt").write_text("odd name")
(root / "model.bin").write_bytes(bytes(range(256)) * 20_000)
(root / "empty").touch()
"""
ALL = {"empty", "model.bin", "plots/a b/ü?#%.txt", "plots/loss.png"}
MODEL = bytes(range(256)) * 20_000


@pytest.fixture
def job(client: Client) -> Job:
    return client.jobs.create(["python", "-c", LEAVE], workspace=None, project="artifacts").wait(60)


def under(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def test_everything_comes_whole_and_under_its_name(job: Job, tmp_path: Path) -> None:
    assert {one.path for one in job.artifacts.list()} == ALL
    told: dict[str, int] = {}
    here = job.artifacts.download(tmp_path, on_progress=lambda one, size: told.__setitem__(one.path, size))
    assert under(tmp_path) == ALL
    assert {str(path.relative_to(tmp_path)) for path in here} == ALL
    assert (tmp_path / "model.bin").read_bytes() == MODEL
    assert told["model.bin"] == len(MODEL)


@pytest.mark.parametrize(
    ("paths", "found"),
    [
        (["model.bin"], {"model.bin"}),
        (["plots"], {"plots/a b/ü?#%.txt", "plots/loss.png"}),
        (["plots/", "empty"], {"plots/a b/ü?#%.txt", "plots/loss.png", "empty"}),
        (["*.png"], {"plots/loss.png"}),
        (["/artifacts/model.bin"], {"model.bin"}),
    ],
)
def test_paths_directories_and_patterns_choose(
    job: Job, tmp_path: Path, paths: list[str], found: set[str]
) -> None:
    job.artifacts.download(tmp_path, paths)
    assert under(tmp_path) == found


def test_what_is_not_there_is_named_and_nothing_is_fetched(job: Job, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"'modle\.bin'"):
        job.artifacts.download(tmp_path, ["model.bin", "modle.bin"])
    assert under(tmp_path) == set()


def test_a_second_download_fetches_only_what_is_lacking_or_wrong(job: Job, tmp_path: Path) -> None:
    job.artifacts.download(tmp_path)
    untouched = (tmp_path / "model.bin").stat()
    (tmp_path / "plots" / "loss.png").write_text("spoilt")
    (tmp_path / "empty").unlink()
    job.artifacts.download(tmp_path)
    assert (tmp_path / "model.bin").stat().st_ino == untouched.st_ino
    assert (tmp_path / "plots" / "loss.png").read_bytes() == b"png" * 1000
    assert under(tmp_path) == ALL


@pytest.mark.parametrize("left", [MODEL[:1_000_000], b"not its beginning", MODEL, MODEL + b"and more"])
def test_a_download_goes_on_where_another_stopped(job: Job, tmp_path: Path, left: bytes) -> None:
    from gradient_jupyter.client.landing import Landing

    (model,) = (one for one in job.artifacts.list() if one.path == "model.bin")
    with Landing(tmp_path) as landing, landing.begin(model) as part:
        part.write(left)
    job.artifacts.download(tmp_path, ["model.bin"])
    assert (tmp_path / "model.bin").read_bytes() == MODEL
    assert under(tmp_path) == {"model.bin"}


def test_one_is_read_like_a_file(job: Job) -> None:
    with job.artifacts.open("model.bin") as file:
        assert file.read(300) == MODEL[:300]
        assert file.read() == MODEL[300:]
    with pytest.raises(NotFound):
        job.artifacts.open("absent")


def test_all_of_them_as_a_zip(job: Job) -> None:
    job.artifacts.zip(packed := io.BytesIO())
    with zipfile.ZipFile(packed) as archive:
        assert {info.filename for info in archive.infolist()} == ALL
        assert archive.read("model.bin") == MODEL


def test_one_goes_the_others_stay(job: Job) -> None:
    job.artifacts.delete("plots/a b/ü?#%.txt")
    assert {one.path for one in job.artifacts.list()} == ALL - {"plots/a b/ü?#%.txt"}
    with pytest.raises(NotFound):
        job.artifacts.delete("plots/a b/ü?#%.txt")


def test_while_it_runs_they_can_be_read_but_not_deleted(client: Client, tmp_path: Path) -> None:
    program = LEAVE + "\nprint('left', flush=True)\nimport time\ntime.sleep(600)"
    job = client.jobs.create(["python", "-c", program], workspace=None, project="artifacts")
    next(line for line in job.logs(follow=True) if "left" in line.text)
    assert all(one.digest == "" for one in job.artifacts.list())
    job.artifacts.download(tmp_path)
    assert under(tmp_path) == ALL
    with pytest.raises(Conflict):
        job.artifacts.delete("empty")
    job.stop().wait(60)
