"""Work that hangs: whoever waits for it is told, others have their turn, and the server ends all the same."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading

import pytest

from gradient_jupyter.control.apart import Apart
from gradient_jupyter.resources.errors import ServerError


def test_what_hangs_is_given_up_and_others_have_their_turn():
    async def main() -> None:
        apart = Apart("reader", 1, 0.05)
        hanging = threading.Event()
        with pytest.raises(ServerError) as told:
            await apart.run(hanging.wait)
        assert told.value.code == "read-hangs"
        assert await apart.run(lambda: 7) == 7
        hanging.set()

    asyncio.run(main())


def test_what_work_raises_is_raised():
    async def main() -> None:
        with pytest.raises(ZeroDivisionError):
            await Apart("reader", 1, 60).run(lambda: 1 // 0)

    asyncio.run(main())


def test_cancelled_callers_make_no_more_turns():
    async def main() -> None:
        apart = Apart("reader", 1, 60)
        begun, end, second = threading.Event(), threading.Event(), threading.Event()

        def first() -> None:
            begun.set()
            end.wait()

        task = asyncio.ensure_future(apart.run(first))
        await asyncio.to_thread(begun.wait)
        task.cancel()
        await asyncio.wait({task})
        other = asyncio.ensure_future(apart.run(second.set))
        await asyncio.sleep(0)
        assert not second.is_set()
        end.set()
        await other
        assert second.is_set()

    asyncio.run(main())


def test_a_process_ends_though_a_thread_hangs():
    script = (
        "import asyncio, threading\n"
        "from gradient_jupyter.control.apart import Apart\n"
        "async def main():\n"
        "    await Apart('reader', 1, 0.05).run(threading.Event().wait)\n"
        "asyncio.run(main())\n"
    )
    command = [sys.executable, "-c", script]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert "ServerError" in ended.stderr
