"""``gradient run`` and ``gradient jobs create``: a directory goes, output and exit code come back."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest
from solo import SoloServer

from .conftest import command, environment


def test_a_script_runs_as_if_it_were_here(gradient: Any) -> None:
    ended = gradient("run", "train.py", "--epochs", "1", "-v")
    assert ended.code == 0
    assert ended.out == "epoch 1/1  loss 0.27 --epochs 1 -v\n"
    assert "careful\n" in ended.err
    assert "✓ sent" in ended.err
    assert "✓ Stopped" in ended.err


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("--env", "CODE=3", "train.py"), 3, "✗ Failed"),
        (("sh", "-c", "exit 42"), 42, "✗ Failed"),
        (("no-such-program",), 127, "✗ Failed"),
        (("sh", "-c", "kill -9 $$"), 137, "✗ Failed"),
        (("--", "true"), 0, "✓ Stopped"),
    ],
)
def test_its_exit_code_is_ours(gradient: Any, words: tuple[str, ...], code: int, says: str) -> None:
    ended = gradient("run", *words)
    assert ended.code == code
    assert says in ended.err
    assert ("  Next  " in ended.err) == (code != 0)


def test_the_output_is_the_jobs_byte_for_byte(gradient: Any, directory: Path) -> None:
    (directory / "say.py").write_text(
        "import sys\nsys.stdout.write('\\x1b[31mred \\x1b]0;title\\x07 ü € 🍃\\r\\n\\tno end')\n"
    )
    assert gradient("run", "say.py", LC_ALL="C", PYTHONIOENCODING="ascii").out == (
        "\x1b[31mred \x1b]0;title\x07 ü € 🍃\r\n\tno end"
    )


def test_json_leaves_standard_output_to_the_job_object(gradient: Any) -> None:
    ended = gradient("run", "--json", "--env", "CODE=3", "train.py")
    assert ended.code == 3
    assert ended.json["id"].startswith("j")
    assert (ended.json["state"], ended.json["exit_code"]) == ("Failed", 3)
    assert "epoch 1/1" in ended.err


def test_our_options_end_at_the_program(gradient: Any) -> None:
    ended = gradient("run", "--name", "mine", "echo", "--json", "--name", "theirs", "--help")
    assert (ended.code, ended.out) == (0, "--json --name theirs --help\n")
    assert "mine #" in ended.err


def test_detached_prints_the_id_and_leaves(gradient: Any) -> None:
    ended = gradient("run", "-d", "train.py")
    assert ended.code == 0
    (job_id,) = ended.out.splitlines()
    assert gradient("jobs", "waitfor", job_id).code == 0
    shown = gradient("run", "--detach", "--json", "train.py").json
    assert shown["command"] == ["python", "train.py"]


@pytest.mark.parametrize("words", [("--", "sh", "-c", "exit 4"), ("--command", "sh -c 'exit 4'")])
def test_create_takes_the_command_in_gradients_ways(gradient: Any, words: tuple[str, ...]) -> None:
    ended = gradient("jobs", "create", "--project", "created", *words)
    assert ended.code == 0
    assert gradient("jobs", "waitfor", ended.out.strip()).code == 4
    assert gradient("jobs", "create", "--follow", "--workspace", "none", *words).code == 4


def test_options_reach_the_job(gradient: Any) -> None:
    job = gradient(
        "run", "--json", "-d", "--machineType", "small", "--project", "opted", "--name", "named",
        "-e", "A=1", "-e", "B", "-e", "C=x=y", "true", B="from here",
    ).json  # fmt: skip
    assert (job["machine_type"], job["project"], job["name"]) == ("small", "opted", "named")
    assert job["env"] == {"A": "1", "B": "from here", "C": "x=y"}


def test_a_script_elsewhere_is_found_in_its_workspace(gradient: Any, directory: Path, tmp_path: Path) -> None:
    (other := tmp_path / "elsewhere").mkdir()
    assert gradient("run", "--workspace", str(directory), "train.py", cwd=other).code == 0
    whole = gradient(
        "run", "-d", "--json", "--workspace", str(directory), str(directory / "train.py"), cwd=other
    )
    assert whole.json["command"] == ["python", "train.py"]


def test_a_dry_run_shows_what_would_go_and_sends_nothing(gradient: Any, directory: Path) -> None:
    (directory / ".gradientignore").write_text("*.ckpt\n")
    (directory / "model.ckpt").write_bytes(b"x" * 5_000_000)
    (directory / "unsent.txt").write_text(str(directory))
    sheet = gradient("run", "--dry-run", "train.py")
    assert sheet.code == 0
    for part in (
        "leaf-health",
        "would send",
        "3 files",
        "unsent.txt",
        "new",
        "*.ckpt",
        ".gradientignore",
        "5.0 MB",
    ):
        assert part in sheet.out
    first, second = (gradient("run", "--dry-run", "--json", "train.py").json for _ in range(2))
    assert {file["path"] for file in first["files"]} == {".gradientignore", "train.py", "unsent.txt"}
    assert first == second
    assert first["new_bytes"] >= len(str(directory))
    gradient("run", "true")
    assert gradient("run", "--dry-run", "--json", "train.py").json["new_bytes"] == 0


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("run",), 2, "Say what to run"),
        (("run", ""), 2, "Say what to run"),
        (("run", "--bogus", "train.py"), 2, "--bogus"),
        (("run", "--env", "1A=2", "true"), 2, "NAME=VALUE"),
        (("run", "--env", "UNSET_HERE", "true"), 2, "UNSET_HERE"),
        (("run", "--project", "a", "--projectId", "b", "true"), 2, "give one of them"),
        (("run", "--project", "", "true"), 2, "--project is empty"),
        (("run", "--projectId", "pr000000000000", "true"), 1, "pr000000000000"),
        (("run", "--projectId", "../../x", "true"), 1, "next:"),
        (("run", "--machineType", "A100x4", "true"), 1, "A100x4"),
        (("run", "--workspace", "nowhere", "true"), 1, "nowhere"),
        (("run", "--workspace", "/dev/null", "true"), 1, "neither a directory nor a regular file"),
        (("run", "--workspace", "/", "true"), 1, "whole system"),
        (("run", "--project", "a\nb", "true"), 1, "project"),
        (("run", "--name", "a\x1b[2Jb", "true"), 1, "name"),
        (("run", "--name", "x" * 201, "true"), 1, "name"),
        (("run", "--dry-run", "--max-size", "lots"), 1, "which is no size"),
        (("run", "absent.py"), 1, "There is no absent.py"),
        (("run", "train.ipynb"), 1, "gradient run jupyter nbconvert --to notebook --execute train.ipynb"),
        (("jobs", "create"), 2, "Say what to run"),
        (("jobs", "create", "--command", "a 'b"), 2, "cannot be split"),
        (("jobs", "create", "--command", "a", "--", "b"), 2, "once"),
    ],
)
def test_what_cannot_be_run_is_one_sentence(
    gradient: Any, words: tuple[str, ...], code: int, says: str
) -> None:
    ended = gradient(*words)
    assert (ended.code, ended.out) == (code, "")
    assert ended.err.startswith("gradient: ")
    assert len(ended.err.splitlines()) <= 2
    assert says in ended.err
    assert "\x1b" not in ended.err


def test_a_zip_a_file_or_nothing_is_sent_in_place_of_the_directory(gradient: Any, directory: Path) -> None:
    with zipfile.ZipFile(directory / "code.zip", "w") as file:
        file.writestr("pkg/main.py", "print('from the zip')")
    zipped = gradient("run", "--workspace", "code.zip", "pkg/main.py")
    assert (zipped.code, zipped.out) == (0, "from the zip\n")
    for name in ("train.py", "./train.py", str(directory / "train.py")):
        alone = gradient("run", "--workspace", name, name, "--alone")
        assert (alone.code, alone.out) == (0, "epoch 1/1  loss 0.27 --alone\n")
    listed = gradient("run", "--workspace", "train.py", "ls")
    assert (listed.code, listed.out) == (0, "train.py\n")
    assert gradient("run", "--workspace", "none", "ls").out == ""


def test_a_dry_run_shows_what_each_kind_would_send(gradient: Any, directory: Path) -> None:
    with zipfile.ZipFile(directory / "code.zip", "w") as file:
        file.writestr("pkg/main.py", "x")
    for name, shows in (
        (".", "train.py"), ("code.zip", "pkg/main.py"), ("train.py", "train.py"), ("none", "0 files")
    ):  # fmt: skip
        ended = gradient("run", "--dry-run", "--workspace", name)
        assert ended.code == 0, ended.err
        assert shows in ended.err + ended.out
        flight = gradient("run", "--dry-run", "--json", "--workspace", name).json
        assert flight["count"] == (2 if name == "." else name != "none")


def test_the_limit_names_the_largest_files_and_how_to_raise_it(gradient: Any, directory: Path) -> None:
    (directory / "data.bin").write_bytes(os.urandom(5000))
    ended = gradient("run", "train.py", GRADIENT_WORKSPACE_LIMIT="3KiB")
    assert ended.code == 1
    assert "data.bin (4.9 KiB)" in ended.err and "--max-size" in ended.err
    assert gradient("run", "--max-size", "1MiB", "train.py", GRADIENT_WORKSPACE_LIMIT="3KiB").code == 0


def test_a_name_that_is_not_utf8_is_named_with_what_to_do(gradient: Any, directory: Path) -> None:
    Path(os.fsdecode(os.fsencode(directory) + b"/caf\xe9.txt")).touch()
    ended = gradient("run", "train.py")
    assert ended.code == 1
    assert "caf\\xe9.txt" in ended.err and "UTF-8" in ended.err and "next:" in ended.err
    (directory / ".gradientignore").write_text("caf*\n")
    assert gradient("run", "train.py").code == 0


def test_errors_are_json_where_json_was_asked_for(gradient: Any) -> None:
    for words in (("run", "--json", "--machineType", "A100x4", "true"), ("run", "--json", "--bogus", "true")):
        ended = gradient(*words)
        assert set(json.loads(ended.err)["error"]) == {"code", "message", "next"}
        assert ended.out == ""


def test_a_cancelled_job_ends_with_130(gradient: Any, solo: SoloServer, directory: Path) -> None:
    running = subprocess.Popen(
        command("run", "sh", "-c", "echo up; sleep 600"), cwd=directory, env=environment(solo),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert running.stdout is not None
    assert running.stdout.readline() == "up\n"
    (job,) = gradient(
        "jobs", "list", "--state", "Running", "--project", "leaf-health", "--json", "-l", "1"
    ).json
    assert gradient("jobs", "stop", job["id"]).code == 0
    _, err = running.communicate(timeout=60)
    assert running.returncode == 130
    assert "⊘ Cancelled" in err


def test_ctrl_c_leaves_and_the_job_goes_on(gradient: Any, solo: SoloServer, directory: Path) -> None:
    running = subprocess.Popen(
        command("run", "sh", "-c", "echo up; sleep 600"), cwd=directory, env=environment(solo),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert running.stdout is not None
    assert running.stdout.readline() == "up\n"
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=60)
    assert running.returncode == 130
    job_id = err.partition("gradient jobs stop ")[2].split()[0]
    assert f"gradient jobs logs --follow {job_id}" in err
    assert gradient("jobs", "show", job_id, "--json").json["state"] == "Running"
    gradient("jobs", "stop", job_id)
    assert gradient("jobs", "waitfor", job_id, "--state", "Cancelled").code == 0


def test_a_reader_that_leaves_is_no_error(solo: SoloServer, directory: Path) -> None:
    line = " ".join(command("run", "python", "-c", "'for n in range(100000): print(n)'")) + " | head -1"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {line}"], cwd=directory, env=environment(solo), capture_output=True,
        text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.stdout == "0\n"
    assert done.returncode == 141
    assert "Traceback" not in done.stderr
    assert "Broken" not in done.stderr


def test_on_a_terminal_colours_stay_and_tricks_go(solo: SoloServer, directory: Path) -> None:
    (directory / "say.py").write_text(
        "import sys\n"
        "print('\\x1b[31mred\\x1b[0m \\x1b]0;title\\x07\\x1b[2J\\x1b[1;1Hover', flush=True)\n"
        "sys.stdout.write('\\x1b]52;c;aGk=\\x07open end')\n"
    )
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        command("run", "say.py"), cwd=directory, env=environment(solo, TERM="xterm", NO_COLOR=""),
        stdin=theirs, stdout=theirs, stderr=theirs,
    ) as running:  # fmt: skip
        os.close(theirs)
        seen = b""
        while True:
            try:
                seen += (data := os.read(ours, 65536))
            except OSError:
                break
            if not data:
                break
    os.close(ours)
    assert running.returncode == 0
    shown = seen.decode()
    assert "\x1b[31mred\x1b[0m over\r\n" in shown
    assert "open end\x1b[0m\r\n" in shown
    for trick in ("title", "\x1b[2J", "\x1b[1;1H", "aGk="):
        assert trick not in shown
    assert "\x1b[32m✓ Stopped\x1b[0m" in shown
