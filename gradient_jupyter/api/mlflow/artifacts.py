"""Artifacts over MLflow's HTTP: listed, read, put, deleted. What comes in is never held in memory."""

from __future__ import annotations

from gradient_jupyter.api.mlflow.face import everywhere, who
from gradient_jupyter.api.routes import Call, Right, Route, by_its_sink
from gradient_jupyter.api.streams import FileAnswer
from gradient_jupyter.control.mlflow import run_files
from gradient_jupyter.control.mlflow.run_files import Upload
from gradient_jupyter.resources import mlflow as wire
from gradient_jupyter.resources.errors import InvalidRequest
from gradient_jupyter.resources.owner import Role
from gradient_jupyter.workspace.inside import Entry


async def of_run(call: Call) -> wire.FilesAnswer:
    """Their paths count from the run's artifacts."""
    asked: wire.ListArtifacts = call.query
    directory = (asked.path or "").strip("/")
    place = await run_files.place_of_run(*who(call), asked.run, directory)
    assert place.run is not None, "it is the place of one"
    return wire.FilesAnswer(
        root_uri=f"mlflow-artifacts:/{place.run.project_id}/{place.run.id}/artifacts",
        files=files(await run_files.entries(call.plane, place), directory),
    )


async def listing(call: Call) -> wire.FilesAnswer:
    """Their paths count from the directory that was asked for."""
    place = await run_files.place_of(*who(call), call.query.path or "", Role.VIEWER)
    return wire.FilesAnswer(files=files(await run_files.entries(call.plane, place), ""))


async def read(call: Call) -> FileAnswer:
    place = await run_files.place_of(*who(call), call.path["path"], Role.VIEWER)
    if not place.name:
        raise InvalidRequest("An artifact is read by its name.", code="bad-path")
    file, artifact = await run_files.open_one(*who(call), place)
    return FileAnswer(call.plane, file, artifact, call.headers.get("Range"))


async def still(call: Call) -> None:
    await run_files.place_of(*who(call), call.path["path"], Role.VIEWER)


async def delete(call: Call) -> wire.Nothing:
    place = await run_files.place_of(*who(call), call.path["path"], Role.MEMBER)
    await run_files.delete(*who(call), place)
    return wire.Nothing()


class Intake:
    """``routes.Sink``: one file, whole or not at all."""

    def __init__(self, call: Call) -> None:
        declared = call.headers.get("Content-Length", "")
        size = int(declared) if declared.isascii() and declared.isdecimal() and len(declared) < 19 else 0
        self._upload = Upload(*who(call), call.path["path"], size)
        self._begun = False

    async def feed(self, chunk: bytes) -> None:
        await self._begin()
        await self._upload.feed(chunk)

    async def finish(self) -> wire.Nothing:
        await self._begin()
        await self._upload.finish()
        return wire.Nothing()

    async def cut(self) -> None:
        await self._upload.discard()

    async def abort(self) -> None:
        await self._upload.discard()

    async def _begin(self) -> None:
        """Whether it may be put there is asked before the first byte is taken."""
        if not self._begun:
            self._begun = True
            await self._upload.begin()


def files(found: list[Entry], directory: str) -> tuple[wire.FileInfo, ...]:
    before = f"{directory}/" if directory else ""
    return tuple(
        wire.FileInfo(
            path=before + each.name,
            is_dir=each.is_directory,
            file_size=None if each.is_directory else each.size,
        )
        for each in found
    )


def routes() -> list[Route]:
    at = "/mlflow-artifacts/artifacts"
    octets = "application/octet-stream"
    return list(everywhere([
        Route("GET", "/mlflow/artifacts/list", Right.READ, of_run, query=wire.ListArtifacts,
              returns=wire.FilesAnswer, summary="What lies in a directory of a run's artifacts"),
        Route("GET", at, Right.READ, listing, query=wire.Path, returns=wire.FilesAnswer,
              summary="What lies in a directory of artifacts"),
        Route("GET", f"{at}/{{path...}}", Right.READ, read, returns=bytes, media=octets,
              still=still, summary="One artifact", headers={"Range": "One range of bytes."}),
        Route("PUT", f"{at}/{{path...}}", Right.WRITE, by_its_sink, sink=Intake, returns=wire.Nothing,
              still=still, summary="Put an artifact"),
        Route("DELETE", f"{at}/{{path...}}", Right.WRITE, delete, returns=wire.Nothing,
              summary="Delete an artifact"),
    ]))  # fmt: skip
