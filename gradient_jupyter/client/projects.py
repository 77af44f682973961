"""Projects: the list of them, and who shares them."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import quote

from gradient_jupyter.client.transport import Transport
from gradient_jupyter.resources.errors import NotFound
from gradient_jupyter.resources.owner import Membership, Role, SetMember
from gradient_jupyter.resources.page import Members as MemberPage
from gradient_jupyter.resources.page import Projects as Page
from gradient_jupyter.resources.project import CreateProject, Project, UpdateProject

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

    def rename(self, project_id: str, name: str) -> Project:
        """Another name; everything in it stays."""
        path = f"/projects/{quote(project_id, safe='')}"
        return self._transport.request("PATCH", path, Project, body=UpdateProject(name=name), repeatable=True)

    def members(self, project_id: str) -> Members:
        """Who shares a project."""
        return Members(self._transport, project_id)

    def delete(self, project_id: str, *, jobs: bool = False) -> Project:
        """Removes a project. One that holds jobs is kept, unless ``jobs`` says that they go too."""
        return self._transport.request(
            "DELETE",
            f"/projects/{quote(project_id, safe='')}",
            Project,
            query={"jobs": "delete" if jobs else None},
        )


class Members:
    """Who shares one project. ``client.projects.members(project_id)``.

    People are named by their names, or as ``user:ID``; groups as ``group:NAME``.
    """

    def __init__(self, transport: Transport, project_id: str) -> None:
        self._transport = transport
        self._path = f"/projects/{quote(project_id, safe='')}/members"

    def list(self) -> tuple[Membership, ...]:
        """The owner first."""
        return self._transport.request("GET", self._path, MemberPage).items

    def set(self, who: str, role: Role | str = Role.MEMBER) -> Project:
        """Makes somebody a member, or changes their role (``viewer``, ``member``, ``admin``)."""
        body = SetMember(role=Role(role))
        return self._transport.request("PUT", self._of(who), Project, body=body, repeatable=True)

    def remove(self, who: str) -> tuple[Membership, ...]:
        """Ends a membership; returns who is left."""
        return self._transport.request("DELETE", self._of(who), MemberPage).items

    def _of(self, who: str) -> str:
        return f"{self._path}/{quote(who, safe='')}"
