"""From what an engine sees to metrics under Gradient's names."""

from __future__ import annotations

import msgspec

from gradient_jupyter.control.measuring.sampling import _goes_on, _samples, _Watched
from gradient_jupyter.engines.base import GpuUsage, Usage
from gradient_jupyter.store.ledger import Claim

CLAIM = Claim(job_id="j", attempt=1, node="n", machine_type="m", cpus=2, memory_bytes=1, gpus=("a", "b"))


def told(each, at, seen):
    found = {sample.key: (sample.value, sample.step) for sample in _samples(each, at, seen)}
    each.before = at, seen
    return found


def test_cpu_is_a_share_of_what_the_job_was_given():
    each = _Watched(CLAIM, 100.0)
    assert told(each, 101.0, Usage(cpu_s=5, memory_bytes=7)) == {"memoryUsage": (7, 1)}
    found = told(each, 111.0, Usage(cpu_s=15, memory_bytes=7))
    assert found["cpuPercentage"] == (50.0, 11)


def test_processes_that_vanish_between_two_looks_make_no_negative_cpu():
    each = _Watched(CLAIM, 0.0)
    told(each, 1.0, Usage(cpu_s=50, memory_bytes=7))
    assert told(each, 2.0, Usage(cpu_s=10, memory_bytes=7))["cpuPercentage"][0] == 0


def test_several_gpus_have_a_series_each_beside_their_mean_or_sum():
    each = _Watched(CLAIM, 0.0)
    first = GpuUsage(uuid="a", utilization=100, memory_used=10, memory_free=2, power_w=200, temperature_c=70)
    second = GpuUsage(uuid="b", utilization=50, memory_used=20, temperature_c=60)
    found = {
        key: value
        for key, (value, _) in told(each, 1.0, Usage(cpu_s=0, memory_bytes=1, gpus=(first, second))).items()
    }
    assert found == {
        "memoryUsage": 1,
        "gpuUtilization": 75, "gpuUtilization/0": 100, "gpuUtilization/1": 50,
        "gpuMemoryUsed": 30, "gpuMemoryUsed/0": 10, "gpuMemoryUsed/1": 20,
        "gpuMemoryFree": 2, "gpuMemoryFree/0": 2,
        "gpuPowerDraw": 200, "gpuPowerDraw/0": 200,
        "gpuTemp": 65, "gpuTemp/0": 70, "gpuTemp/1": 60,
    }  # fmt: skip
    alone = told(_Watched(CLAIM, 0.0), 1.0, Usage(cpu_s=0, memory_bytes=1, gpus=(first,)))
    assert not any("/" in key for key in alone)


def test_what_ended_while_it_was_looked_at_is_not_written_to():
    """P8: its file has been closed by then, and would be opened once more."""
    each = _Watched(CLAIM, 0.0)
    assert _goes_on(each, {"j": CLAIM, "k": msgspec.structs.replace(CLAIM, job_id="k")})
    assert not _goes_on(each, {})
    assert not _goes_on(each, {"j": msgspec.structs.replace(CLAIM, attempt=2)})
