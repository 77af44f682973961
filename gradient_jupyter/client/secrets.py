"""Secrets: set, listed by name, deleted. ``client.secrets``.

    client.secrets.set("hf", token)
    client.jobs.create(["python", "train.py"], env={"HF_TOKEN": "secret:hf"})

They are yours, unless ``project_id`` or ``team`` says whose else. Nobody can read a value back.
"""

from __future__ import annotations

from urllib.parse import quote

from gradient_jupyter.client.transport import Transport
from gradient_jupyter.resources import secret as wire
from gradient_jupyter.resources.errors import InvalidRequest
from gradient_jupyter.resources.secret import Secret, SecretValue, SetSecret, check_name, check_value


class Secrets:
    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self, *, project_id: str | None = None, team: str | None = None) -> list[Secret]:
        """What there is, by name."""
        return [*self._transport.request("GET", _path(project_id, team), wire.Secrets).items]

    def set(
        self, name: str, value: str | SecretValue, *, project_id: str | None = None, team: str | None = None
    ) -> Secret:
        """Stores ``value``, in place of what was called so. Returns when it is on the server's disk."""
        text = value.reveal() if isinstance(value, SecretValue) else value
        body = SetSecret(value=check_value(text).reveal())
        path = f"{_path(project_id, team)}/{quote(check_name(name), safe='')}"
        return self._transport.request("PUT", path, Secret, body=body, repeatable=True)

    def delete(self, name: str, *, project_id: str | None = None, team: str | None = None) -> None:
        """Jobs that still wait for it fail, and say why."""
        path = f"{_path(project_id, team)}/{quote(check_name(name), safe='')}"
        self._transport.request("DELETE", path, type(None))


def _path(project_id: str | None, team: str | None) -> str:
    if project_id is not None and team is not None:
        raise InvalidRequest("A secret is a project's or a team's, not both.")
    if project_id is not None:
        return f"/projects/{quote(project_id, safe='')}/secrets"
    return "/secrets/user" if team is None else f"/teams/{quote(team, safe='')}/secrets"
