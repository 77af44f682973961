"""What a caller sent, by the types that the route says: placeholders of the address, parameters, body."""

from __future__ import annotations

from functools import cache
from typing import Any
from urllib.parse import unquote_to_bytes

import msgspec
from tornado.escape import parse_qs_bytes
from tornado.httputil import HTTPHeaders

from gradient_jupyter.api.routes import Route
from gradient_jupyter.resources.decoding import convert, decode, decode_lax
from gradient_jupyter.resources.errors import InvalidRequest, TooLarge


def of_placeholders(encoded: dict[str, str]) -> dict[str, str]:
    """What stands for them in the address."""
    if not encoded:
        return {}
    try:
        return {name: unquote_to_bytes(text).decode() for name, text in encoded.items()}
    except UnicodeDecodeError:
        raise InvalidRequest("The address is not valid UTF-8.", code="bad-http") from None


def of_parameters(route: Route, text: str) -> Any:
    """``text`` is what stands behind the question mark."""
    given = parse_qs_bytes(text, keep_blank_values=True) if text else {}
    lenient = route.face.lenient
    if route.query is None:
        if given and not lenient:
            raise InvalidRequest(
                f"Unknown parameter {next(iter(given))[:80]!r}.",
                next="This address takes none.",
                code="bad-query",
            )
        return None
    try:
        several = _repeated(route.query)
        values: dict[str, object] = {
            name: [each.decode() for each in found]
            if name in several or (lenient and len(found) > 1)
            else found[-1].decode()
            for name, found in given.items()
        }
        return convert(values, route.query, strict=False)
    except (msgspec.ValidationError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"A parameter is wrong: {error}.", code="bad-query") from error


def of_body(route: Route, body: bytes) -> Any:
    if route.body is None:
        if body:
            raise InvalidRequest("This address takes no body.", code="bad-body")
        return None
    try:
        if route.face.lenient:
            return decode_lax(body or b"{}", route.body)
        return decode(body, type=route.body)
    except msgspec.ValidationError as error:
        raise InvalidRequest(
            f"The body does not fit: {error}.",
            next="" if route.face.lenient else "GET /api/v1/openapi.json has its schema.",
            code="bad-body",
        ) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f"The body is no JSON: {error}.", code="bad-json") from error


def check_size(route: Route, size: int) -> None:
    """Refuses a body of so many bytes, where the route has no sink, which has limits of its own."""
    limit = route.limit
    if route.sink is None and size > limit:
        if limit == 0:
            raise InvalidRequest("This address takes no body.", code="bad-body")
        raise TooLarge(
            f"The body is larger than the {limit / 2**20:.0f} MiB that this address takes.",
            next="Send less at once.",
            code="body-too-large",
        )


def declared(headers: HTTPHeaders) -> int:
    """How long the body is said to be: 0 where that is not said, as it comes in chunks."""
    text = headers.get("Content-Length", "")
    if not (text.isascii() and text.isdecimal()):
        return 0
    return int(text) if len(text) < 19 else 1 << 62


@cache
def _repeated(query: type) -> frozenset[str]:
    """The parameters that may be given more than once: those whose default is an empty tuple."""
    return frozenset(field.name for field in msgspec.structs.fields(query) if field.default == ())
