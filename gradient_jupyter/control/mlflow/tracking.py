"""Runs: who may see and write which, what is logged to them, how they begin and end.

A person reaches the runs of their projects, by their role in each. A job's attempt reaches the job's own run
and those that were begun in it, and writes only as long as it is the attempt that counts; whatever else there
is does not exist for it.
"""

from __future__ import annotations

import asyncio
import functools
import posixpath
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec
from sqlalchemy import ColumnElement, Connection

from gradient_jupyter.control.mlflow import experiments
from gradient_jupyter.control.people import access, audit
from gradient_jupyter.control.people.access import Principal
from gradient_jupyter.control.plane import Plane
from gradient_jupyter.control.running import attempts
from gradient_jupyter.resources.base import new_id, now_us
from gradient_jupyter.resources.decoding import decode
from gradient_jupyter.resources.errors import Conflict, InvalidRequest, NotFound
from gradient_jupyter.resources.metric import Sample
from gradient_jupyter.resources.mlflow import (
    LONGEST_DESCRIPTION,
    LONGEST_KEY,
    LONGEST_PARAM,
    LONGEST_TAG,
    MOST_DESCRIPTIONS,
)
from gradient_jupyter.resources.owner import Role
from gradient_jupyter.resources.tracking import Dataset, ModelLink, Run, RunStatus
from gradient_jupyter.store import jobs as job_rows
from gradient_jupyter.store import tracking as rows
from gradient_jupyter.store.tracking import Said

T = TypeVar("T")
Pairs = Sequence[tuple[str, str]]

#: Of one run: parameters, and tags. Of one job: runs that were begun in it.
MOST_WORDS = 10_000
MOST_RUNS = 10_000
#: Of one run: data sets it has read, and models it has read or made.
MOST_INPUTS = 1000
MOST_LINKS = 1000
RUN_NAME_TAG = "mlflow.runName"
_MODEL_HISTORY_TAG = "mlflow.log-model.history"
_RUN_ID = re.compile(r"[a-zA-Z0-9][\w\-]{0,255}", re.ASCII)
_KEY = re.compile(rf"[/\w.\- :]{{1,{LONGEST_KEY}}}")


# Who.


def find(connection: Connection, principal: Principal, run_id: str, role: Role) -> Run:
    """The run, if it exists for whoever asks and they may do with it what ``role`` may."""
    run = rows.get(connection, run_id) if _RUN_ID.fullmatch(run_id) else None
    if run is None:
        raise _no_run(run_id)
    if principal.attempt is not None:
        if run.job_id != principal.attempt[0]:
            raise _no_run(run_id)
        if role is not Role.VIEWER:
            attempts.living(connection, *principal.attempt)
            if run.attempt != principal.attempt[1]:
                raise Conflict(
                    f"The run {run_id} was begun in another attempt of the job, which is over.",
                    next="Begin a new one: mlflow.start_run(nested=True)",
                    code="attempt-fenced",
                )
    else:
        try:
            access.place(connection, principal, run.project_id, role)
        except NotFound:
            raise _no_run(run_id) from None
    if run.deleted and role is not Role.VIEWER:
        raise InvalidRequest(
            f"The run {run_id} is deleted, so nothing is logged to it.",
            next="" if run.own else f"Take it back first: MlflowClient().restore_run({run_id!r})",
            code="run-deleted",
        )
    return run


def directory_of(plane: Plane, run: Run) -> Path:
    """Where its metrics and artifacts lie."""
    if not run.own:
        return plane.layout.run(run.id)
    assert run.job_id is not None
    return plane.layout.attempt(run.job_id, run.attempt)


async def directory(plane: Plane, principal: Principal, run_id: str) -> Path:
    """Where metrics of the run are written. Of its own run a job asks for every single one, so that needs no
    look at the disk: whoever bears its token was just found to be the attempt that counts."""
    if principal.attempt is not None and run_id == principal.attempt[0]:
        return plane.layout.attempt(*principal.attempt)

    def work(connection: Connection) -> Run:
        run = find(connection, principal, run_id, Role.MEMBER)
        check_open(connection, run)
        return run

    return directory_of(plane, await plane.database.read(work))


def check_open(connection: Connection, run: Run) -> None:
    """Whether the run's record still grows. That of a job is closed with its attempt, and with it those of
    the runs begun in it: nobody changes afterwards what an experiment has shown. Raises ``Conflict``."""
    _check_begun(run)
    if run.job_id is None:
        return
    job = job_rows.find(connection, run.job_id)
    if job is None or not attempts.lives(job, run.attempt):
        raise Conflict(
            f"The run {run.id} is over with the job {run.job_id}, so what it has measured and made stays as "
            "it is.",
            next="Tag it, or log to a run of your own: mlflow.start_run() outside the job.",
            code="run-over",
        )


def _check_begun(run: Run) -> None:
    if run.own and run.attempt == 0:
        raise Conflict(
            f"The job {run.id} has not begun, so nothing can be logged to it.",
            next=f"Wait for its start: gradient jobs waitfor {run.id} Running",
            code="job-not-begun",
        )


# What is said.


async def log(
    plane: Plane,
    principal: Principal,
    run_id: str,
    samples: Sequence[Sample] = (),
    params: Pairs = (),
    tags: Pairs = (),
) -> None:
    """Once: what is there already may be sent again. Parameters and tags are stored together or not at all,
    and then the points; where those are refused, for a limit or a full disk, the parameters stay. A parameter
    never changes."""
    for key in {sample.key for sample in samples}:
        check_key(key, "metric")
    for key, value in params:
        check_key(key, "parameter")
        _check_length(value, LONGEST_PARAM, f"parameter {key!r}")
    for key, value in tags:
        check_key(key, "tag")
        _check_length(value, LONGEST_TAG, f"tag {key!r}")
    if params or tags:

        def work(connection: Connection, run: Run) -> Path:
            _say(connection, run, params, tags)
            return directory_of(plane, run)

        recorded = bool(samples or params)
        where = await _write(plane, principal, run_id, work, recorded=recorded, more=True)
    elif samples:
        where = await directory(plane, principal, run_id)
    else:
        await run(plane, principal, run_id)
    if samples:
        if principal.attempt is not None:
            # It was the attempt that counts when its request began. What it sends may have come late.
            await attempts.lately(plane, *principal.attempt)
        await plane.points.append(where, samples)


async def delete_tag(plane: Plane, principal: Principal, run_id: str, key: str) -> None:
    def work(connection: Connection, run: Run) -> None:
        if not rows.delete_tag(connection, run.id, key):
            raise NotFound(f"The run {run.id} has no tag {key!r}.", code="no-such-tag")

    await _write(plane, principal, run_id, work)


async def log_inputs(
    plane: Plane, principal: Principal, run_id: str, datasets: Sequence[Dataset], links: Sequence[ModelLink]
) -> None:
    """Data sets it has read, models it has read or made."""
    for each in datasets:
        if not 1 <= len(each.name) <= 500 or not 1 <= len(each.digest) <= 36:
            raise InvalidRequest(
                "A data set has a name of 1 to 500 and a digest of 1 to 36 characters.", code="bad-dataset"
            )
        _check_length(each.source_type, LONGEST_KEY, "data set's source_type")
        for what, text in (("source", each.source), ("schema", each.schema), ("profile", each.profile)):
            _check_length(text or "", LONGEST_DESCRIPTION, f"data set's {what}")
        for key, value in each.tags:
            _check_length(key, LONGEST_KEY, "key of a data set's tag")
            _check_length(value, LONGEST_TAG, "data set's tag")
    for link in links:
        _check_length(link.model_id, LONGEST_KEY, "id of a model")

    def work(connection: Connection, run: Run) -> None:
        rows.add_inputs(connection, run.id, datasets)
        rows.add_models(connection, run.id, links)
        inputs, described, models = rows.count_of(connection, run.id)
        if inputs > MOST_INPUTS or models > MOST_LINKS or described > MOST_DESCRIPTIONS:
            raise InvalidRequest(
                f"The run {run.id} would tell of more than a run may: {MOST_INPUTS:,} data sets, described "
                f"in {MOST_DESCRIPTIONS:,} characters altogether, and {MOST_LINKS:,} models.",
                code="too-many-inputs",
            )

    await _write(plane, principal, run_id, work, recorded=True, more=True)


async def note_model(plane: Plane, principal: Principal, run_id: str, model_json: str) -> None:
    """A model as MLflow 2 logs it: one more in a tag that holds a list."""
    try:
        model = msgspec.Raw(msgspec.json.encode(_json_object(model_json)))
    except msgspec.DecodeError as error:
        raise InvalidRequest(f"The model is no JSON object: {error}.", code="bad-model") from error

    def work(connection: Connection, run: Run) -> None:
        before = rows.tag(connection, run.id, _MODEL_HISTORY_TAG)
        try:
            history = [*_json_list(before or "[]"), model]
        except msgspec.DecodeError as error:
            raise InvalidRequest(
                f"The run {run.id} has a tag {_MODEL_HISTORY_TAG!r} that is no list of models.",
                next="Delete that tag, and log the model again.",
                code="bad-model",
            ) from error
        text = msgspec.json.encode(history).decode()
        if len(text) > 2**20:
            raise InvalidRequest(f"The run {run.id} has logged too many models.", code="too-many-models")
        rows.set_tags(connection, run.id, [(_MODEL_HISTORY_TAG, text)])

    await _write(plane, principal, run_id, work, recorded=True, more=True)


def _say(connection: Connection, run: Run, params: Pairs, tags: Pairs) -> None:
    try:
        told = rows.add_params(connection, run.id, params, MOST_WORDS)
        rows.set_tags(connection, run.id, tags, MOST_WORDS)
    except ValueError as error:
        raise InvalidRequest(
            f"The run {run.id} has {MOST_WORDS:,} parameters or tags, which is as many as one may have.",
            code="too-many-words",
        ) from error
    if told is not None:
        new = dict(params)[told.key]
        raise InvalidRequest(
            f"Changing param values is not allowed. Param with key={told.key!r} was already logged with "
            f"value={_short(told.was)!r} for run ID={run.id!r}. Attempted logging new value "
            f"{_short(new)!r}.",
            code="param-changed",
        )
    if name := shown_name(dict(tags).get(RUN_NAME_TAG, "")):
        rows.change(connection, run.id, name=name)


async def _write(
    plane: Plane,
    principal: Principal,
    run_id: str,
    work: Callable[[Connection, Run], T],
    *,
    recorded: bool = False,
    more: bool = False,
) -> T:
    """Runs ``work`` in the transaction in which the run was found, with a row of its own. ``recorded``: it
    changes what the run has measured or made, not only how it is called. ``more``: it takes room."""
    if more:
        plane.check_space()

    def all_of_it(connection: Connection) -> T:
        run = find(connection, principal, run_id, Role.MEMBER)
        if recorded:
            check_open(connection, run)
        else:
            _check_begun(run)
        if run.own:
            job = job_rows.find(connection, run.id)
            assert job is not None
            rows.open_own(connection, job)
        return work(connection, run)

    return await plane.database.write(all_of_it)


# Beginning, ending, reading.


async def create(
    plane: Plane,
    principal: Principal,
    experiment_id: str,
    name: str | None,
    user: str,
    start_us: int | None,
    tags: Pairs,
) -> Said:
    """A tracking run: inside the job whose attempt asks, else in the project alone."""
    for key, value in tags:
        check_key(key, "tag")
        _check_length(value, LONGEST_TAG, f"tag {key!r}")
    plane.check_space()
    named = dict(tags)
    shown = shown_name(name or named.get(RUN_NAME_TAG) or "") or new_id("run-")
    said = {**named, RUN_NAME_TAG: shown}
    run_id = new_id("rn")
    where = plane.layout.run(run_id)
    # Before the row: whoever finds the run finds its directory.
    await plane.on_files(functools.partial(where.mkdir, parents=True, mode=0o700))

    def work(connection: Connection) -> Said:
        if principal.attempt is not None:
            job = attempts.living(connection, *principal.attempt)
            experiments.check_own(job, experiment_id)
            project_id, job_id, attempt = job.project_id, job.id, job.attempt
            if rows.count_in_job(connection, job_id) >= MOST_RUNS:
                raise Conflict(
                    f"The job {job_id} has begun {MOST_RUNS:,} runs, which is as many as one may begin.",
                    code="too-many-runs",
                )
        else:
            project_id = experiments.place_for_run(connection, principal, experiment_id).id
            job_id, attempt = None, 0
        run = Run(
            id=run_id, project_id=project_id, job_id=job_id, attempt=attempt, name=shown,
            status=RunStatus.RUNNING, user=user[:200] or principal.user_id,
            start_us=now_us() if start_us is None else start_us,
        )  # fmt: skip
        rows.create(connection, run, principal.user_id, tuple(said.items()))
        return rows.said(connection, [run])[0]

    try:
        return await plane.database.write(work)
    except BaseException:
        await asyncio.shield(plane.on_files(where.rmdir))
        raise


async def update(
    plane: Plane,
    principal: Principal,
    run_id: str,
    status: RunStatus | None,
    end_us: int | None,
    name: str | None,
) -> Run:
    """What a job's own run is doing says the job: of that, only another name is taken."""

    def work(connection: Connection, run: Run) -> Run:
        values: dict[str, object] = {}
        if shown := shown_name(name or ""):
            values["name"] = shown
            rows.set_tags(connection, run.id, [(RUN_NAME_TAG, shown)])
        if not run.own:
            if status is not None or end_us is not None:
                check_open(connection, run)
            if status is not None:
                over = status not in (RunStatus.RUNNING, RunStatus.SCHEDULED)
                values |= {"status": status.value, "end_us": (end_us or now_us()) if over else None}
            elif end_us is not None:
                values["end_us"] = end_us
        if values:
            rows.change(connection, run.id, **values)
        return find(connection, principal, run_id, Role.VIEWER)

    return await _write(plane, principal, run_id, work)


async def run(plane: Plane, principal: Principal, run_id: str) -> Run:
    return await plane.database.read(lambda connection: find(connection, principal, run_id, Role.VIEWER))


async def get(plane: Plane, principal: Principal, run_id: str) -> Said:
    """The run with everything that was said of it."""
    return await plane.database.read(
        lambda connection: rows.said(connection, [find(connection, principal, run_id, Role.VIEWER)])[0]
    )


async def delete(plane: Plane, principal: Principal, run_id: str) -> None:
    """Marks a tracking run. It can be taken back until the housekeeper comes for it."""

    def work(connection: Connection, run: Run) -> None:
        if run.own:
            raise InvalidRequest(
                f"The run {run.id} is a job, and what a job is deleted by is not MLflow.",
                next=f"gradient jobs delete {run.id}",
                code="run-is-job",
            )
        rows.change(connection, run.id, deleted_us=now_us())
        if principal.attempt is None:
            audit.record(connection, "run.delete", "run", run.id, detail=f"in {run.project_id}: {run.name}")

    await _write(plane, principal, run_id, work)


async def restore(plane: Plane, principal: Principal, run_id: str) -> None:
    def work(connection: Connection) -> None:
        run = find(connection, principal, run_id, Role.VIEWER)
        if principal.attempt is None:
            access.place(connection, principal, run.project_id, Role.MEMBER)
        if not run.deleted:
            return
        if run.own or principal.attempt is not None:
            raise InvalidRequest(f"The run {run_id} cannot be taken back from here.", code="cannot-restore")
        rows.change(connection, run.id, deleted_us=None)

    await plane.database.write(work)


def scope(connection: Connection, principal: Principal, experiment_ids: Sequence[str]) -> ColumnElement[bool]:
    """The runs in these projects that exist for whoever asks."""
    if principal.attempt is not None:
        job = attempts.living(connection, *principal.attempt)
        return (rows.ALL.c.job_id == job.id) & rows.ALL.c.project_id.in_(experiment_ids)
    return rows.ALL.c.project_id.in_(access.seen(connection, principal, experiment_ids))


# What may be written.


@functools.lru_cache(10_000)
def check_key(key: str, what: str) -> None:
    """MLflow's rule: a key could be a path below a directory."""
    if not _KEY.fullmatch(key):
        raise InvalidRequest(
            f"{_short(key)!r} is no name of a {what}: 1 to {LONGEST_KEY} letters, digits, and any of "
            "_ - . / : and space.",
            code="bad-key",
        )
    plain = posixpath.normpath(key)
    if plain != key or plain == "." or plain.startswith(("..", "/")):
        raise InvalidRequest(f"{key!r} is no name of a {what}: as a path it leads elsewhere.", code="bad-key")


def _check_length(value: str, longest: int, what: str) -> None:
    if len(value) > longest:
        raise InvalidRequest(
            f"The {what} has {len(value):,} characters; {longest:,} is the most.", code="value-too-long"
        )


def shown_name(name: str) -> str:
    """As a run or a model is called: what can be shown of it; empty when nothing can."""
    return "".join(letter for letter in name if letter.isprintable()).strip()[:250]


def _short(text: str) -> str:
    return text if len(text) <= 100 else f"{text[:100]}…"


def _json_object(text: str) -> dict[str, object]:
    return decode(text, dict[str, object])


def _json_list(text: str) -> list[object]:
    return decode(text, list[object])


def _no_run(run_id: str) -> NotFound:
    return NotFound(
        f"There is no run {_short(run_id)!r}.",
        next="mlflow.search_runs() finds yours. Inside a job those are the job's own.",
        code="no-such-run",
    )
