"""Retries, limits, tags and re-runs, as they are typed and as they are shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gradient_jupyter.cli.options import Duration


def test_a_job_is_tried_again_and_the_sheet_tells_of_each_attempt(gradient: Any) -> None:
    code = 'test "$GRADIENT_ATTEMPT" = 2'
    ended = gradient("run", "--retries", "3", "--max-duration", "1h", "--tag", "nightly", "sh", "-c", code)
    assert ended.code == 0
    job = gradient("jobs", "list", "--tag", "nightly", "--json", "--limit", "1").json[0]
    sheet = gradient("jobs", "show", job["id"]).out
    for part in (
        "attempt 2 of at most 4",
        "1 h 00 an attempt",
        "nightly",
        "✗ Attempt 1",
        "exit code 1",
        "Retrying",
    ):
        assert part in sheet
    assert gradient("jobs", "list", "--tag", "nightl", "--json").json == []


def test_whoever_follows_is_told_that_another_attempt_comes(gradient: Any, own_solo: Any) -> None:
    ended = gradient("run", "--retries", "1", "sh", "-c", "exit 3", server=own_solo.start())
    assert ended.code == 3
    assert "retrying   Attempt 1 of at most 2: The command ended with exit code 3" in ended.err


def test_a_job_is_run_again_with_another_command_and_other_variables(gradient: Any) -> None:
    first = gradient("run", "--json", "--env", "CODE=3", "--retries", "1", "train.py")
    assert first.code == 3
    source = first.json["id"]
    again = gradient("jobs", "rerun", source, "--", "sh", "-c", "echo $CODE; ls")
    assert again.code == 0
    assert gradient("jobs", "waitfor", again.out.strip()).code == 0
    assert gradient("jobs", "logs", again.out.strip()).out == "3\ntrain.py\n"
    fixed = gradient("jobs", "clone", "--follow", "--unset", "CODE", "--retries", "0", "--json", source)
    assert (fixed.code, fixed.json["rerun_of"], fixed.json["retries"]) == (0, source, 0)
    assert source in gradient("jobs", "show", fixed.json["id"]).out
    missing = gradient("jobs", "rerun", "jnothing")
    assert missing.code == 1
    assert "no job" in missing.err


def test_a_run_over_its_limit_ends_with_124_and_says_what_to_do(gradient: Any) -> None:
    ended = gradient("run", "--maxDuration", "0.2s", "sleep", "600")
    assert ended.code == 124
    assert "longer than its limit of 0.2 s" in ended.err
    assert "--max-duration" in ended.err


def test_tags_are_changed(gradient: Any) -> None:
    job = gradient("run", "--json", "--tag", "a", "--tag", "b", "true").json["id"]
    assert gradient("jobs", "tags", "add", job, "c", "a", "--json").json["tags"] == ["a", "b", "c"]
    assert gradient("jobs", "tags", "remove", "--id", job, "--tag", "b", "--json").json["tags"] == ["a", "c"]
    assert gradient("jobs", "tags", "set", job, "--json").json["tags"] == []
    assert "no tags" in gradient("jobs", "tags", "set", job).err
    assert gradient("jobs", "tags", "add", job).code == 2


@pytest.mark.parametrize(
    ("typed", "seconds"),
    [
        *(("90", 90), ("90s", 90), ("1.5m", 90), ("2h", 7200), ("1h30m", 5400), ("1D", 86400)),
        *((text, None) for text in (" 5 s", "0", "-1", "h", "1x", "1h 30m", "", "1e3", "nan")),
    ],
)
def test_durations_are_read_as_they_are_written(typed: str, seconds: float | None) -> None:
    import click

    if seconds is None:
        with pytest.raises(click.BadParameter, match="no duration"):
            Duration().convert(typed, None, None)
    else:
        assert Duration().convert(typed, None, None) == seconds


def test_what_makes_no_sense_is_a_usage_error(gradient: Any) -> None:
    for words in (("--retries", "-1"), ("--priority", "101"), ("--max-duration", "soon")):
        assert gradient("run", *words, "true").code == 2
    refused = gradient("run", "--tag", "x" * 101, "true")
    assert refused.code == 1
    assert "cannot be a tag" in refused.err and "Traceback" not in refused.err


def test_variables_come_from_a_file_and_the_line_has_the_last_word(gradient: Any, directory: Path) -> None:
    (directory / "vars").write_text("# a comment\nA=1\n\nB='kept as it is'\nCODE=3\nHOST_VARIABLE\n")
    words = ("run", "--env-file", "vars", "--env", "CODE=0", "sh", "-c", 'echo "$A $B $CODE $HOST_VARIABLE"')
    assert gradient(*words, HOST_VARIABLE="h").out == "1 'kept as it is' 0 h\n"
    (directory / "vars").write_text("not a variable\n")
    refused = gradient("run", "--env-file", "vars", "true")
    assert (refused.code, "NAME=VALUE" in refused.err) == (2, True)
    assert gradient("run", "--env-file", "absent", "true").code == 2
