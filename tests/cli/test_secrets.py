"""``gradient secrets``."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from solo import PATIENCE_S, SoloServer

from .conftest import command, environment

PRINT = (sys.executable, "-c", "import os; print(len(os.environ['V']), os.environ['V'])")


def piped(solo: SoloServer, directory: Path, data: bytes, *words: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        command("secrets", "set", *words), cwd=directory, env=environment(solo), input=data,
        capture_output=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip


def test_a_secret_is_piped_in_used_by_a_job_listed_and_deleted(
    gradient: Any, solo: Any, directory: Path
) -> None:
    done = piped(solo, directory, b"hf_AbCdEf\n", "hf")
    assert (done.returncode, done.stdout) == (0, b"")
    assert b"set" in done.stderr and b"hf_AbCdEf" not in done.stderr
    ran = gradient("run", "--env", "V=secret:hf", *PRINT)
    assert (ran.code, ran.out) == (0, "9 ***\n")
    listed = gradient("secrets", "list")
    assert "hf" in listed.out and "AbCdEf" not in listed.out
    assert gradient("secrets", "delete", "hf").code == 0
    refused = gradient("run", "--env", "V=secret:hf", *PRINT)
    assert refused.code == 1
    assert "no secret 'hf'" in refused.err and "gradient secrets set hf" in refused.err


def test_a_secret_is_asked_for_where_there_is_a_terminal_and_not_shown(solo: Any, directory: Path) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        command("secrets", "set", "typed"), cwd=directory, env=environment(solo), stdin=theirs, stdout=theirs,
        stderr=theirs, start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    seen = b""
    while b"Value of typed" not in seen:
        seen += os.read(ours, 1024)
    os.write(ours, b"canary-typed\n")
    while True:
        try:
            more = os.read(ours, 1024)
        except OSError:  # the other end is closed
            break
        if not more:
            break
        seen += more
    assert process.wait(PATIENCE_S) == 0, seen
    os.close(ours)
    assert b"canary" not in seen and b"set" in seen


def test_the_words_of_gradients_users_are_understood(gradient: Any) -> None:
    project = gradient("projects", "create", "words of old").out.strip()
    ended = gradient("secrets", "set", "project", "--id", project, "--name", "old", "--value", "the old way")
    assert ended.code == 0
    assert "history" in ended.err and "the old way" not in ended.err
    assert "old" in gradient("secrets", "list", "project", "--id", project).out
    assert "old" in gradient("secrets", "list", "--project", "words of old").out
    ran = gradient("run", "--projectId", project, "-e", "V=secret:old", *PRINT)
    assert ran.out == "11 ***\n"
    assert gradient("secrets", "delete", "project", "--id", project, "--name", "old").code == 0
    assert "No secrets of the project" in gradient("secrets", "list", "--projectId", project).err
    assert gradient("secrets", "set", "user", "--name", "mine", "--value", "my own value").code == 0
    assert gradient("secrets", "delete", "user", "--name", "mine").code == 0


def test_a_file_is_taken_but_for_its_last_newline(gradient: Any, directory: Path) -> None:
    (directory / "key.pem").write_text("line one of it\nline two of it\n")
    assert gradient("secrets", "set", "pem", "--from-file", "key.pem", "--json").json["masked"] is True
    ran = gradient("run", "--env", "V=secret:pem", *PRINT)
    assert ran.out == "29 ***\n"
    gradient("secrets", "delete", "pem")


def test_a_short_secret_is_set_with_a_word_of_warning(gradient: Any, solo: Any, directory: Path) -> None:
    done = piped(solo, directory, b"abc", "short")
    assert done.returncode == 0
    assert b"not hidden in logs" in done.stderr
    assert "too short" in gradient("secrets", "list").out
    gradient("secrets", "delete", "short")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("set",), 2, "Name the secret"),
        (("set", "a b", "--value", "x"), 1, "cannot be the name"),
        (("set", "v"), 2, "There is no value"),
        (("set", "v", "--from-file", "nowhere"), 1, "No such file"),
        (("set", "v", "--from-file", "v", "--value", "v"), 2, "give one of them"),
        (("set", "v", "--project", "p", "--team", "t", "--value", "long enough"), 2, "say only whose"),
        (("set", "cluster", "--name", "v", "--value", "long enough"), 2, "no clusters here"),
        (("set", "project", "--name", "v", "--value", "long enough"), 2, "Which project"),
        (("set", "v", "--team", "t", "--value", "long enough"), 1, "no team"),
        (("set", "v", "--project", "no such", "--value", "long enough"), 1, "no project"),
        (("list", "everybody"), 2, "user, project or team"),
        (("list", "user", "--id", "x"), 2, "--id belongs to"),
        (("delete", "nobody"), 1, "no secret"),
        (("delete",), 2, "Name the secret"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_sentence(
    gradient: Any, words: tuple[str, ...], code: int, said: str
) -> None:
    ended = gradient("secrets", *words)
    assert ended.code == code, ended
    assert said in ended.err
    assert "next:" in ended.err or code == 1
    assert "long enough" not in ended.err


def test_an_administrator_changes_the_key(gradient: Any, own_solo: Any) -> None:
    own_solo.start()
    assert gradient("secrets", "set", "v", "--value", "long enough", server=own_solo).code == 0
    before = gradient("secrets", "list", "--json", server=own_solo).json[0]["key_id"]
    ended = gradient("admin", "rotate-key", server=own_solo)
    assert ended.code == 0 and "1 secret is encrypted under it" in ended.err
    after = gradient("secrets", "list", "--json", server=own_solo).json[0]
    assert after["readable"] and after["key_id"] != before
    (key,) = (own_solo.root / "config").rglob("*.secrets/*")
    assert key.name == after["key_id"]
    key.unlink()
    own_solo.stop()
    own_solo.start()
    assert "cannot be read" in gradient("secrets", "list", server=own_solo).out
    assert after["key_id"] in gradient("server", "status", server=own_solo).out
    doctor = gradient("admin", "doctor", server=own_solo)
    assert doctor.code == 1 and "rotate-key" in doctor.out
    own_solo.stop()
    doctor = gradient("admin", "doctor", server=own_solo)
    assert doctor.code == 1 and "rotate-key" in doctor.out
