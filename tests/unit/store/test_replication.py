"""Waiting for replicas on real servers: a frozen replica, a repeat without effect, another server, many at once."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gregor.cooperative import CALLERS_A_TURN
from gregor.core.errors import Problem
from gregor.core.limits import Limits
from gregor.core.messages.model import Sender
from gregor.core.messages.parse import parse_message
from gregor.core.messages.plan import plan
from gregor.redis.client import RedisClient
from gregor.store.contract.store import Unavailable
from gregor.store.redis.replication import RedisReplication, RedisReplicationMark
from gregor.store.redis.store import RedisStore, open_store
from tests.support.redis_cluster import running_redis_cluster, slot_of
from tests.support.servers import BINARIES, Server, running_server
from tests.support.wait import wait_until, wait_until_sync

pytestmark = pytest.mark.redis
NOW_US = 1_457_056_447_000_000


@pytest.fixture
def primary(tmp_path: Path) -> Iterator[Server]:
    with running_server(BINARIES[-1], tmp_path, "--repl-diskless-sync-delay", "0") as server:
        yield server


@pytest.fixture
def replica(primary: Server, tmp_path: Path) -> Iterator[Server]:
    with running_server(BINARIES[-1], tmp_path, "--replicaof", f"127.0.0.1 {primary.port}") as server:
        wait_until_sync(lambda: "state=online" in primary.say("INFO", "replication"), "the replica is in sync")
        wait_until_sync(lambda: "master_link_status:up" in server.say("INFO", "replication"), "it has the link")
        yield server


@asynccontextmanager
async def opened(server: Server, timeout_s: float = 1.0) -> AsyncIterator[RedisStore]:
    store = await open_store(server.url, Limits(), replication_timeout_s=timeout_s)
    try:
        yield store
    finally:
        await store.close()


async def commit(store: RedisStore, uid: str = "alice", item: str = "aa") -> bool:
    """Commit a creation; returns whether it changed something."""
    body = {"create": {item: {"category": "mail", "times": {"created": 1_457_056_400}}}}
    message = parse_message({"system": "gregor", "body": body}, Limits())
    receipt = await store.users.commit(uid, plan(message, Sender(""), NOW_US, b"abc", Limits()))
    return not receipt.is_unchanged


async def replicated(store: RedisStore, uid: str = "alice", item: str = "aa") -> int:
    mark = await store.replication.prepare([uid])
    await commit(store, uid, item)
    return (await store.replication.confirm(mark))[uid]


async def test_replica_confirms(primary: Server, replica: Server) -> None:
    async with opened(primary) as store:
        assert await replicated(store) == 1
        assert "aa" in replica.say("HKEYS", store.keys.of_user("alice").state)


async def test_frozen_replica_confirms_nothing(primary: Server, replica: Server) -> None:
    """Also not a repeat, which changes nothing: WAIT alone would answer at once."""
    async with opened(primary) as store:
        assert await replicated(store, item="before") == 1
        replica.suspend()
        try:
            assert await replicated(store) == 0
            assert await commit(store) is False
            assert [await replicated(store) for _ in range(3)] == [0, 0, 0]
        finally:
            replica.resume()

        assert await replicated(store) == 1


async def test_wait_blocks_no_other_command(primary: Server, replica: Server) -> None:
    async with opened(primary, timeout_s=30) as store:
        assert await replicated(store, item="before") == 1
        replica.suspend()
        try:
            waiting = asyncio.create_task(replicated(store))
            await wait_until(lambda: "cmd=wait" in primary.say("CLIENT", "LIST"), "the server waits")
            assert await commit(store, "bob")
            assert not waiting.done()
        finally:
            replica.resume()
        assert await waiting == 1


async def test_many_messages_share_a_wait(primary: Server, replica: Server) -> None:
    async with opened(primary, timeout_s=5) as store:
        await replicated(store, item="before")
        primary.say("CONFIG", "RESETSTAT")

        confirmed = await asyncio.gather(*(replicated(store, f"user{n}") for n in range(100)))

        assert confirmed == [1] * 100
        found = re.search(r"cmdstat_wait:calls=(\d+)", primary.say("INFO", "commandstats"))
        assert found is not None and int(found[1]) <= 10


async def test_callers_that_share_a_wait_continue_a_few_at_a_time(primary: Server, replica: Server) -> None:
    """All at once, they would delay the other requests of the process."""
    loop = asyncio.get_running_loop()
    iterations = 0
    continued: Counter[int] = Counter()

    def count() -> None:
        nonlocal iterations
        iterations += 1
        if not done.done():
            loop.call_soon(count)

    async with opened(primary, timeout_s=5) as store:

        async def confirm(uid: str) -> None:
            mark = await store.replication.prepare([uid])
            await commit(store, uid)
            await store.replication.confirm(mark)
            continued[iterations] += 1

        await replicated(store, item="before")
        done = asyncio.gather(*(confirm(f"user{n}") for n in range(100)))
        loop.call_soon(count)
        await done

    assert sum(continued.values()) == 100
    assert max(continued.values()) <= CALLERS_A_TURN


async def test_server_without_replicas_is_reported_before(primary: Server) -> None:
    async with opened(primary) as store:
        with pytest.raises(Problem, match="no_replicas: The store has 0 replicas in sync, and 1 must confirm"):
            await store.replication.prepare(["alice"])


async def test_lost_replica_is_reported_when_the_memory_ends(
    primary: Server, replica: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gregor.store.redis.replication.REPLICAS_KNOWN_S", 0.0)
    async with opened(primary) as store:
        assert await replicated(store) == 1
        replica.kill()
        await wait_until(lambda: "state=online" not in primary.say("INFO", "replication"), "the replica is away")

        with pytest.raises(Problem, match="no_replicas"):
            await store.replication.prepare(["alice"])


async def test_commit_on_another_connection_is_not_confirmed(primary: Server, replica: Server) -> None:
    """The connection broke: a failover may have put another server in its place."""
    async with opened(primary) as store:
        mark = await store.replication.prepare(["alice"])
        await commit(store)
        primary.say("CLIENT", "KILL", "TYPE", "normal")

        assert (await store.replication.confirm(mark))["alice"] == 0


async def test_wait_on_another_server_is_not_confirmed(primary: Server, replica: Server, tmp_path: Path) -> None:
    with running_server(BINARIES[-1], tmp_path) as other:
        async with opened(primary) as store:
            waiting = RedisReplication(store._connection, store.keys, lambda: RedisClient(other.url), timeout_s=0.3)
            mark = await waiting.prepare(["alice"])
            await commit(store)
            # The other server has a replica that confirms everything.
            replica.say("REPLICAOF", "127.0.0.1", str(other.port))
            await wait_until(lambda: "state=online" in other.say("INFO", "replication"), "the replica is in sync")

            assert (await waiting.confirm(mark))["alice"] == 0
            await waiting.close()


async def test_replaced_connection_is_not_waited_for(primary: Server, replica: Server) -> None:
    """Nothing can confirm its commits. After a failover, each WAIT would meet a primary that hangs."""
    async with opened(primary, timeout_s=3.0) as store:
        mark = await store.replication.prepare(["alice"])
        assert isinstance(mark, RedisReplicationMark)
        [server] = mark.servers.values()
        await commit(store)
        replica.suspend()
        try:
            primary.say("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            await wait_until(lambda: server.node.generation != server.generation, "a new connection")
            began = asyncio.get_running_loop().time()

            assert (await store.replication.confirm(mark))["alice"] == 0
            assert asyncio.get_running_loop().time() - began < 2
        finally:
            replica.resume()


async def test_unreachable_server_confirms_nothing(primary: Server, replica: Server) -> None:
    async with opened(primary) as store:
        mark = await store.replication.prepare(["alice"])
        await commit(store)
        primary.kill()

        assert (await store.replication.confirm(mark))["alice"] == 0
        with pytest.raises(Unavailable):
            await store.replication.prepare(["alice"])


async def test_each_shard_of_a_cluster_confirms_its_users(tmp_path: Path) -> None:
    uids = [f"user{n}" for n in range(30)]
    with running_redis_cluster(tmp_path) as cluster:
        store = await open_store(cluster.url, Limits(), replication_timeout_s=1.0)
        try:
            mark = await store.replication.prepare(uids)
            await asyncio.gather(*(commit(store, uid) for uid in uids))
            assert set((await store.replication.confirm(mark)).values()) == {1}

            frozen = cluster.primary_of(slot_of(store.keys.of_user(uids[0]).state))
            cluster.replica_of(frozen).suspend()
            mark = await store.replication.prepare(uids)
            confirmed = await store.replication.confirm(mark)
            owners = {uid: cluster.primary_of(slot_of(store.keys.of_user(uid).state)) for uid in uids}
            assert confirmed == {uid: 0 if owner is frozen else 1 for uid, owner in owners.items()}
            assert set(confirmed.values()) == {0, 1}
        finally:
            await store.close()


async def test_waits_follow_the_slots_of_the_commits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit finds that its slot has moved. The connection for WAIT goes to the new owner before any WAIT fails."""
    monkeypatch.setattr("gregor.redis.cluster.topology.PERIOD_S", 3_600)
    with running_redis_cluster(tmp_path) as cluster:
        store = await open_store(cluster.url, Limits(), replication_timeout_s=1.0)
        try:
            assert await replicated(store) == 1
            replica = cluster.replica_of(cluster.primary_of(slot_of(store.keys.of_user("alice").state)))
            cluster.failover(replica)
            assert b"gregor-wait" not in replica.ask("CLIENT", "LIST")

            await commit(store, item="bb")

            await wait_until(lambda: b"gregor-wait" in replica.ask("CLIENT", "LIST"), "the connection for WAIT moved")
        finally:
            await store.close()
