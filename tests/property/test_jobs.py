"""A reset of all users resets each partition once, whatever happens to its processes and servers.

Processes die in the middle of a step or before its cursor is stored; shards are unreachable for a while; the same
request comes again; other resets run at the same time.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gregor.clock import ManualClock
from gregor.jobs.reset_all import AT_ONCE, FLUSH, UserResetSteps
from gregor.jobs.runner import LEASE_US, JobRunner
from gregor.reference.jobs import MemoryJobs
from gregor.store.contract.store import Unavailable
from gregor.store.jobs import JobState
from tests.support.builders import NOW_US

SHARDS = 3


@dataclass
class ShardedUsers:
    """Partitions on three shards. ``dies``: the process dies at this call, before or after its effect."""

    partition_count: int
    away: set[int] = field(default_factory=set)
    dies: dict[int, bool] = field(default_factory=dict)
    numbers: Counter[int] = field(default_factory=Counter)
    resets: Counter[int] = field(default_factory=Counter)
    calls: int = 0
    unannounced: set[int] = field(default_factory=set)

    def _shard(self, partition: int) -> int:
        return partition * SHARDS // self.partition_count

    async def reset_partitions(self, number: int, partitions: Sequence[int], spread_s: int) -> frozenset[int]:
        reached = [each for each in partitions if self._shard(each) not in self.away]
        self.calls += 1
        is_after = self.dies.get(self.calls)
        if is_after is False:
            raise asyncio.CancelledError
        for each in reached:
            if self.numbers[each] < number:
                self.numbers[each] = number
                self.resets[each] += 1
                self.unannounced.add(each)
        if is_after:
            raise asyncio.CancelledError
        if not reached:
            raise Unavailable("the shard is away")
        return frozenset(reached)

    async def announce_reset(self, spread_s: int) -> None:
        self.calls += 1
        if self.dies.get(self.calls) is False:
            raise asyncio.CancelledError
        self.unannounced.clear()
        if self.dies.get(self.calls):
            raise asyncio.CancelledError


class World:
    """Some processes that share jobs and users."""

    def __init__(self, partition_count: int, dies: dict[int, bool]) -> None:
        self.users = ShardedUsers(partition_count, dies=dies)
        self.jobs = MemoryJobs()
        self.clock = ManualClock(NOW_US)

    def process(self) -> JobRunner:
        kind = UserResetSteps(self.users, self.users)  # type: ignore[arg-type]
        return JobRunner(self.jobs, self.clock, {FLUSH: kind})

    async def run(self, job_id: str) -> None:
        """Execute a job in a new process, which may die."""
        with suppress(asyncio.CancelledError):
            await self.process().run(job_id)
        self.clock.advance(LEASE_US / 1e6)

    async def request(self, job_id: str) -> None:
        await self.jobs.create(job_id, FLUSH, {"spread": 30}, self.clock.now_us())
        await self.run(job_id)


@given(
    partition_count=st.sampled_from((64, 1_024)),
    dies=st.dictionaries(st.integers(1, 12), st.booleans(), max_size=6),
    outages=st.lists(st.sets(st.integers(0, SHARDS - 1)), max_size=6),
)
def test_each_partition_is_reset_once(partition_count: int, dies: dict[int, bool], outages: list[set[int]]) -> None:
    async def scenario() -> None:
        world = World(partition_count, dies)
        for away in outages:
            world.users.away = away
            await world.request("a")
        world.users.away = set()
        for _ in range(len(dies) + 2):
            await world.request("a")

        job = await world.jobs.get("a")
        assert job is not None and (job.state, job.done, job.total) == (JobState.DONE, partition_count, partition_count)
        assert world.users.resets == Counter(dict.fromkeys(range(partition_count), 1))
        assert not world.users.unannounced

    asyncio.run(scenario())


@given(runs=st.lists(st.sampled_from("ab"), max_size=12), away=st.sets(st.integers(0, SHARDS - 1), max_size=2))
def test_two_resets_end_and_lose_nothing(runs: list[str], away: set[int]) -> None:
    async def scenario() -> None:
        world = World(64, {})
        world.users.away = away
        for job_id in ("a", "b", *runs):
            await world.request(job_id)
        world.users.away = set()
        for job_id in ("b", "a"):
            await world.request(job_id)

        later = await world.jobs.get("b")
        assert later is not None
        # Each partition saw the later reset, and at most one more.
        assert all(world.users.numbers[each] == later.number for each in range(64))
        assert set(world.users.resets.values()) <= {1, 2}

    asyncio.run(scenario())


def test_unreachable_shard_delays_no_other() -> None:
    async def scenario() -> None:
        world = World(1_024, {})
        world.users.away = {0}
        await world.request("a")

        job = await world.jobs.get("a")
        assert job is not None and job.state is JobState.WAITING
        assert job.done == sum(1 for each in range(1_024) if each * SHARDS // 1_024 != 0) == len(world.users.resets)
        assert job.reason == f"{1_024 - job.done} partitions are on servers that do not answer"
        assert not world.users.unannounced
        assert 0 < world.users.calls <= 1_024 // AT_ONCE + 1

    asyncio.run(scenario())


def test_cancelled_job_stops_after_its_step() -> None:
    async def scenario() -> None:
        world = World(1_024, {})
        job, _ = await world.jobs.create("a", FLUSH, {"spread": 30}, NOW_US)
        real = world.users.reset_partitions

        async def cancel_meanwhile(*arguments: Any) -> frozenset[int]:
            claimed = await world.jobs.get("a")
            assert claimed is not None
            await world.jobs.replace(claimed, claimed.ended(JobState.CANCELLED, NOW_US))
            return await real(*arguments)

        world.users.reset_partitions = cancel_meanwhile  # type: ignore[assignment]
        await world.run("a")

        assert len(world.users.resets) == AT_ONCE
        found = await world.jobs.get(job.id)
        assert found is not None and found.state is JobState.CANCELLED

    asyncio.run(scenario())


def test_only_one_process_holds_a_job() -> None:
    async def scenario() -> None:
        world = World(64, {})
        await world.jobs.create("a", FLUSH, {"spread": 30}, NOW_US)

        await asyncio.gather(*(world.process().run("a") for _ in range(5)))

        assert world.users.calls == 2

    asyncio.run(scenario())
