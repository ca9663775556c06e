"""The CPU time of a request: its own steps and those of its tasks, without those of others."""

from __future__ import annotations

import asyncio

import pytest

from gregor.clock import ManualClock, SystemClock
from gregor.cpu_meter import CpuMeter, metered
from tests.support.builders import NOW_US

MS = 1_000_000


def make_meter() -> CpuMeter:
    """Return a meter to which each step costs 1 ms."""
    clock = ManualClock(NOW_US)
    clock.cpu_step_ns = MS
    return CpuMeter(clock.cpu_ns)


async def take_steps(count: int) -> int:
    for _ in range(count - 1):
        await asyncio.sleep(0)
    return count


async def test_steps_of_a_coroutine_are_added_up() -> None:
    meter = make_meter()

    assert await meter.run(take_steps(3)) == 3
    assert meter.used_ns == 3 * MS
    assert await meter.run(take_steps(2)) == 2
    assert meter.used_ns == 5 * MS


async def test_metered_tasks_count_and_others_do_not() -> None:
    async def work() -> list[int]:
        other = asyncio.create_task(take_steps(50))
        results = await asyncio.gather(metered(take_steps(4)), metered(nested()))
        await other
        return list(results)

    async def nested() -> int:
        return sum(await asyncio.gather(metered(take_steps(2)), metered(take_steps(1))))

    meter = make_meter()

    assert await meter.run(work()) == [4, 3]
    # 3 of work, 2 of nested, and those of the tasks
    assert meter.used_ns == (3 + 2 + 4 + 2 + 1) * MS
    assert await metered(take_steps(2)) == 2
    assert meter.used_ns == 12 * MS


async def test_two_requests_at_once_count_their_own_steps() -> None:
    few, many = make_meter(), make_meter()

    await asyncio.gather(few.run(take_steps(2)), many.run(take_steps(20)))

    assert (few.used_ns, many.used_ns) == (2 * MS, 20 * MS)


async def test_failed_and_cancelled_work_counts() -> None:
    async def fail() -> None:
        await asyncio.sleep(0)
        raise ValueError("no")

    async def wait() -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "cleaned up"
        return "never"

    failing, cancelled = make_meter(), make_meter()
    with pytest.raises(ValueError, match="no"):
        await failing.run(fail())
    task = asyncio.create_task(cancelled.run(wait()))
    await asyncio.sleep(0)
    task.cancel()

    assert await task == "cleaned up"
    assert (failing.used_ns, cancelled.used_ns) == (2 * MS, 2 * MS)


async def test_cpu_time_of_the_system_counts_work() -> None:
    async def count() -> int:
        return sum(range(200_000))

    waiting, working = CpuMeter(SystemClock().cpu_ns), CpuMeter(SystemClock().cpu_ns)
    await asyncio.gather(waiting.run(asyncio.sleep(0.05)), working.run(count()))

    assert 0 < waiting.used_ns < working.used_ns
