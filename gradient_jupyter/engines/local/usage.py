"""What a task on this host uses: its processes' CPU and memory, its GPUs.

A local task has no control group of its own, so it is its processes: whatever descends from its supervisor,
which every orphan among them comes back to. What a process has used is its parent's to know once it has
ended.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import psutil

from gradient_jupyter.engines.base import GpuUsage, Usage
from gradient_jupyter.engines.local import inventory, process


def measure(tasks: Mapping[str, tuple[int, tuple[str, ...]]]) -> dict[str, Usage]:
    """By key: the supervisor's pid, and the GPUs by UUID. Blocks."""
    processes = process.table()
    wanted = {uuid for _, gpus in tasks.values() for uuid in gpus}
    devices = _gpus(wanted) if wanted else {}
    found = {}
    for key, (pid, gpus) in tasks.items():
        family = process.descendants(pid, processes)
        cpu_s = _cpu_of_the_ended(pid)
        memory_bytes = 0
        for member in family:
            with contextlib.suppress(psutil.Error):
                times = psutil.Process(member).cpu_times()
                cpu_s += times.user + times.system
                # macOS does not tell what a process's children have used.
                cpu_s += getattr(times, "children_user", 0.0) + getattr(times, "children_system", 0.0)
            memory_bytes += _memory(member)
        if family:
            using = tuple(devices[uuid] for uuid in gpus if uuid in devices)
            found[key] = Usage(cpu_s=cpu_s, memory_bytes=memory_bytes, gpus=using)
    return found


def _cpu_of_the_ended(supervisor: int) -> float:
    """The supervisor's own is not the task's; that of the children it has waited for is."""
    with contextlib.suppress(psutil.Error, AttributeError):
        times = psutil.Process(supervisor).cpu_times()
        return float(times.children_user + times.children_system)
    return 0.0


def _memory(pid: int) -> int:
    """Its proportional share where the system tells it, else what is resident."""
    with contextlib.suppress(OSError, ValueError), open(f"/proc/{pid}/smaps_rollup", "rb") as file:  # noqa: PTH123
        for line in file:
            if line.startswith(b"Pss:"):
                return int(line.split()[1]) * 1024
    with contextlib.suppress(psutil.Error):
        return int(psutil.Process(pid).memory_info().rss)
    return 0


def _gpus(wanted: set[str]) -> dict[str, GpuUsage]:
    with inventory.nvml() as nvml:
        if nvml is None:
            return {}
        found = {}
        for uuid in wanted:
            with contextlib.suppress(nvml.NVMLError):
                found[uuid] = _gpu(nvml, uuid)
        return found


def _gpu(nvml: Any, uuid: str) -> GpuUsage:
    device = nvml.nvmlDeviceGetHandleByUUID(uuid)

    def asked(question: Callable[[], Any]) -> Any:
        try:
            return question()
        except nvml.NVMLError:
            return None

    rates = asked(lambda: nvml.nvmlDeviceGetUtilizationRates(device))
    memory = asked(lambda: nvml.nvmlDeviceGetMemoryInfo(device))
    milliwatts = asked(lambda: nvml.nvmlDeviceGetPowerUsage(device))
    temperature = asked(lambda: nvml.nvmlDeviceGetTemperature(device, nvml.NVML_TEMPERATURE_GPU))
    return GpuUsage(
        uuid=uuid,
        utilization=None if rates is None else float(rates.gpu),
        memory_utilization=None if rates is None else float(rates.memory),
        memory_used=None if memory is None else float(memory.used),
        memory_free=None if memory is None else float(memory.free),
        power_w=None if milliwatts is None else milliwatts / 1000,
        temperature_c=None if temperature is None else float(temperature),
    )
