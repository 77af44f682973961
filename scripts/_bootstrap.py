"""The second half of ``scripts/bootstrap``: the virtual environment, with the standard library only.

It must run on a Python that has neither pip nor ensurepip (Debian and Ubuntu package both apart), so
where they are missing pip's wheel is fetched from the package index and asked to install itself.
What is installed is written into a stamp, so that the next call is over in a blink; for the same
reason the rarely needed modules are imported where they are needed.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parent.parent
VENV = CHECKOUT / (os.environ.get("GRADIENT_VENV") or ".venv")
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "gradient-bootstrap.json"
PIP = "pip>=25.1"  # the first that knows --group
# https://packaging.python.org/specifications/simple-repository-api
SIMPLE_JSON = "application/vnd.pypi.simple.v1+json"


def main(groups: list[str]) -> None:
    if not is_done(groups):
        with (CHECKOUT / "pyproject.toml").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # two at a time would write into one environment
            if not is_done(groups):  # or another bootstrap did it while we waited
                bring_about(sorted({*groups, *stamped().get("groups", [])}))
    print(PYTHON.parent)


def is_done(groups: list[str]) -> bool:
    stamp = stamped()
    return {**stamp, "groups": None} == {**situation(), "groups": None} and {*groups} <= {*stamp["groups"]}


def stamped() -> dict[str, Any]:
    try:
        return dict(json.loads(STAMP.read_text()))
    except (OSError, ValueError):
        return {}


def situation() -> dict[str, Any]:
    """What an installation depends on, beside its groups."""
    pyproject = (CHECKOUT / "pyproject.toml").read_bytes()
    return {
        "checkout": str(CHECKOUT),
        "python": python_version(),
        "pyproject": hashlib.sha256(pyproject).hexdigest(),
    }


def python_version() -> str | None:
    """The environment's Python and place; None where it does not start (upgraded or moved away)."""
    show = "import sys; print(sys.version)"
    try:
        answer = subprocess.run([PYTHON, "-I", "-S", "-c", show], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{answer.stdout.strip()} in {VENV}"


def bring_about(groups: list[str]) -> None:
    before, python = stamped().get("python"), python_version()
    STAMP.unlink(missing_ok=True)
    # Its commands carry its path: an environment that was moved, or lost its Python, is made anew.
    if python is None or before not in (None, python) or not succeeds("-m", "pip", "--version"):
        make_venv()
    say(f"installing {' + '.join(['gradient_jupyter', *groups])} (the first time takes a minute or two)")
    pip("install", PIP)
    pip("install", "--editable", ".", *(f"--group={g}" for g in groups))
    STAMP.write_text(json.dumps({**situation(), "groups": groups}))


def make_venv() -> None:
    import shutil
    import venv

    if VENV.exists() and any(VENV.iterdir()) and not (VENV / "pyvenv.cfg").exists():
        sys.exit(f"bootstrap: {VENV} is no virtual environment. Move it away, or set GRADIENT_VENV.")
    say(f"making {VENV} with Python {sys.version.split()[0]}")
    shutil.rmtree(VENV, ignore_errors=True)
    venv.create(VENV, symlinks=True, with_pip=False)
    if not succeeds("-m", "ensurepip"):
        fetch_pip()


def succeeds(*arguments: str) -> bool:
    return subprocess.run([PYTHON, "-I", *arguments], capture_output=True, check=False).returncode == 0


def pip(*arguments: str) -> None:
    command = [str(PYTHON), "-I", "-m", "pip", "--disable-pip-version-check", "--quiet", *arguments]
    done = subprocess.run(command, cwd=CHECKOUT, stdout=sys.stderr, check=False)
    if done.returncode:
        sys.exit(f"bootstrap: pip could not do it (its reason stands above): pip {' '.join(arguments)}")


def fetch_pip() -> None:
    """Take pip's newest wheel from the index, check its digest, and let it install itself."""
    import tempfile
    from urllib.parse import urljoin, urlsplit

    index = pip_setting("index-url") or "https://pypi.org/simple"
    page = index.rstrip("/") + "/pip/"
    say(f"this Python has no pip of its own: fetching it from {urlsplit(index).hostname}")
    try:
        files = json.loads(get(page, accept=SIMPLE_JSON))["files"]
        newest = max((f for f in files if fits(f)), key=lambda f: release(f["filename"]))
        wheel = get(urljoin(page, newest["url"]))
    except (OSError, ValueError, KeyError) as error:
        sys.exit(
            f"bootstrap: no pip from {page}: {error}\n"
            "bootstrap: check the network, name an index in PIP_INDEX_URL, or: apt install python3-venv"
        )
    if hashlib.sha256(wheel).hexdigest() != newest["hashes"]["sha256"]:
        sys.exit(f"bootstrap: {newest['filename']} from {page} is not what the index promised.")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, newest["filename"])
        path.write_bytes(wheel)
        if not succeeds(str(path / "pip"), "install", "--no-index", str(path)):
            sys.exit(f"bootstrap: {newest['filename']} did not install into {VENV}.")


def release(filename: str) -> tuple[int, ...]:
    """``pip-26.0.1-py3-none-any.whl`` → (26, 0, 1); empty for anything but a final release's wheel."""
    import re

    match = re.fullmatch(r"pip-(\d+(?:\.\d+)*)-py3-none-any\.whl", filename)
    return tuple(map(int, match[1].split("."))) if match else ()


def fits(file: dict[str, Any]) -> bool:
    """A final release of pip that the index has not withdrawn and this Python can run."""
    import re

    floor = re.search(r">=\s*3\.(\d+)", file.get("requires-python") or "")
    return bool(
        release(file["filename"])
        and file["hashes"].get("sha256")
        and not file.get("yanked")
        and (floor is None or int(floor[1]) <= sys.version_info.minor)
    )


def get(url: str, accept: str = "*/*") -> bytes:
    """GET as pip would: with the certificates, the proxy and the index password it is configured with."""
    import base64
    import ssl
    import urllib.parse
    import urllib.request

    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("https", "http"):
        raise ValueError("only https and http indexes can be read")
    request = urllib.request.Request(url, headers={"Accept": accept})
    if parts.username:
        login = f"{urllib.parse.unquote(parts.username)}:{urllib.parse.unquote(parts.password or '')}"
        request.full_url = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
        request.add_header("Authorization", "Basic " + base64.b64encode(login.encode()).decode())
    proxy = pip_setting("proxy")
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({"http": proxy, "https": proxy} if proxy else None),
        urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=pip_setting("cert"))),
    )
    with opener.open(request, timeout=60) as answer:
        return bytes(answer.read())


def pip_setting(name: str) -> str | None:
    """A setting of pip's, from where pip reads it: the environment, then its files, the nearest last."""
    import configparser

    value = os.environ.get("PIP_" + name.upper().replace("-", "_"))
    if value:
        return value
    config = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    files = [Path("/etc/pip.conf"), Path.home() / ".pip/pip.conf", config / "pip/pip.conf"]
    named = os.environ.get("PIP_CONFIG_FILE")
    parser = configparser.RawConfigParser()
    parser.read([] if named == os.devnull else [*files, *([named] if named else [])])
    return next((parser[s][name] for s in ("install", "global") if parser.has_option(s, name)), None)


def say(text: str) -> None:
    print("bootstrap:", text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except OSError as error:  # no space, no right to write here
        sys.exit(f"bootstrap: {error}")
