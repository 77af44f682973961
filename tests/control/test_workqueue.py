from __future__ import annotations

import asyncio

from gradient_jupyter.control.running.workqueue import WorkQueue


def test_a_key_waits_once_and_is_worked_on_by_one_worker():
    async def main():
        work = WorkQueue()
        for _ in range(3):
            work.add("a")
        assert await work.get() == "a"
        work.add("a")
        work.add("a")
        work.add("b")
        assert await work.get() == "b"  # `a` is still somebody's
        work.done("a")
        assert await work.get() == "a"  # and is looked at once more, because it changed meanwhile
        work.done("a")
        work.done("b")
        again = asyncio.ensure_future(work.get())
        await asyncio.sleep(0)
        assert not again.done()
        again.cancel()

    asyncio.run(main())


def test_failures_come_back_later_and_later_until_one_succeeds():
    async def main():
        work = WorkQueue(first_delay_s=0.001, longest_delay_s=0.02)
        delays = []
        for _ in range(8):
            work.add("a")
            await work.get()
            delays.append(work.failed("a"))
        assert delays[0] < 0.002 and max(delays) <= 0.02 * 1.2
        assert delays[4] > delays[0]
        assert await work.get() == "a"
        work.done("a")
        work.add("a")
        await work.get()
        assert work.failed("a") < 0.002
        work.close()

    asyncio.run(main())
