"""Whether what is stored is still what was stored: a sample of it, or all. Reads, and changes nothing."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import blake3
import msgspec

from gradient_jupyter.control.data.artifacts import ArtifactDamaged, open_known
from gradient_jupyter.control.data.collection import opened
from gradient_jupyter.control.layout import Layout
from gradient_jupyter.engines import framedlog
from gradient_jupyter.resources.artifact import Artifact
from gradient_jupyter.resources.errors import GradientError
from gradient_jupyter.store import pointfile
from gradient_jupyter.workspace.blobs import BlobStore, Damaged

_SAMPLE = 100
_LARGE = 64 << 20
"""What is larger is read only when everything is."""
_PIECE = 1 << 20
_HAS_LENGTHS = "SELECT count(*) FROM pragma_table_info('attempts') WHERE name = 'log_bytes'"
_HAS_RUNS = "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = 'runs'"


class Looked(msgspec.Struct):
    """How many were looked at of how many there are, which of them are not right, and what to do then."""

    looked: int
    there: int
    damaged: list[str]
    next: str


def check_files(layout: Layout, database: sqlite3.Connection, *, full: bool) -> Looked:
    """Of what was sent: files and manifests."""
    named = "SELECT digest, size FROM blobs UNION SELECT id, 0 FROM snapshots"
    there = database.execute(f"SELECT count(*) FROM ({named})").fetchone()[0]  # noqa: S608
    looked = Looked(0, there, [], "Submit the directory again: what is missing is sent anew.")
    if not layout.blobs.is_dir():
        if there:
            looked.damaged.append(f"{layout.blobs} is missing")
        return looked
    blobs = BlobStore(layout.blobs, tidy=False)
    for digest in _chosen(database, f"SELECT digest FROM ({named})", "size", full=full):  # noqa: S608
        looked.looked += 1
        try:
            with blobs.open(digest[0]) as file:
                while file.read(_PIECE):
                    pass
        except Damaged as error:
            looked.damaged.append(f"{digest[0]}: {error.reason}")
    return looked


def check_artifacts(layout: Layout, database: sqlite3.Connection, *, full: bool) -> Looked:
    there = database.execute("SELECT count(*) FROM artifacts").fetchone()[0]
    looked = Looked(0, there, [], "Their bytes are lost or changed; run the job again, or delete it.")
    query = (
        "SELECT artifacts.job_id, jobs.attempt, path, size, modified_us, digest FROM artifacts "
        "JOIN jobs ON jobs.id = artifacts.job_id"
    )
    for job_id, attempt, path, size, modified_us, digest in _chosen(database, query, "size", full=full):
        looked.looked += 1
        known = Artifact(path=path, size=size, modified_us=modified_us, digest=digest)
        if (problem := _problem(layout.attempt(job_id, attempt) / "artifacts", known)) is not None:
            looked.damaged.append(f"{job_id} {path!r}: {problem}")
    return looked


def check_logs(layout: Layout, database: sqlite3.Connection, *, full: bool) -> Looked:
    """Of attempts that have ended: every frame's sum, and that the end is still there."""
    query = "SELECT job_id, attempt, log_bytes FROM attempts"
    if not database.execute(_HAS_LENGTHS).fetchone()[0]:
        return Looked(0, 0, [], "")  # of an older version; the next server brings it up to date
    known = f"{query} WHERE log_bytes IS NOT NULL"
    there = database.execute(f"SELECT count(*) FROM ({known})").fetchone()[0]  # noqa: S608
    looked = Looked(0, there, [], "What is left of them is shown; the rest is lost.")
    for job_id, attempt, size in _chosen(database, query, "log_bytes", full=full):
        if size is None:
            continue
        looked.looked += 1
        if (problem := _log_problem(layout.attempt(job_id, attempt) / "log", size)) is not None:
            looked.damaged.append(f"{job_id} attempt {attempt}: {problem}")
    return looked


def check_metrics(layout: Layout, database: sqlite3.Connection, *, full: bool) -> Looked:
    """Of attempts that have ended, and of runs beside jobs, if they have left any."""
    query = "SELECT job_id, attempt FROM attempts WHERE ended_us IS NOT NULL"
    if database.execute(_HAS_RUNS).fetchone()[0]:  # not of an older version
        query += " UNION ALL SELECT id, 0 FROM runs WHERE job_id IS NULL OR id <> job_id"
    chosen = query if full else f"SELECT * FROM ({query}) ORDER BY random() LIMIT {_SAMPLE}"  # noqa: S608
    there = database.execute(f"SELECT count(*) FROM ({query})").fetchone()[0]  # noqa: S608
    looked = Looked(0, there, [], "The log and the artifacts of these runs are not concerned.")
    for job_id, attempt in database.execute(chosen):
        place = layout.attempt(job_id, attempt) if attempt else layout.run(job_id)
        looked.looked += 1
        try:
            problem = pointfile.problem(place / pointfile.NAME)
        except GradientError as error:
            problem = error.message
        if problem:
            looked.damaged.append(f"{job_id}{f' attempt {attempt}' if attempt else ''}: {problem}")
    return looked


def _log_problem(path: Path, size: int) -> str | None:
    try:
        with framedlog.Reader(path) as reader:
            offset = 0
            while chunks := reader.read(offset, _PIECE, whole=True):
                offset = chunks[-1].offset + len(chunks[-1].data)
    except framedlog.DamagedLog as damage:
        return f"it is damaged at byte {damage.position} of its file"
    except OSError as error:
        return f"it cannot be read ({(error.strerror or str(error)).lower()})"
    return f"its last {size - offset:,} bytes are missing" if offset < size else None


def _problem(directory: Path, known: Artifact) -> str | None:
    with opened(directory) as fd:
        if fd is None:
            return "it is missing"
        try:
            file = os.fdopen(open_known(fd, known.path, known), "rb", buffering=0)
        except ArtifactDamaged:
            return "it is missing or has another size or time"
        with closing(file):
            hasher = blake3.blake3()
            while piece := file.read(_PIECE):
                hasher.update(piece)
        return None if hasher.hexdigest() == known.digest else "it has other bytes"


def _chosen(database: sqlite3.Connection, query: str, size: str, *, full: bool) -> sqlite3.Cursor:
    if full:
        return database.execute(query)

    return database.execute(f"{query} WHERE {size} <= ? ORDER BY random() LIMIT ?", (_LARGE, _SAMPLE))
