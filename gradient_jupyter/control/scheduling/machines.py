"""Machine types: what the configuration names, measured against what the engine's nodes have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from gradient_jupyter.engines.base import Node
from gradient_jupyter.resources.machine_type import MachineType
from gradient_jupyter.store.ledger import Claim

#: Solo's own type: everything the host has, so one job at a time.
WHOLE_HOST = "local"


class Size(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A named size as an administrator writes it down."""

    cpus: float
    memory_bytes: int
    gpus: int = 0
    description: str = ""


class Room(msgspec.Struct, kw_only=True):
    """What is left of one node."""

    node: str
    cpus: float
    memory_bytes: int
    gpus: list[str]

    def holds(self, size: Size) -> bool:
        # Half a per mille of slack: fractions of cores add up inexactly.
        return (
            self.cpus + 0.0005 >= size.cpus
            and self.memory_bytes >= size.memory_bytes
            and len(self.gpus) >= size.gpus
        )

    def take(self, size: Size) -> tuple[str, ...]:
        self.cpus -= size.cpus
        self.memory_bytes -= size.memory_bytes
        taken, self.gpus = tuple(self.gpus[: size.gpus]), self.gpus[size.gpus :]
        return taken

    def takes(self, claim: Claim) -> bool:
        """Takes exactly what the claim names, if all of it is there."""
        size = Size(cpus=claim.cpus, memory_bytes=claim.memory_bytes, gpus=len(claim.gpus))
        if not self.holds(size) or not set(claim.gpus) <= set(self.gpus):
            return False
        self.gpus = [*claim.gpus, *(gpu for gpu in self.gpus if gpu not in claim.gpus)]
        self.take(size)
        return True


def sizes(configured: Mapping[str, Size], nodes: Sequence[Node], whole_host: bool) -> dict[str, Size]:
    """Every machine type by name. ``whole_host``: also ``local``, as large as the first node."""
    found: dict[str, Size] = {}
    if whole_host and nodes:
        host = nodes[0]
        found[WHOLE_HOST] = Size(
            cpus=host.cpus, memory_bytes=host.memory_bytes, gpus=len(host.gpus),
            description="this whole machine, one job at a time",
        )  # fmt: skip
    found.update(configured)
    return found


def rooms(nodes: Iterable[Node], claims: Iterable[Claim] = ()) -> list[Room]:
    """What each node that is up has left after the claims."""
    left = {
        node.name: Room(
            node=node.name, cpus=node.cpus, memory_bytes=node.memory_bytes,
            gpus=[gpu.uuid for gpu in node.gpus],
        )
        for node in nodes
        if node.up
    }  # fmt: skip
    for claim in claims:
        room = left.get(claim.node)
        if room is not None:
            room.cpus -= claim.cpus
            room.memory_bytes -= claim.memory_bytes
            room.gpus = [gpu for gpu in room.gpus if gpu not in claim.gpus]
    return list(left.values())


def fits(size: Size, left: Iterable[Room]) -> int:
    """How many jobs of this size the rooms hold."""
    count = 0
    for room in left:
        each = []
        if size.cpus > 0:
            each.append(int((room.cpus + 0.0005) // size.cpus))
        if size.memory_bytes > 0:
            each.append(room.memory_bytes // size.memory_bytes)
        if size.gpus > 0:
            each.append(len(room.gpus) // size.gpus)
        count += max(0, min(each, default=0))
    return count


def offer(
    known: Mapping[str, Size], nodes: Sequence[Node], claims: Sequence[Claim]
) -> tuple[MachineType, ...]:
    """The machine types as people see them, with what is free of each."""
    return tuple(
        MachineType(
            name=name, cpus=size.cpus, memory_bytes=size.memory_bytes, gpus=size.gpus,
            description=size.description, free=fits(size, rooms(nodes, claims)),
            capacity=fits(size, rooms(nodes)),
        )
        for name, size in known.items()
    )  # fmt: skip
