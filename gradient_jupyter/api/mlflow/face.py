"""The dialect: MLflow's prefixes, its error shape, its pages."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from gradient_jupyter.api.routes import Call, Face, Inside, Route
from gradient_jupyter.control.people.access import Principal
from gradient_jupyter.control.plane import Plane
from gradient_jupyter.resources.errors import GradientError, InvalidRequest, NotFound
from gradient_jupyter.resources.mlflow import MOST_IDS, MOST_RESULTS, ErrorAnswer, Pair

#: The second is what MLflow's own pages call.
_PREFIXES = ("/api/2.0", "/ajax-api/2.0")

#: MLflow's codes for ours. A client that meets one it does not know cannot even say what was wrong.
_BY_CODE = {
    "name-taken": "RESOURCE_ALREADY_EXISTS",
    "no-such-route": "ENDPOINT_NOT_FOUND",
    "feature-disabled": "FEATURE_DISABLED",
    "no-space": "RESOURCE_EXHAUSTED",
    "run-over": "INVALID_STATE",
}
_BY_STATUS = {
    400: "INVALID_PARAMETER_VALUE",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "RESOURCE_DOES_NOT_EXIST",
    405: "ENDPOINT_NOT_FOUND",
    409: "RESOURCE_CONFLICT",
    413: "RESOURCE_LIMIT_EXCEEDED",
    423: "FEATURE_DISABLED",
    503: "TEMPORARILY_UNAVAILABLE",
    507: "RESOURCE_EXHAUSTED",
}
#: What people may look for here and not find, by a part of its path.
_ABSENT = {
    "registered-models": "The model registry is not part of this server yet, so nothing can be registered. "
    "What a run logs stays with it: its artifacts and its logged models.",
    "model-versions": "The model registry is not part of this server yet.",
    "traces": "Traces are not kept by this server.",
    "mpu": "Artifacts are sent whole here; MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD has to be false.",
}


def _refusal(error: GradientError) -> ErrorAnswer:
    known = _BY_CODE.get(error.code) or _BY_STATUS.get(error.status)
    fallback = "INTERNAL_ERROR" if error.status >= 500 else "INVALID_PARAMETER_VALUE"
    return ErrorAnswer(error_code=known or fallback, message=str(error), code=error.code)


def _unknown(path: str) -> GradientError:
    parts = path.split("/")
    for part, sentence in _ABSENT.items():
        if part in parts:
            return NotFound(sentence, code="feature-disabled")
    return NotFound(
        f"This server speaks MLflow's tracking API, and {path[:200]} is not a part of that it knows.",
        next="docs/mlflow.md says what works.",
        code="no-such-route",
    )


MLFLOW = Face("/mlflow", _refusal, unknown=_unknown, lenient=True)


def everywhere(routes: Iterable[Route]) -> Iterator[Route]:
    """Each under both of MLflow's prefixes. What it names is compared with the attempt that asks by
    ``control.mlflow.tracking``, so a running job's token opens it."""
    for route in routes:
        for prefix in _PREFIXES:
            yield replace(route, path=prefix + route.path, face=MLFLOW, inside=Inside.HANDLER)


def who(call: Call) -> tuple[Plane, Principal]:
    return call.plane, call.principal


def pairs(given: tuple[Pair, ...] | None, most: int, what: str) -> list[tuple[str, str]]:
    if given is not None and len(given) > most:
        raise InvalidRequest(
            f"A request carries at most {most} {what}; this one has {len(given)}.", code="too-many"
        )
    return [(each.key, each.text) for each in given or ()]


def shown(given: Iterable[tuple[str, str]]) -> tuple[Pair, ...]:
    return tuple(Pair(key=key, value=value) for key, value in given)


def count(asked: int | None, otherwise: int, most: int = MOST_RESULTS) -> int:
    """How many results a page has."""
    if asked is None:
        return otherwise
    if not 1 <= asked <= most:
        raise InvalidRequest(f"max_results is a number from 1 to {most}, not {asked}.", code="bad-limit")
    return asked


def ids(given: Sequence[str] | None, what: str, most: int = MOST_IDS) -> list[str]:
    """Each of them once, in their order."""
    if given is not None and len(given) > most:
        raise InvalidRequest(
            f"At most {most:,} {what} are asked for at once; this request names {len(given):,}.",
            next="Ask for them in several requests.",
            code="too-many",
        )
    return list(dict.fromkeys(given or ()))


def offset(token: str | None) -> int:
    if not token:
        return 0
    if not (token.isascii() and token.isdecimal() and len(token) < 10):
        raise InvalidRequest(f"{token[:40]!r} is no page token of this server's.", code="bad-cursor")
    return int(token)


def deleted(view: str | int | None) -> bool | None:
    """Which of the deleted a view shows: none of them, only them, or (None) them too."""
    views: dict[Any, bool | None] = {
        None: False, "": False, "ACTIVE_ONLY": False, 1: False, "1": False, "DELETED_ONLY": True, 2: True,
        "2": True, "ALL": None, 3: None, "3": None,
    }  # fmt: skip
    if view not in views:
        raise InvalidRequest(f"{view!r} is no view: ACTIVE_ONLY, DELETED_ONLY or ALL are.", code="bad-view")
    return views[view]
