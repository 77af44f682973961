"""What a job is asked to be, made and checked on this side, where the person still is."""

from __future__ import annotations

import os
import sys

import msgspec

from gradient_jupyter.resources.decoding import convert
from gradient_jupyter.resources.errors import InvalidRequest
from gradient_jupyter.resources.job import CreateJob, HostEnvironment, RerunJob, UpdateJob

_LONGEST_PATH = 4096
#: Fields that a person fills in, by what they are called when one of them does not fit.
_SAID = {
    "command": "an argument of the command",
    "project": "the project's name",
    "project_id": "the project's id",
    "name": "the job's name",
    "machine_type": "the machine type",
    "env": "a variable of the environment",
    "tags": "a tag",
    "retries": "the number of retries",
    "priority": "the priority",
    "max_duration_s": "the longest run",
    "unset": "a variable's name",
    "ports": "the ports",
    "datasets": "a dataset",
}


def host_environment() -> HostEnvironment | None:
    """This process's Python and search path, for engines that run where it lives."""
    if not sys.executable.startswith("/"):
        return None
    entries = dict.fromkeys(os.environ.get("PATH", "").split(os.pathsep))
    usable = (one for one in entries if one.startswith("/") and len(one) <= _LONGEST_PATH and _utf8(one))
    return HostEnvironment(python=sys.executable, path=tuple(usable))


def check_request(request: CreateJob | RerunJob | UpdateJob) -> None:
    """Raises InvalidRequest, in a person's words, where ``request`` breaks the rules of its type."""
    for field, said in _SAID.items():
        value = getattr(request, field, None)
        words = (*value, *value.values()) if isinstance(value, dict) else value
        for word in words if isinstance(words, tuple) else (words,):
            if isinstance(word, str) and not _utf8(word):
                raise InvalidRequest(f"{word!a} cannot be {said}: it is not UTF-8.")
    try:
        convert(msgspec.to_builtins(request), type(request))
    except msgspec.ValidationError as error:
        why, _, where = str(error).partition(" - at `$.")
        field = where.rstrip("`").partition(".")[0].partition("[")[0]
        raise InvalidRequest(
            f"This cannot be {_SAID.get(field, field)}: {_shown(request, field)}.",
            next=_NEXT.get(field, why + "."),
        ) from error


_NEXT = {
    "project": "A name is one line of 1 to 200 characters.",
    "name": "A name is one line of 1 to 200 characters.",
    "machine_type": "gradient machineTypes lists them.",
    "env": "A name is letters, digits and _; a value has no null byte and at most 128 KiB.",
    "tags": "A tag is one line of 1 to 100 characters; there are at most 50 of them.",
    "retries": "It is a number from 0 to 100.",
    "priority": "It is a number from -100 to 100.",
    "max_duration_s": "It is a number of seconds above 0, at most a year.",
    "ports": "There are at most 20, written EXT:INT or EXT:INT:scheme; EXT is from 1024 to 65535.",
    "datasets": "It is named like mnist, or mnist:3 for one version; there are at most 50 of them.",
    "command": "It has no null byte and at most 128 KiB; there are at most 4096 of them.",
}


def _shown(request: CreateJob | RerunJob | UpdateJob, field: str) -> str:
    text = repr(getattr(request, field, ""))
    return text if len(text) <= 80 else text[:80] + "…"


def _utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
