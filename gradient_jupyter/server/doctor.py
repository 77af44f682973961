"""``python -m gradient_jupyter.server.doctor [--full] [--data DIR]``: an installation, from its files alone.

For when no server runs, or none can start. Starts none, changes nothing, prints one ``Diagnosis`` as JSON.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import cast

import msgspec

from gradient_jupyter.control.keeping.doctor import Known, examine
from gradient_jupyter.control.layout import Layout
from gradient_jupyter.engines.local import inventory
from gradient_jupyter.engines.local.world import Worlds
from gradient_jupyter.resources.admin import Check, Diagnosis, Level
from gradient_jupyter.resources.server import data_root
from gradient_jupyter.server.claimed import keyring
from gradient_jupyter.server.dataroot import read_mark
from gradient_jupyter.server.program import GradientServer, Isolation


def main(argv: list[str]) -> None:
    full = "--full" in argv
    program = GradientServer()
    wrong = ""
    try:
        program.initialize([word for word in argv if word != "--full"])
    except (Exception, SystemExit) as error:  # whatever stands in a configuration file
        wrong = f"The configuration cannot be read: {error}."
    layout = Layout(Path(program.data).expanduser().absolute() if program.data else data_root())
    with tempfile.TemporaryDirectory(prefix="gradient-doctor-") as scratch:
        worlds = Worlds.probe(cast("Isolation", program.isolation), Path(scratch))
    known = Known(
        reserve_bytes=program.reserve_bytes,
        ballast_bytes=program.ballast_bytes,
        isolation=worlds.sentence(),
        contained=worlds.bubblewrap is not None,
        gpus=tuple(gpu.name for gpu in inventory.gpus()),
        keyring=keyring(read_mark(layout.install)),
    )
    found = examine(layout, known, full=full)
    if wrong:
        check = Check(
            name="configuration", level=Level.FAIL, message=wrong, next="Correct it, or move it away."
        )
        found = Diagnosis(data=found.data, running=found.running, checks=(check, *found.checks))
    sys.stdout.buffer.write(msgspec.json.encode(found) + b"\n")


if __name__ == "__main__":
    main(sys.argv[1:])
