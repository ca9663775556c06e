"""Due work while one shard is unreachable or hangs: the users of the other shards are not affected."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from gregor.core.rate_limit import RateLimiter
from gregor.store.contract.agenda import Agenda
from gregor.store.contract.store import Unavailable
from gregor_scheduler.due_loop import SLOW_CLAIM_S, DueLoop
from gregor_scheduler.handlers.dispatch import DueHandlers
from tests.support.builders import NOW
from tests.support.wait import wait_until
from tests.unit.scheduler.conftest import LEASE_US, SchedulerHarness

AWAY, HERE = "alice", [f"u{n}" for n in range(40)]


class ShardedAgenda:
    """An agenda in which the partition of ``AWAY`` is on another server."""

    def __init__(self, agenda: Agenda, away: int) -> None:
        self._agenda = agenda
        self.away = away
        self.is_known_away = False
        self.claim_away: Callable[[], Awaitable[None]] = unavailable
        self.claims_away = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._agenda, name)

    async def next_due_times(self) -> dict[int, int | None]:
        times = await self._agenda.next_due_times()
        if self.is_known_away:
            del times[self.away]
        return times

    async def claim(self, partition: int, *arguments: int) -> list[str]:
        if partition == self.away:
            self.claims_away += 1
            await self.claim_away()
        return await self._agenda.claim(partition, *arguments)


async def unavailable() -> None:
    raise Unavailable("the shard is away")


async def due_users(harness: SchedulerHarness) -> tuple[ShardedAgenda, DueLoop]:
    """Make a reminder due for each user. Returns the agenda, and a due loop on it."""
    await harness.create("a", uid=AWAY, remind_at=[NOW + 5])
    [away] = [each for each, at_us in (await harness.store.agenda.next_due_times()).items() if at_us is not None]
    for uid in HERE:
        await harness.create("a", uid=uid, remind_at=[NOW + 5])
    harness.announcements()
    harness.clock.advance(6)
    agenda = ShardedAgenda(harness.store.agenda, away)
    handlers = DueHandlers(harness.context, RateLimiter(1e9, 1_000_000))
    return agenda, DueLoop(agenda, handlers, harness.clock, harness.metrics, LEASE_US)


async def test_unknown_partition_is_counted_and_skipped(harness: SchedulerHarness) -> None:
    agenda, due_loop = await due_users(harness)
    agenda.is_known_away = True

    await due_loop.run_due()

    assert len(harness.announcements()) == len(HERE) and agenda.claims_away == 0
    assert harness.metrics.due_unknown._value.get() == 1


async def test_failing_claim_leaves_the_others_served(
    harness: SchedulerHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    agenda, due_loop = await due_users(harness)
    # The failing partition comes first, in the first of two batches.
    monkeypatch.setattr(random, "shuffle", lambda due: due.sort(key=lambda partition: partition != agenda.away))

    with pytest.raises(Unavailable):
        await due_loop.run_due()
    await due_loop.stop()

    assert len(harness.announcements()) == len(HERE)


async def test_hanging_claim_delays_only_its_own_users(harness: SchedulerHarness) -> None:
    agenda, due_loop = await due_users(harness)
    answered = asyncio.Event()
    agenda.claim_away = lambda: answered.wait()  # type: ignore[assignment,return-value]
    began_s = asyncio.get_running_loop().time()

    ticking = asyncio.create_task(due_loop.tick(for_s=60))
    await wait_until(lambda: len(harness.payloads) >= len(HERE), "the users of the other shards got their reminders")
    assert asyncio.get_running_loop().time() - began_s < 4 * SLOW_CLAIM_S
    await harness.create("b", uid=HERE[0], remind_at=[NOW + 5])
    await wait_until(lambda: len(harness.payloads) >= len(HERE) + 2, "a later reminder of the other shards")
    assert agenda.claims_away == 1, "no second claim waits for the same server"
    answered.set()
    await wait_until(lambda: len(harness.payloads) >= len(HERE) + 3, "the late claim is served")
    await due_loop.stop()
    await ticking
