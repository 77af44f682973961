"""Projects: the list of them, and which one a directory's jobs belong to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import msgspec

from gradient_jupyter.client.transport import Transport
from gradient_jupyter.resources.decoding import decode
from gradient_jupyter.resources.errors import InvalidRequest, NotFound
from gradient_jupyter.resources.page import Projects as Page
from gradient_jupyter.resources.project import CreateProject, Project

#: Where Gradient's users keep the project of a directory.
CONFIG = Path(".ps_project") / "config.json"
_LONGEST_NAME = 200
_PAGE = 200


class Projects:
    """All projects you may see. ``client.projects``."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self) -> Iterator[Project]:
        cursor = None
        while True:
            page = self._transport.request("GET", "/projects", Page, query={"limit": _PAGE, "cursor": cursor})
            yield from page.items
            if (cursor := page.next) is None:
                return

    def create(self, name: str) -> Project:
        return self._transport.request("POST", "/projects", Project, body=CreateProject(name=name))

    def get(self, project_id: str) -> Project:
        return self._transport.request("GET", f"/projects/{quote(project_id, safe='')}", Project)

    def find(self, name: str) -> Project:
        """The project of that name."""
        for project in self.list():
            if project.name == name:
                return project
        raise NotFound(f"There is no project named {name!r}.", next="gradient projects list shows them.")

    def delete(self, project_id: str, *, jobs: bool = False) -> Project:
        """Removes a project. One that holds jobs is kept, unless ``jobs`` says that they go too."""
        return self._transport.request(
            "DELETE",
            f"/projects/{quote(project_id, safe='')}",
            Project,
            query={"jobs": "delete" if jobs else None},
        )


class _Config(msgspec.Struct, frozen=True, rename="camel"):
    project: str | None = None
    project_id: str | None = None


def of_directory(directory: Path) -> tuple[str | None, str | None]:
    """Name or id of the project that a directory's jobs belong to; one of the two is None.

    The name comes before the id: files that Paperspace's own client wrote hold ids of another world.
    """
    root = directory.resolve()
    if (config := _read(root / CONFIG)) is not None:
        if config.project:
            return config.project, None
        if config.project_id:
            return None, config.project_id
    name = "".join(letter if letter.isprintable() else "_" for letter in root.name)[:_LONGEST_NAME]
    if not name:
        raise InvalidRequest(f"{root} has no name to call a project by.", next="Name one: --project NAME.")
    return name, None


def _read(path: Path) -> _Config | None:
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise InvalidRequest(f"{path} cannot be read: {error.strerror}.") from error
    try:
        return decode(content, type=_Config)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(
            f"{path} is not what it should be: {error}.",
            next='It looks like {"project": "name"}; or name a project with --project.',
        ) from error
