"""The second half of ``scripts/clients``: one virtual environment for each set of requirements.

Its directory is named after the requirements' content, so what is complete is never changed and can be used
by many at once. While it is made a lock is held; only what was finished bears a stamp, and what a kill left
half made is made anew.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import sys
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parent
REQUIREMENTS = SCRIPTS.parent / "tests" / "requirements"


def main(name: str) -> None:
    file = REQUIREMENTS / f"{name}.txt"
    if not file.is_file():
        known = ", ".join(sorted(each.stem for each in REQUIREMENTS.glob("*.txt")))
        sys.exit(f"clients: there are no requirements {name!r}; there are: {known}")
    place = cache()
    place.mkdir(parents=True, exist_ok=True)
    content = file.read_bytes() + f"\n{sys.version} {sys.prefix} {place}".encode()
    venv = place / f"client-{name}-{hashlib.sha256(content).hexdigest()[:16]}"
    stamp = venv / "gradient-client"
    if not stamp.exists():
        with venv.with_name(f"{venv.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not stamp.exists():  # or another made it while we waited
                make(venv, file)
                stamp.write_text(file.read_text())
    os.utime(venv)  # what is used is not old
    print(venv / "bin")


def cache() -> Path:
    """Where ``.ci/run`` keeps its environments too."""
    named = Path(os.environ.get("GRADIENT_VENV") or ".venv")
    if named.is_absolute():
        return named.parent
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "gradient_jupyter-ci"


def make(venv: Path, requirements: Path) -> None:
    os.environ["GRADIENT_VENV"] = str(venv)
    sys.path.insert(0, str(SCRIPTS))
    import _bootstrap as bootstrap  # it works on the environment that the variable names

    bootstrap.make_venv()
    bootstrap.say(f"installing {requirements.name} (the first time takes a minute or two)")
    bootstrap.pip("install", bootstrap.PIP)
    bootstrap.pip("install", "--requirement", str(requirements))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: scripts/clients NAME")
    try:
        main(sys.argv[1])
    except OSError as error:  # no space, no right to write there
        sys.exit(f"clients: {error}")
