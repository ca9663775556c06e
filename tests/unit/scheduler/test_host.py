"""The host of the drain: whatever the queue Redis does, somebody looks at what is due."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Iterator
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import pytest
import redis
from arq.connections import ArqRedis

from gregor.clock import SystemClock
from gregor.core.rate_limit import RateLimiter
from gregor.dev.embedded_redis import find_server
from gregor_scheduler.arq_worker import Host, redis_settings, tick
from gregor_scheduler.due_loop import Drain
from gregor_scheduler.handlers.dispatch import Acts
from tests.support.machine import Waiting
from tests.support.servers import Server
from tests.support.wait import wait_until
from tests.unit.scheduler.conftest import LEASE_US, House, build

pytestmark = pytest.mark.filterwarnings("ignore:Unclosed client session:ResourceWarning")
"""A command of arq that is cut off leaves its connection to the garbage collector."""
WATCHED_S = 4.0
"""Long enough for a tick to end, and for the absence of the next one to be noticed."""
BETWEEN_LOOKS_S = 0.5 + 0.3
"""Half a second, as ever, or until it is known that a tick is overdue; and what a loop and its timers may take."""


class Watched:
    """An agenda that knows when it was looked at."""

    def __init__(self, house: House) -> None:
        self._agenda = house.store.agenda
        self.looks_s: list[float] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._agenda, name)

    async def next_due_times(self) -> Any:
        self.looks_s.append(time.monotonic())
        return await self._agenda.next_due_times()


def watched(house: House) -> tuple[Drain, Watched]:
    """A drain on the clock of the system, and its looks."""
    agenda = Watched(house)
    acts = Acts(house.parts, RateLimiter(1, 1))
    return Drain(agenda, acts, SystemClock(), house.figures, LEASE_US), agenda


async def test_a_worker_that_ends_takes_no_time_from_a_tick() -> None:
    drain, agenda = watched(await build())
    ticking = asyncio.create_task(tick({"heard": lambda: None, "drain": drain}))
    await wait_until(lambda: agenda.looks_s, "the tick looks")
    ticking.cancel()
    await wait_until(lambda: len(agenda.looks_s) > 1, "it looks again")
    await drain.stop()


async def test_a_tick_over_which_the_queue_goes_away_ends_well() -> None:
    """Else arq writes a traceback each time: that the queue is away is said in one line by the host."""
    drain, agenda = watched(await build())
    nobody = ArqRedis(host="127.0.0.1", port=1)

    await tick({"heard": lambda: None, "drain": drain, "redis": nobody, "queue": "q"})

    assert agenda.looks_s
    await drain.stop()
    await nobody.aclose()


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[Server]:
    server = Server(str(find_server()), tmp_path).start()
    yield server
    server.kill()


async def nothing_is_left() -> None:
    """Connections of arq that were cut off complain when they go: here, not in whatever test comes next."""
    await wait_until(lambda: len(asyncio.all_tasks()) == 1, "what arq still tells the queue is given up")
    gc.collect()


@pytest.mark.parametrize("trouble", ["none", "away", "standing still"])
async def test_nobody_waits_for_a_queue_that_is(queue: Server, trouble: str) -> None:
    drain, agenda = watched(await build())
    # arq ticks at once and at each whole second: so the second tick finds the first one nearly over.
    await wait_until(lambda: time.time() % 1 < 0.1, "a second begins")
    host = asyncio.create_task(Host(redis_settings(queue.url), drain, "q", time.monotonic).run())
    try:
        await wait_until(lambda: len(agenda.looks_s) > 2, "arq ticks")
        waiting = Waiting()
        began_s = agenda.looks_s[-1]
        if trouble == "away":
            queue.kill()
        elif trouble == "standing still":
            queue.suspend()
        await wait_until(lambda: agenda.looks_s[-1] > began_s + WATCHED_S, "somebody looks", 20)
        longest_s = max(after - before for before, after in pairwise(s for s in agenda.looks_s if s >= began_s))
        assert longest_s < BETWEEN_LOOKS_S + waiting.lost_s()
    finally:
        await drain.stop()
        host.cancel()
        # A process that is told to stop does, whatever the queue does: this would wait for ever.
        ended, _ = await asyncio.wait([host], timeout=10)
    assert ended
    await nothing_is_left()


async def test_no_key_of_the_queue_is_outside_the_namespace(queue: Server) -> None:
    """Also not those of arq, which has no setting for them."""
    drain, _ = watched(await build())
    host = asyncio.create_task(Host(redis_settings(queue.url), drain, "ours:q", time.monotonic).run())
    names: set[str] = set()
    with redis.Redis.from_url(queue.url, decode_responses=True) as client:

        def seen() -> set[str]:
            names.update(client.keys())
            return names

        await wait_until(lambda: any("in-progress" in name for name in seen()), "arq has begun a job")
        await wait_until(lambda: any("retry" in name or "job" in name for name in seen()), "arq knows a job")
    await drain.stop()
    host.cancel()
    await asyncio.wait([host], timeout=10)
    await nothing_is_left()

    assert {name for name in names if not name.startswith("ours:q")} == set()


@pytest.mark.timeout(30)
async def test_whoever_tells_the_time_lets_slow_ticks_come_to_their_end() -> None:
    """A store that comes back is slow, and ticks of arq are away: both turns of the drain are taken."""
    drain, agenda = watched(await build())
    is_quick = asyncio.Event()
    looks, firsts = 0, agenda.next_due_times

    async def slow() -> Any:
        nonlocal looks
        looks += 1
        await is_quick.wait()
        return await firsts()

    agenda.next_due_times = slow  # type: ignore[method-assign]
    ticks = [asyncio.create_task(drain.tick()) for _ in range(2)]
    nobody = redis_settings("redis://127.0.0.1:1/0")
    seconds, began_s = count(step=10), time.monotonic()
    host = asyncio.create_task(Host(nobody, drain, "q", lambda: float(next(seconds))).run())
    try:
        await wait_until(lambda: looks, "the first tick looks")
        is_quick.set()
        await asyncio.wait_for(asyncio.gather(*ticks), 10)
    finally:
        await drain.stop()
        host.cancel()
        await asyncio.wait([host], timeout=10)
    assert time.monotonic() - began_s < 20, "the loop stood still until the alarm of the test came between"
