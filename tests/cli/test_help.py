"""Help is quick, complete and the same wherever it is asked for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from verbtree import ALL

from gradient_jupyter import __version__
from gradient_jupyter.cli.verbs import JOB_VERBS, VERBS

_ROOT = Path(__file__).parents[2]

GROUPS = {
    (): VERBS,
    ("jobs",): JOB_VERBS,
    ("jobs", "artifacts"): ("list", "download", "delete"),
    ("projects",): ("list", "create", "show", "rename", "delete", "members", "init", "clear"),
    ("projects", "members"): ("list", "add", "set", "remove"),
    ("server",): ("start", "stop", "status"),
    ("secrets",): ("list", "set", "delete"),
    ("admin",): ("df", "gc", "doctor", "rotate-key"),
}


@pytest.mark.parametrize("words", [(*group, verb) for group, verbs in GROUPS.items() for verb in verbs])
def test_every_verb_explains_itself(gradient: Any, words: tuple[str, ...]) -> None:
    ended = gradient(*words, "--help")
    assert ended.code == 0
    assert ended.out.startswith("Usage: gradient " + " ".join(words))
    assert ended.err == ""


def test_no_line_of_any_help_is_wider_than_a_terminal() -> None:
    wide = [
        (path, line)
        for path, command in ALL.items()
        for line in command.get_help(click.Context(command, info_name=path, terminal_width=80)).splitlines()
        if len(line) > 80
    ]
    assert wide == []


@pytest.mark.parametrize("words", [(), ("--help",), ("-h",), ("help",)])
def test_the_overview_names_every_verb(gradient: Any, words: tuple[str, ...]) -> None:
    ended = gradient(*words)
    assert ended.code == 0
    for verb in VERBS:
        assert f"\n  {verb} " in ended.out
    assert max(map(len, ended.out.splitlines())) <= 100


@pytest.mark.parametrize(
    ("words", "unloaded"),
    [
        (["--help"], {"click", "msgspec", "urllib3", "rich", "argparse"}),
        (["run", "--help"], {"msgspec", "urllib3", "rich", "jupyter_core", "yaml"}),
        (["jobs", "--help"], {"msgspec", "urllib3", "rich", "jupyter_core", "yaml"}),
    ],
)
def test_help_loads_nothing_it_does_not_show(words: list[str], unloaded: set[str]) -> None:
    program = (
        "import atexit, sys\n"
        f"sys.argv = ['gradient', *{words!r}]\n"
        f"atexit.register(lambda: print(sorted(sys.modules.keys() & {unloaded!r}), file=sys.stderr))\n"
        "from gradient_jupyter.cli import main\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=_ROOT, check=True
    )
    assert done.stderr.strip() == "[]"


def test_the_client_loads_nothing_of_the_server() -> None:
    program = (
        "import sys, pkgutil, importlib, gradient_jupyter.client, gradient_jupyter.cli\n"
        "for room in (gradient_jupyter.client, gradient_jupyter.cli):\n"
        "    for module in pkgutil.iter_modules(room.__path__, room.__name__ + '.'):\n"
        "        if not module.name.endswith('__main__'): importlib.import_module(module.name)\n"
        "floors = ('engines', 'store', 'control', 'api', 'server')\n"
        "ours = {f'gradient_jupyter.{floor}' for floor in floors}\n"
        "print(sorted(sys.modules.keys() & (ours | {'tornado', 'sqlalchemy', 'alembic', 'traitlets'})))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=_ROOT, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("words", [("--version",), ("version",), ("version", "--json")])
def test_the_version_is_the_packages(gradient: Any, words: tuple[str, ...]) -> None:
    ended = gradient(*words)
    assert ended.code == 0
    assert __version__ in ended.out


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_a_script_that_asks_us(gradient: Any, shell: str) -> None:
    assert "_GRADIENT_COMPLETE" in gradient("completion", shell).out


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("gradient ser", ["server"]),
        ("gradient jobs sto", ["stop"]),
        ("gradient run --machineT", ["--machineType"]),
    ],
)
def test_words_are_completed(gradient: Any, line: str, offered: list[str]) -> None:
    words = line.split(" ")
    ended = gradient(_GRADIENT_COMPLETE="bash_complete", COMP_WORDS=line, COMP_CWORD=str(len(words) - 1))
    assert [word.partition(",")[2] for word in ended.out.split()] == offered
