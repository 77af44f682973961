"""Jobs are found again: by project, state, tag, name, machine type and time."""

from __future__ import annotations

import datetime
from typing import Any

import click
import pytest

from gradient_jupyter.cli.options import Moment


def test_jobs_are_found_by_what_they_are(gradient: Any) -> None:
    def run(*words: str) -> str:
        return str(gradient("run", "--json", "--project", "found", *words).json["id"])

    good = run("--name", "Train_100%", "--tag", "a", "--tag", "b", "true")
    bad = run("--name", "train-2", "--tag", "a", "false")
    lost = run("--name", "other", "--machineType", "local", "no-such-program")

    def found(*words: str) -> list[str]:
        listed = gradient("jobs", "list", "--project", "found", "--json", *words)
        assert listed.code == 0, listed.err
        return [job["id"] for job in listed.json]

    assert found() == [lost, bad, good]
    assert found("--state", "Stopped") == [good]
    assert found("--state", "stopped", "--state", "Failed") == [lost, bad, good]
    assert found("--state", "Running") == []
    assert found("--tag", "a") == [bad, good]
    assert found("--tag", "a", "--tag", "b") == found("--tags", "a,b") == [good]
    assert found("--name", "TRAIN") == [bad, good]
    assert found("--name", "0%") == found("--name", "n_1") == [good], "% and _ are themselves"
    assert found("--machineType", "local") == [lost]
    assert found("--since", "1h") == [lost, bad, good]
    assert found("--until", "1h") == []
    assert found("--since", "2999-01-01") == []
    assert found("--limit", "1") == [lost]
    assert found("--limit", "1", "--all") == [lost, bad, good]
    assert "No job is like that." in gradient("jobs", "list", "--tag", "no such tag").err
    for wrong in (("--since", "soon"), ("--state", "Done"), ("--until", "99999d" * 9)):
        assert gradient("jobs", "list", *wrong).code == 2


@pytest.mark.parametrize(
    "text", ["2026-11-24", "2026-11-24 14:30", "2026-11-24T14:30:05", "2026-11-24T14:30Z"]
)
def test_times_are_local_unless_they_say_another(text: str) -> None:
    expected = datetime.datetime.fromisoformat(text)
    assert Moment().convert(text, None, None) == expected.astimezone()


def test_a_duration_is_so_long_ago() -> None:
    ago = datetime.timedelta(minutes=90)
    before = datetime.datetime.now(datetime.UTC)
    meant = Moment().convert("1h30m", None, None)
    assert before <= meant + ago <= datetime.datetime.now(datetime.UTC)
    for wrong in ("", "now", "2026-13-01", "-2h", "1e9", "999999999999d"):
        with pytest.raises(click.BadParameter, match="no time"):
            Moment().convert(wrong, None, None)
