from __future__ import annotations

from gradient_jupyter.control.scheduling.machines import Room, Size, fits, offer, rooms, sizes
from gradient_jupyter.engines.base import Node
from gradient_jupyter.resources.machine_type import Gpu
from gradient_jupyter.store.ledger import Claim

GPUS = tuple(Gpu(uuid=f"GPU-{n}", name="fake", memory_bytes=1) for n in range(3))
NODE = Node(name="here", up=True, cpus=4, memory_bytes=8, gpus=GPUS)


def test_a_claim_takes_its_gpus_by_name():
    claim = Claim(
        job_id="j", attempt=1, node="here", machine_type="gpu", cpus=1, memory_bytes=1, gpus=("GPU-1",)
    )
    (room,) = rooms([NODE], [claim])
    assert room.gpus == ["GPU-0", "GPU-2"]
    assert (room.cpus, room.memory_bytes) == (3, 7)


def test_a_claim_is_taken_whole_or_not_at_all():
    (room,) = rooms([NODE])

    def claim(gpus=("GPU-1",), cpus=3):
        return Claim(
            job_id="j", attempt=1, node="here", machine_type="gpu", cpus=cpus, memory_bytes=1, gpus=gpus
        )

    assert room.takes(claim())
    assert (room.gpus, room.cpus) == (["GPU-0", "GPU-2"], 1)
    assert not room.takes(claim(cpus=1)), "its GPU is taken"
    assert not room.takes(claim(("GPU-0",), cpus=2)), "its cores are taken"
    assert (room.gpus, room.cpus) == (["GPU-0", "GPU-2"], 1)


def test_a_node_that_is_down_offers_nothing():
    down = Node(name="gone", up=False, cpus=64, memory_bytes=64)
    assert rooms([down]) == []


def test_the_whole_host_holds_one_job_of_its_own_size():
    known = sizes({}, [NODE], whole_host=True)
    assert list(known) == ["local"]
    assert fits(known["local"], rooms([NODE])) == 1
    (local,) = offer(known, [NODE], [])
    assert (local.free, local.capacity, local.gpus) == (1, 1, 3)


def test_tenths_of_cores_add_up():
    size = Size(cpus=0.1, memory_bytes=0)
    room = Room(node="n", cpus=1.0, memory_bytes=1, gpus=[])
    taken = 0
    while room.holds(size):
        room.take(size)
        taken += 1
    assert taken == 10
