from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gradient_jupyter.control.machines import Room, Size, fits, offer, rooms, sizes
from gradient_jupyter.control.queue import place
from gradient_jupyter.engines.base import Node
from gradient_jupyter.resources.machine_type import Gpu
from gradient_jupyter.store.jobs import Waiting
from gradient_jupyter.store.ledger import Claim

GPUS = tuple(Gpu(uuid=f"GPU-{n}", name="fake", memory_bytes=1) for n in range(3))
NODE = Node(name="here", up=True, cpus=4, memory_bytes=8, gpus=GPUS)
SIZES = {
    "half": Size(cpus=0.5, memory_bytes=1),
    "gpu": Size(cpus=1, memory_bytes=1, gpus=1),
    "two": Size(cpus=2, memory_bytes=2, gpus=2),
    "all": Size(cpus=4, memory_bytes=8, gpus=3),
}
waiting = st.lists(st.sampled_from([*SIZES, "unknown"])).map(
    lambda names: [Waiting(job_id=f"j{n}", machine_type=name) for n, name in enumerate(names)]
)


@given(waiting)
def test_nothing_is_given_out_twice_and_nobody_overtakes(jobs):
    placed = place(jobs, SIZES, rooms([NODE]))
    assert sum(each.size.cpus for each in placed) <= NODE.cpus
    assert sum(each.size.memory_bytes for each in placed) <= NODE.memory_bytes
    gpus = [gpu for each in placed for gpu in each.gpus]
    assert len(gpus) == len(set(gpus))
    assert all(len(each.gpus) == each.size.gpus for each in placed)
    known = [job.job_id for job in jobs if job.machine_type in SIZES]
    assert [each.job_id for each in placed] == known[: len(placed)]


@given(waiting)
def test_whoever_is_first_and_fits_is_placed(jobs):
    known = [job for job in jobs if job.machine_type in SIZES]
    assert bool(place(jobs, SIZES, rooms([NODE]))) == bool(known)


def test_a_claim_takes_its_gpus_by_name():
    claim = Claim(
        job_id="j", attempt=1, node="here", machine_type="gpu", cpus=1, memory_bytes=1, gpus=("GPU-1",)
    )
    (room,) = rooms([NODE], [claim])
    assert room.gpus == ["GPU-0", "GPU-2"]
    assert (room.cpus, room.memory_bytes) == (3, 7)


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
