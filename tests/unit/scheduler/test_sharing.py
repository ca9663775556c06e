"""Schedulers share the partitions: the owner serves at once, the deputy when the owner is late."""

from __future__ import annotations

import pytest

from gregor.store.contract.store import Unavailable
from gregor_scheduler.due_loop import TAKEOVER_US
from gregor_scheduler.partition_shares import PartitionShares, Share
from gregor_scheduler.peers import Peers
from tests.support.builders import NOW
from tests.unit.scheduler.conftest import SchedulerHarness


async def due_partition(harness: SchedulerHarness) -> int:
    """Make a reminder of alice due. Returns her partition."""
    await harness.create("a", remind_at=[NOW + 5])
    harness.announcements()
    harness.clock.advance(5)
    times = await harness.store.agenda.next_due_times()
    return next(partition for partition, at_us in times.items() if at_us is not None)


async def test_owner_serves_at_once(harness: SchedulerHarness) -> None:
    partition = await due_partition(harness)
    harness.due_loop.use_share(Share(frozenset({partition}), {}))
    assert await harness.due_loop.run_due() == 1


@pytest.mark.parametrize("rank", [1, 2])
async def test_deputy_serves_when_the_owner_is_late(harness: SchedulerHarness, rank: int) -> None:
    partition = await due_partition(harness)
    harness.due_loop.use_share(Share(frozenset(), {partition: rank}))
    assert await harness.due_loop.run_due() == 0
    harness.clock.advance(rank * TAKEOVER_US / 1e6 - 0.001)
    assert await harness.due_loop.run_due() == 0

    harness.clock.advance(0.001)

    assert await harness.due_loop.run_due() == 1


async def test_partition_of_others_is_not_served(harness: SchedulerHarness) -> None:
    partition = await due_partition(harness)
    everything = frozenset(range(harness.store.agenda.partition_count))
    harness.due_loop.use_share(Share(everything - {partition}, {}))
    harness.clock.advance(60)
    assert await harness.due_loop.run_due() == 0
    assert harness.metrics.due_unknown._value.get() == 0


async def test_unknown_peers_change_nothing(harness: SchedulerHarness) -> None:
    answers: list[list[str] | Unavailable] = [["me", "other"], Unavailable("the shard is away"), ["me"]]

    async def renew() -> list[str]:
        answer = answers.pop(0)
        if isinstance(answer, Unavailable):
            raise answer
        return answer

    count = harness.store.agenda.partition_count
    shares = PartitionShares(count, "me")
    peers = Peers(renew, shares, harness.due_loop, harness.metrics)
    owned = []
    for _ in range(3):
        await peers.refresh()
        owned.append(harness.metrics.owned_partitions._value.get())

    assert 0 < owned[0] < count and owned[1] == owned[0] and owned[2] == count
