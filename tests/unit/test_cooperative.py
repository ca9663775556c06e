"""Long loops that yield to the event loop."""

from __future__ import annotations

import asyncio
from itertools import count

from gregor.cooperative import MAX_CLOSED, SLICE_S, for_each


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
