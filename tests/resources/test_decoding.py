"""Types that several threads meet at once. Found by a sweep of kills: a server died of it at its start."""

from __future__ import annotations

import subprocess
import sys

import pytest

#: msgspec crashes the interpreter within some dozens of these, when it is asked directly.
SCRIPT = """
import sys, threading, types
import msgspec
from gradient_jupyter.resources.decoding import convert, decode, unpack

SOURCE = '''
from __future__ import annotations
import msgspec
class Inner(msgspec.Struct):
    a: int
class Outer(msgspec.Struct):
    id: str
    inner: Inner | None = None
    more: tuple[Inner, ...] = ()
'''
BODY = {"id": "x", "inner": {"a": 1}, "more": [{"a": 2}]}
ways = {
    "decode": lambda module: decode(msgspec.json.encode(BODY), type=module.Outer),
    "convert": lambda module: convert(BODY, module.Outer),
    "unpack": lambda module: unpack(msgspec.msgpack.encode(BODY), module.Outer),
    "inner": lambda module: decode(b'{"a": 1}', type=module.Inner),
}
sys.setswitchinterval(1e-6)
for number in range(300):
    module = sys.modules[f"fresh{number}"] = types.ModuleType(f"fresh{number}")
    exec(SOURCE, module.__dict__)
    together = threading.Barrier(4)
    def meet(way):
        together.wait()
        found = way(module)
        assert getattr(found, "a", 1) == 1 and getattr(found, "id", "x") == "x"
    threads = [threading.Thread(target=meet, args=(ways[name],)) for name in sys.argv[1].split()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
print("whole")
"""


@pytest.mark.parametrize("ways", ["decode inner decode inner", "decode convert unpack inner"])
def test_a_type_that_threads_meet_at_once_is_met_by_one_after_the_other(ways: str) -> None:
    """Fault: the first rows, requests and files of a new server are decoded by several threads. P10, P11."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, ways], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout) == (0, "whole\n"), done.stderr
