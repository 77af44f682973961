"""The independent witness: a file that the jobs themselves append to, out of reach of our own records.

Every job of a fault test writes ``begin`` and ``end`` lines with its id, attempt, pid and start time to a
file in its owner's ``/storage``, each synced before it goes on. They stand there in the order of events.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import NamedTuple

NAME = "witness"

#: For ``sh``: defines ``begin`` and ``end``.
SHELL = """
testify() {
  what=$1; read -r line < /proc/$$/stat; set -- $line
  echo "$what $GRADIENT_JOB_ID $GRADIENT_ATTEMPT $$ ${22}" >> "$GRADIENT_STORAGE_DIR/witness"
  sync "$GRADIENT_STORAGE_DIR/witness"
}
begin() { testify begin; }
end() { testify end; }
"""


class Line(NamedTuple):
    what: str
    job: str
    attempt: str
    pid: str
    start: str


def read(storage: Path) -> list[Line]:
    path = storage / NAME
    if not path.exists():
        return []
    return [Line(*line.split()) for line in path.read_text().splitlines()]


def check(lines: list[Line], *, one_at_a_time: bool = False) -> Counter[str]:
    """P3 and P4: no attempt began twice, and no second attempt was made. Returns how often each job began.

    ``one_at_a_time``: the jobs shared one machine, so that no two may have run side by side.
    """
    began = Counter((line.job, line.attempt) for line in lines if line.what == "begin")
    twice = {key: count for key, count in began.items() if count > 1}
    assert not twice, f"started more than once: {twice}"
    again = {job: attempt for job, attempt in began if attempt != "1"}
    assert not again, f"run again by itself: {again}"
    if one_at_a_time:
        open_job = ""
        ends = {line.job for line in lines if line.what == "end"}
        for line in lines:
            if line.what == "begin":
                assert open_job not in ends, f"{line.job} began while {open_job} ran"
                open_job = line.job
            elif line.job == open_job:
                open_job = ""
    return Counter(job for job, _ in began)
