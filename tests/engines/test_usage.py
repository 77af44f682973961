"""What tasks use. There is no GPU here to ask, so NVIDIA's library is played; everything else is real."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from gradient_jupyter.engines.local import usage


class Nvml:
    """Of two GPUs, the second a part of one, which says less."""

    NVML_TEMPERATURE_GPU = 0

    class NVMLError(Exception):
        pass

    def __init__(self) -> None:
        self.open = 0

    def nvmlInit(self):
        self.open += 1

    def nvmlShutdown(self):
        self.open -= 1

    def nvmlDeviceGetHandleByUUID(self, uuid):
        if uuid not in ("GPU-1", "MIG-2"):
            raise self.NVMLError("not found")
        return uuid

    def nvmlDeviceGetUtilizationRates(self, device):
        if device == "MIG-2":
            raise self.NVMLError("not supported")
        return SimpleNamespace(gpu=97, memory=41)

    def nvmlDeviceGetMemoryInfo(self, device):
        return SimpleNamespace(used=6 << 30, free=2 << 30)

    def nvmlDeviceGetPowerUsage(self, device):
        return 212_500

    def nvmlDeviceGetTemperature(self, device, sensor):
        if device == "MIG-2":
            raise self.NVMLError("not supported")
        return 71


@pytest.fixture
def nvml(monkeypatch):
    played = Nvml()
    monkeypatch.setitem(sys.modules, "pynvml", played)
    return played


@pytest.fixture
def child():
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process
    process.communicate()


def test_gpus_are_asked_by_uuid_and_say_what_they_can(nvml, child):
    found = usage.measure({"t": (os.getpid(), ("GPU-1", "MIG-2", "GPU-gone")), "idle": (os.getpid(), ())})
    first, second = found["t"].gpus
    assert (first.uuid, first.utilization, first.memory_utilization) == ("GPU-1", 97, 41)
    assert (first.memory_used, first.memory_free) == (6 << 30, 2 << 30)
    assert (first.power_w, first.temperature_c) == (212.5, 71)
    assert (second.uuid, second.utilization, second.memory_used) == ("MIG-2", None, 6 << 30)
    assert second.temperature_c is None
    assert found["idle"].gpus == ()
    assert nvml.open == 0


def test_without_a_driver_there_are_simply_no_gpus(nvml, monkeypatch, child):
    def refuse():
        raise Nvml.NVMLError("driver not loaded")

    monkeypatch.setattr(nvml, "nvmlInit", refuse)
    assert usage.measure({"t": (os.getpid(), ("GPU-1",))})["t"].gpus == ()


def test_of_a_supervisor_without_processes_there_is_nothing_to_tell(child):
    assert usage.measure({"t": (child.pid, ())}) == {}
    assert usage.measure({}) == {}
