"""One tree of errors, on both sides of the wire.

Every error has a stable ``code`` that programs may test, one sentence that may be shown to the person
who caused it, and the next step they can take. ``status`` is the HTTP status it travels under.

GradientError
├── InvalidRequest       400  the request cannot be understood
│   └── WorkspaceError   400  the directory cannot be sent as it is
├── Unauthenticated      401  no token, or one we do not know
├── Forbidden            403  known, but not allowed (also: wrong Host, foreign Origin)
├── NotFound             404  absent, or somebody else's: the answer is the same
├── NotAllowed           405  the route exists, the method does not
├── Conflict             409  it contradicts what is there
├── TooLarge             413  over a limit that the sentence names
├── RangeInvalid         416  a byte range outside the file
├── ReadOnly             423  the server only shows what it has: its disk or its database is not in order
├── OutsideFailed        424  somebody outside, whom the server had to ask, did not answer as needed
├── NoSpace              507  the server's disk is full
├── ServerUnavailable    503  the server cannot be reached or is going away (raised by the client)
└── ServerError          500  our mistake; the sentence carries the id under which it was logged
"""

from __future__ import annotations

from typing import ClassVar

import msgspec


class ErrorBody(msgspec.Struct, frozen=True, kw_only=True):
    """An error as it goes over the wire, inside ``{"error": …}``."""

    code: str
    message: str
    next: str = ""


class ErrorAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The body of every answer whose status is 400 or above."""

    error: ErrorBody


class GradientError(Exception):
    """The root. ``str(error)`` is the sentence, followed by the next step when there is one."""

    status: ClassVar[int] = 500
    default_code: ClassVar[str] = "error"

    def __init__(self, message: str, *, next: str = "", code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.next = next
        self.code = code or self.default_code

    def __str__(self) -> str:
        return f"{self.message} {self.next}" if self.next else self.message

    def body(self) -> ErrorBody:
        return ErrorBody(code=self.code, message=self.message, next=self.next)


class InvalidRequest(GradientError):
    status = 400
    default_code = "invalid-request"


class WorkspaceError(InvalidRequest):
    default_code = "workspace"


class Unauthenticated(GradientError):
    status = 401
    default_code = "unauthenticated"


class Forbidden(GradientError):
    status = 403
    default_code = "forbidden"


class NotFound(GradientError):
    status = 404
    default_code = "not-found"


class NotAllowed(GradientError):
    status = 405
    default_code = "method-not-allowed"


class Conflict(GradientError):
    status = 409
    default_code = "conflict"


class TooLarge(GradientError):
    status = 413
    default_code = "too-large"


class RangeInvalid(GradientError):
    status = 416
    default_code = "range-invalid"


class ReadOnly(GradientError):
    status = 423
    default_code = "read-only"


class OutsideFailed(GradientError):
    status = 424
    default_code = "outside-failed"


class NoSpace(GradientError):
    status = 507
    default_code = "no-space"


class ServerUnavailable(GradientError):
    status = 503
    default_code = "server-unavailable"


class ServerError(GradientError):
    status = 500
    default_code = "server-error"


_BY_STATUS: dict[int, type[GradientError]] = {
    kind.status: kind
    for kind in (
        InvalidRequest, Unauthenticated, Forbidden, NotFound, NotAllowed, Conflict, TooLarge,
        RangeInvalid, ReadOnly, OutsideFailed, NoSpace, ServerUnavailable, ServerError,
    )
}  # fmt: skip


def from_answer(status: int, body: ErrorBody) -> GradientError:
    """The error that a server's answer stands for."""
    kind = _BY_STATUS.get(status, InvalidRequest if 400 <= status < 500 else ServerError)
    return kind(body.message, next=body.next, code=body.code)
