"""What this host has for tasks: cores, memory, GPUs, as far as the container around us lets us use them."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from gradient_jupyter.engines.base import Node
from gradient_jupyter.resources.machine_type import Gpu

_CGROUP = Path("/sys/fs/cgroup")


def node() -> Node:
    return Node(name=platform.node(), up=True, cpus=cpus(), memory_bytes=memory_bytes(), gpus=gpus())


def cpus() -> float:
    """Cores we may run on, or the cgroup's share of them if that is less."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, period = 0.0, 0.0
    with contextlib.suppress(OSError, ValueError):
        first, second = (_CGROUP / "cpu.max").read_text().split()
        quota, period = float(first), float(second)
    with contextlib.suppress(OSError, ValueError):
        quota = float((_CGROUP / "cpu/cpu.cfs_quota_us").read_text())
        period = float((_CGROUP / "cpu/cpu.cfs_period_us").read_text())
    return min(float(count), quota / period) if quota > 0 and period > 0 else float(count)


def memory_bytes() -> int:
    """Memory of the host, or the cgroup's limit if that is less."""
    total = psutil.virtual_memory().total
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):
            total = min(total, int((_CGROUP / name).read_text()))
    return total


def gpus() -> tuple[Gpu, ...]:
    """NVIDIA GPUs by UUID; of one that is cut up (MIG), its parts. None without a driver."""
    with nvml() as library:
        if library is None:
            return ()
        try:
            return tuple(gpu for i in range(library.nvmlDeviceGetCount()) for gpu in _parts(library, i))
        except library.NVMLError:
            return ()


@contextlib.contextmanager
def nvml() -> Iterator[Any]:
    """NVIDIA's management library, begun and ended; None where there is no driver."""
    try:
        import pynvml
    except ImportError:  # some systems' packagers leave it out where there are no GPUs
        yield None
        return
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        yield None
        return
    try:
        yield pynvml
    finally:
        with contextlib.suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


def _parts(nvml: Any, index: int) -> list[Gpu]:
    device = nvml.nvmlDeviceGetHandleByIndex(index)
    parts = []
    with contextlib.suppress(nvml.NVMLError):
        if nvml.nvmlDeviceGetMigMode(device)[0]:
            for i in range(nvml.nvmlDeviceGetMaxMigDeviceCount(device)):
                # Places for parts may be empty.
                with contextlib.suppress(nvml.NVMLError):
                    parts.append(_gpu(nvml, nvml.nvmlDeviceGetMigDeviceHandleByIndex(device, i)))
            return parts
    return [_gpu(nvml, device)]


def _gpu(nvml: Any, device: Any) -> Gpu:
    return Gpu(
        uuid=_text(nvml.nvmlDeviceGetUUID(device)),
        name=_text(nvml.nvmlDeviceGetName(device)),
        memory_bytes=int(nvml.nvmlDeviceGetMemoryInfo(device).total),
    )


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value
