"""Long loops that yield to the event loop, and a limit for the tasks of one key."""

from __future__ import annotations

import asyncio
from itertools import count

from gregor.cooperative import MAX_CLOSED, SLICE_S, KeyedSemaphore, for_each


async def test_long_loop_lets_other_callbacks_run() -> None:
    loop, done, seen = asyncio.get_running_loop(), list[int](), list[int]()
    ticks = count()

    def watch() -> None:
        seen.append(len(done))
        if len(done) < 40:
            loop.call_soon(watch)

    loop.call_soon(watch)
    await for_each(range(40), done.append, lambda: next(ticks) * SLICE_S / 4)

    assert done == list(range(40))
    assert len(set(seen)) >= 8, "at most five items between two callbacks"


async def test_closed_sockets_are_bounded_between_two_callbacks() -> None:
    loop, closed, seen = asyncio.get_running_loop(), list[int](), list[int]()

    def close(number: int) -> bool:
        closed.append(number)
        loop.call_soon(lambda: seen.append(len(closed)))
        return True

    await for_each(range(4 * MAX_CLOSED), close, lambda: 0.0)

    assert seen == [MAX_CLOSED * (1 + number // MAX_CLOSED) for number in range(4 * MAX_CLOSED)]


async def test_short_loop_does_not_yield() -> None:
    seen: list[str] = []
    asyncio.get_running_loop().call_soon(seen.append, "other")

    await for_each(range(3), lambda _: seen.append("item"), lambda: 0.0)

    assert seen == ["item"] * 3


async def test_tasks_of_one_key_are_limited_in_order() -> None:
    limits, running, began = KeyedSemaphore(3), 0, list[int]()
    most = 0

    async def work(number: int) -> None:
        nonlocal running, most
        async with limits.of("alice"):
            began.append(number)
            running += 1
            most = max(most, running)
            await asyncio.sleep(0)
            running -= 1

    await asyncio.gather(*map(work, range(20)))

    assert most == 3
    assert began == list(range(20))
    assert len(limits) == 0, "a key without tasks is forgotten"


async def test_keys_do_not_wait_for_each_other() -> None:
    limits = KeyedSemaphore(1)

    async with limits.of("alice"), asyncio.timeout(1), limits.of("bob"):
        pass


async def test_failed_and_cancelled_tasks_leave_room() -> None:
    limits, done = KeyedSemaphore(1), list[str]()

    async def work(name: str) -> None:
        async with limits.of("alice"):
            done.append(name)
            raise ValueError(name)

    async with limits.of("alice"):
        tasks = [asyncio.create_task(work(name)) for name in "abcd"]
        await asyncio.sleep(0)
        tasks[1].cancel()
    # The first task was just admitted; its place is lost with it unless the next one gets it.
    tasks[0].cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)

    assert [type(each) for each in results] == [asyncio.CancelledError, asyncio.CancelledError, ValueError, ValueError]
    assert done == ["c", "d"]
