"""Long loops that yield to the event loop, steps that take turns, and a limit for the tasks of one key."""

from __future__ import annotations

import asyncio
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gregor.cooperative import MAX_CLOSED, SLICE_S, KeyedSemaphore, Pacer, for_each
from tests.support.manual_loop import ManualLoop
from tests.support.wait import wait_until

A_TURN = 8


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


@given(st.lists(st.integers(0, 3 * A_TURN), min_size=1, max_size=12))
def test_steps_keep_their_order_and_rate(bursts: list[int]) -> None:
    loop, pacer = ManualLoop(), Pacer("handshake", A_TURN)
    done: list[int] = []
    sizes: list[int] = []

    async def storm() -> None:
        number = 0
        for burst in bursts:
            before = len(done)
            for _ in range(burst):
                pacer.run(lambda step=number: done.append(step))
                number += 1
            await asyncio.sleep(0)
            sizes.append(len(done) - before)

    try:
        loop.complete(storm())
        loop.settle()
    finally:
        loop.close()

    assert done == list(range(sum(bursts)))
    # An iteration and the one before it can share what is seen between two sleeps.
    assert max(sizes) <= 2 * A_TURN
    assert len(pacer) == 0


async def test_single_step_runs_at_once() -> None:
    pacer, done = Pacer("handshake", A_TURN), []

    assert pacer.run(lambda: done.append(1))
    assert done == [1]


async def test_failing_step_stops_no_other(caplog: pytest.LogCaptureFixture) -> None:
    pacer, done = Pacer("handshake", A_TURN), []
    for number in range(5 * A_TURN):
        pacer.run(lambda number=number: done.append(number) if number != A_TURN else 1 / 0)
    await wait_until(lambda: not len(pacer), "the steps")

    assert len(done) == 5 * A_TURN - 1
    assert [record.getMessage() for record in caplog.records] == ["pacer.step_failed steps=handshake"]


async def test_request_that_is_cancelled_loses_no_turn() -> None:
    pacer = Pacer("handshake", A_TURN)
    waiting = [asyncio.ensure_future(pacer.wait_for_turn()) for _ in range(5 * A_TURN)]
    await asyncio.sleep(0)
    waiting[-2].cancel()
    await asyncio.wait(waiting)

    assert [each.cancelled() for each in waiting] == [False] * (5 * A_TURN - 2) + [True, False]
    assert not len(pacer)
