"""Machine types: the sizes a job may ask for."""

from __future__ import annotations

from gradient_jupyter.client.transport import Transport
from gradient_jupyter.resources.machine_type import MachineType
from gradient_jupyter.resources.page import MachineTypes as Page


class MachineTypes:
    """The server's machine types. ``client.machine_types``."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self) -> tuple[MachineType, ...]:
        """All of them, the full ones too, with how many jobs of each size would start now."""
        return self._transport.request("GET", "/machine-types", Page).items
