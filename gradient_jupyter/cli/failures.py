"""Errors as a person, or a program, reads them: a sentence, and the next step."""

from __future__ import annotations

import click

from gradient_jupyter.cli.terminal import note
from gradient_jupyter.cli.text import clean
from gradient_jupyter.resources.errors import ErrorAnswer, ErrorBody, GradientError

USAGE, FAILURE = 2, 1


class Failed(click.ClickException):
    """Something that went wrong here, told in one sentence with its next step."""

    def __init__(self, message: str, next: str = "", exit_code: int = FAILURE, code: str = "failed") -> None:
        super().__init__(message)
        self.next = next
        self.ends_with = exit_code
        self.code = code


def show(error: Exception, *, as_json: bool) -> int:
    """Prints ``error`` on standard error and returns the exit code that goes with it."""
    body, exit_code = _described(error)
    if as_json:
        import msgspec

        note(msgspec.json.encode(ErrorAnswer(error=body)).decode())
    else:
        note(f"gradient: {clean(body.message)}")
        if body.next:
            note(f"  next: {clean(body.next)}")
    return exit_code


def _described(error: Exception) -> tuple[ErrorBody, int]:
    match error:
        case GradientError():
            return error.body(), FAILURE
        case Failed():
            return ErrorBody(code=error.code, message=error.message, next=error.next), error.ends_with
        case click.UsageError():
            path = error.ctx.command_path if error.ctx else "gradient"
            message = error.format_message()
            return ErrorBody(code="usage", message=message, next=f"{path} --help explains it."), USAGE
        case click.ClickException():
            return ErrorBody(code="failed", message=error.format_message()), FAILURE
        case OSError():
            what = error.strerror or str(error)
            where = f"{error.filename}: " if error.filename else ""
            return ErrorBody(code="system", message=f"{where}{what}."), FAILURE
        case _:
            return (
                ErrorBody(
                    code="bug",
                    message=f"This should not have happened: {type(error).__name__}: {error}",
                    next="Set GRADIENT_DEBUG=1 to see where, and please report it.",
                ),
                FAILURE,
            )
