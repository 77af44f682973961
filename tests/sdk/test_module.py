"""``gradient_job`` as a module: what it asks of a Python, what it refuses, what it does outside a job."""

from __future__ import annotations

import ast
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import gradient_job

ROOT = Path(__file__).parents[2]
MODULE = ROOT / "gradient_job.py"


def test_it_is_python_3_8_and_the_standard_library_alone():
    tree = ast.parse(MODULE.read_text(), feature_version=(3, 8))
    imported = {
        name.partition(".")[0]
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names] if isinstance(node, ast.Import)
            else [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        )
    }  # fmt: skip
    assert imported <= sys.stdlib_module_names
    command = [Path(sys.executable).with_name("vermin"), "--target=3.8-", "--violations", "--no-tips"]
    checked = subprocess.run([*command, MODULE], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout


def bare(code: str) -> subprocess.CompletedProcess[str]:
    """On a Python that finds nothing but the standard library and this one file, outside any job."""
    found = f"import sys; sys.path.append({str(ROOT)!r}); import gradient_job; sys.path.pop()\n"
    return subprocess.run(
        [sys.executable, "-I", "-S", "-c", found + code], env={}, capture_output=True, text=True, check=False
    )


def test_outside_a_job_it_does_nothing_and_says_so_once():
    done = bare(
        "import os, threading\n"
        "for n in range(100):\n"
        "    gradient_job.log_metrics({'loss': n}); gradient_job.log_metric('x', n)\n"
        "gradient_job.set_progress(0.5); print(gradient_job.flush(), threading.active_count())\n"
    )
    assert (done.returncode, done.stdout) == (0, "True 1\n")
    assert done.stderr == "gradient_job: this is no job of Gradient's, so nothing is logged\n"


def test_importing_it_starts_nothing_and_loads_no_more_than_it_needs():
    done = bare(
        "import threading\n"
        "print(threading.active_count(), sorted({'asyncio', 'multiprocessing'} & {*sys.modules}))\n"
    )
    assert (done.stdout, done.stderr) == ("1 []\n", "")


WRONG = [
    ("log_metrics({1: 1})", "TypeError"),
    ("log_metrics({'': 1})", "ValueError"),
    ("log_metrics({'a' * 251: 1})", "ValueError"),
    ("log_metrics({'a\\n': 1})", "ValueError"),
    ("log_metrics({'a': '1'})", "TypeError"),
    ("log_metrics({'a': None})", "TypeError"),
    ("log_metrics({'a': [1]})", "TypeError"),
    ("log_metrics({'a': 1j})", "TypeError"),
    ("log_metrics({'a': 10 ** 400})", "ValueError"),
    ("log_metrics({'a': 1}, step='3')", "TypeError"),
    ("log_metrics({'a': 1}, step=0.5)", "TypeError"),
    ("log_metrics({'a': 1}, step=float('nan'))", "TypeError"),
    ("log_metrics({'a': 1}, step=2 ** 63)", "ValueError"),
    ("log_metrics({'a': 1}, time=-1)", "ValueError"),
    ("log_metrics({'a': 1}, time=float('inf'))", "ValueError"),
    ("log_metrics({'a': 1}, time='now')", "TypeError"),
    ("log_metrics(5)", "AttributeError"),
    ("set_progress(1.5)", "ValueError"),
    ("set_progress(float('nan'))", "ValueError"),
    ("set_progress('half')", "TypeError"),
    ("set_progress(0.5, 7)", "TypeError"),
]


@pytest.mark.parametrize(("call", "error"), WRONG)
def test_a_wrong_argument_is_refused_at_once_also_outside_a_job(call, error):
    namespace = {"gradient_job": gradient_job}
    with pytest.raises((TypeError, ValueError, AttributeError)) as refused:
        exec(f"gradient_job.{call}", namespace)
    assert type(refused.value).__name__ == error


def test_the_package_gives_the_same_function_and_stays_cheap_to_import():
    code = (
        "import sys, gradient_jupyter\n"
        "print(sorted({'gradient_job', 'http', 'msgspec', 'threading'} & {*sys.modules} - before))\n"
        "import gradient_job\n"
        "print(gradient_jupyter.log_metrics is gradient_job.log_metrics)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", "import sys; before = {*sys.modules}\n" + code],
        capture_output=True, text=True, check=True, cwd=ROOT,
    )  # fmt: skip
    assert done.stdout == "[]\nTrue\n"


@pytest.mark.slow
def test_the_wheel_brings_it_beside_the_package(tmp_path):
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", tmp_path, ROOT],
        check=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "gradient_job.py" in names and "gradient_jupyter/__init__.py" in names
    assert {name.partition("/")[0] for name in names if ".dist-info" not in name} == {
        "gradient_job.py", "gradient_jupyter",
    }  # fmt: skip


def in_job(code: str, url: str, spool: Path) -> subprocess.CompletedProcess[str]:
    environment = {"GRADIENT_JOB_URL": url, "GRADIENT_SPOOL_DIR": str(spool), "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-S", "-c", "import gradient_job\n" + code],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("url", ["http://localhost:port/x", "http://localhost:99999/x", "http://[::1/x"])
def test_an_address_that_is_none_is_told_once_and_the_file_has_the_points(url, tmp_path):
    """Training never fails of it. The server reads the file when the run is over."""
    done = in_job(
        "for n in range(50): gradient_job.log_metric('x', n); gradient_job.set_progress(n / 50)\n"
        "print(gradient_job.flush())\n",
        url,
        tmp_path,
    )
    assert (done.returncode, done.stdout) == (0, "False\n"), done.stderr
    assert done.stderr.count("\n") == 1 and "GRADIENT_JOB_URL is no address" in done.stderr
    (spooled,) = tmp_path.glob("*.points")
    assert len(spooled.read_text().splitlines()) == 50


def test_where_no_thread_can_be_started_the_file_has_the_points_and_the_end_comes_once(tmp_path):
    """Fault: the limit of processes is reached. Each call asks again, none leaves anything behind."""
    done = in_job(
        "import atexit, threading\n"
        "def none(self): raise RuntimeError('cannot start a thread')\n"
        "start, threading.Thread.start = threading.Thread.start, none\n"
        "before = atexit._ncallbacks()\n"
        "for n in range(50): gradient_job.log_metric('x', n)\n"
        "print(atexit._ncallbacks() - before, gradient_job.flush())\n",
        "http://127.0.0.1:9/x",
        tmp_path,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "1 False\n", "")
    (spooled,) = tmp_path.glob("*.points")
    assert len(spooled.read_text().splitlines()) == 50
