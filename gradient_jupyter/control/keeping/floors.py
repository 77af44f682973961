"""Which releases of what we start on closed holes that concern us, and which installed ones are older.

A distribution may carry the fix under an older number, so this says "older than upstream's fix", no more.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple


class Below(NamedTuple):
    package: str
    installed: str
    floor: str
    why: str


_FLOORS = (
    ("tornado", "6.5.3", "a small request could keep a server busy (CVE-2025-67726)"),
    ("jupyter-server", "2.20.0", "notebooks ran scripts with the user's rights, and logs held tokens"),
    ("jupyterlab", "4.6.2", "opened files and images ran scripts with the user's rights"),
    ("notebook", "7.5.6", "opened files ran scripts with the user's rights"),
    ("jupyterhub", "5.5.2", "narrow rights could become an administrator's, and sites could act for users"),
    ("jupyter-server-proxy", "4.2.0", "requests passed without a login, and to other hosts"),
    ("onnx", "1.21.0", "a model could read files outside its directory"),
    ("torch", "2.6", "loading weights ran code even where that was switched off"),
    ("keras", "3.13.2", "loading a model ran code even in safe mode"),
    ("skops", "0.13", "loading a model ran code it did not show"),
)


def below() -> Iterator[Below]:
    """What is installed and older than its floor. What is not installed concerns nobody."""
    for package, floor, why in _FLOORS:
        try:
            installed = version(package)
        except PackageNotFoundError:
            continue
        if release(installed) < release(floor):
            yield Below(package, installed, floor, why)


def release(text: str) -> tuple[int, ...]:
    """The numbers a version begins with, without zeros at the end."""
    match = re.match(r"(?:\d+!)?(\d+(?:\.\d+)*)", text)
    numbers = [int(part) for part in match[1].split(".")] if match else []
    while numbers and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)
