"""The due times of partitions: read once, then only after a change; polled while changes are not reported."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from gregor.core.limits import Limits
from gregor.core.notify.intents import Intent, IntentKind
from gregor.redis.client import RedisClient
from gregor.redis.tracking import ServerKeyTracker
from gregor.store.contract.store import Unavailable
from gregor.store.redis.delivery.due_times import RECHECK_S, RedisDueTimes
from gregor.store.redis.delivery.queue_reader import open_queue_reader
from gregor.store.redis.delivery.queue_writer import open_queue_writer
from gregor.store.redis.keys import Keys
from gregor.store.redis.store import RedisStore
from tests.support.builders import NOW_US
from tests.support.servers import BINARIES, Server, open_client, running_server
from tests.support.wait import wait_until

pytestmark = pytest.mark.redis

COUNT = 64


@pytest.fixture(params=BINARIES, ids=lambda binary: Path(binary).name)
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    """Start a server of each kind for this test."""
    with running_server(request.param, tmp_path) as server:
        yield server


@dataclass
class Watch:
    """Due times under test, and everything around them. ``now_s``: the clock of the recheck."""

    server: Server
    client: RedisClient
    tracker: ServerKeyTracker
    store: RedisStore
    now_s: float = 0.0
    times: RedisDueTimes = field(init=False)

    def __post_init__(self) -> None:
        self.times = RedisDueTimes(self.client, self.store.keys, self.tracker, lambda: self.now_s)

    async def settle(self) -> None:
        """Refresh until every watched partition is tracked."""

        async def is_tracked() -> bool:
            await self.times.refresh()
            return self.times.polled == 0

        await wait_until(is_tracked, "all partitions are tracked")

    async def reads(self) -> int:
        """Return how many due times the server has read since the last call."""
        stats = (await self.client.call("INFO", "commandstats")).decode()
        await self.client.call("CONFIG", "RESETSTAT")
        lines = [line for line in stats.split("\r\n") if line.startswith("cmdstat_zrange:")]
        return int(lines[0].partition("calls=")[2].partition(",")[0]) if lines else 0

    def partition(self, uid: str) -> int:
        return next(n for n in range(COUNT) if self.store.keys.due(n) == self.store.keys.of_user(uid).due)

    async def delay(self, uid: str, at_us: int) -> None:
        await self.store.agenda.delay(uid, f"m{secrets.token_hex(4)}", b"{}", at_us)

    async def sees(self, uid: str, at_us: int | None) -> bool:
        times = await self.times.refresh()
        return self.partition(uid) in times and times[self.partition(uid)] == at_us


@asynccontextmanager
async def watching(server: Server) -> AsyncIterator[Watch]:
    async with open_client(server.url, max_wait_s=0.5) as client:
        store = RedisStore(client, Limits(), "test", partitions=COUNT)
        tracker = ServerKeyTracker(server.url, heartbeat_s=0.2, answer_s=0.2)
        watch = Watch(server, client, tracker, store)
        try:
            await watch.settle()
            yield watch
        finally:
            await tracker.close()


async def test_unchanged_partitions_are_not_read_again(server: Server) -> None:
    async with watching(server) as watch:
        await watch.reads()
        for _ in range(5):
            times = await watch.times.refresh()
        assert len(times) == COUNT and await watch.reads() == 0

        await watch.delay("alice", NOW_US)
        await wait_until(lambda: watch.sees("alice", NOW_US), "the new time is known")
        assert await watch.reads() == 1


async def test_claim_and_completion_change_the_time(server: Server) -> None:
    async with watching(server) as watch:
        await watch.delay("alice", NOW_US)
        await wait_until(lambda: watch.sees("alice", NOW_US), "due")
        until_us = NOW_US + 15_000_000
        assert await watch.store.agenda.claim(watch.partition("alice"), NOW_US, until_us, 10) == ["alice"]
        await wait_until(lambda: watch.sees("alice", until_us), "leased")
        work = await watch.store.agenda.due_work("alice", NOW_US, 10)
        await watch.store.agenda.cancel_delayed("alice", work[0].name)
        await watch.store.agenda.complete("alice", until_us, [])
        await wait_until(lambda: watch.sees("alice", None), "nothing is due")


async def test_changes_during_an_interruption_are_found(server: Server) -> None:
    async with watching(server) as watch:
        server.say("CLIENT", "KILL", "TYPE", "normal")
        await wait_until(lambda: watch.client.reconnections, "the client is connected again")
        await watch.delay("alice", NOW_US)
        assert await watch.sees("alice", NOW_US), "polled at once"
        await watch.settle()
        await watch.reads()
        assert await watch.sees("alice", NOW_US) and await watch.reads() == 0


async def test_unreachable_server_is_unavailable(server: Server) -> None:
    async with watching(server) as watch:
        server.kill()
        await wait_until(lambda: not watch.client.connected, "the client has noticed")
        await wait_until(lambda: watch.times.polled == COUNT, "the tracker has noticed")
        with pytest.raises(Unavailable):
            await watch.times.refresh()
        server.start()
        await wait_until(lambda: watch.client.connected, "the client is connected again")
        await watch.settle()


async def test_recheck_finds_a_change_that_was_not_reported(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    async with watching(server) as watch:
        # A faulty proxy: the change is made, and its report is dropped.
        dropped, watch.times._stale = watch.times._stale, set()
        watch.tracker._listeners.clear()
        await watch.delay("alice", NOW_US)
        assert not dropped and not await watch.sees("alice", NOW_US)

        for _ in range(COUNT):
            watch.now_s += RECHECK_S / COUNT
            await watch.times.refresh()

        assert await watch.sees("alice", NOW_US)
        assert watch.times.missed_changes == 1 and "due_times.change_not_reported" in caplog.text


async def test_recheck_reads_each_partition_once(server: Server) -> None:
    async with watching(server) as watch:
        await watch.reads()
        for _ in range(3 * COUNT):
            watch.now_s += RECHECK_S / COUNT / 3
            await watch.times.refresh()
        assert COUNT - 2 <= await watch.reads() <= COUNT + 1
        assert watch.times.missed_changes == 0


async def test_only_watched_partitions_are_read(server: Server) -> None:
    async with watching(server) as watch:
        mine = [n for n in range(COUNT) if n % 2]
        watch.times.watch(mine)
        await watch.reads()
        for uid in ("a", "b", "c", "d", "e", "f"):
            await watch.delay(uid, NOW_US)
        changed = {watch.partition(uid) for uid in ("a", "b", "c", "d", "e", "f")} & set(mine)

        async def found() -> bool:
            times = await watch.times.refresh()
            return {n for n, at_us in times.items() if at_us is not None} == changed

        await wait_until(found, "the changed ones of the watched partitions")
        assert set(await watch.times.refresh()) == set(mine)
        assert await watch.reads() == len(changed)

        watch.times.watch(range(COUNT))
        assert len(await watch.times.refresh()) == COUNT
        assert await watch.reads() == COUNT // 2


async def test_without_tracker_every_refresh_reads(redis_server: str) -> None:
    async with open_client(redis_server) as client:
        store = RedisStore(client, Limits(), f"test-{secrets.token_hex(4)}", partitions=COUNT)
        times = RedisDueTimes(client, Keys(store.keys.namespace, COUNT), None)
        await times.refresh()
        await store.agenda.delay("alice", "m", b"{}", NOW_US)

        assert NOW_US in (await times.refresh()).values() and times.polled == COUNT


async def test_waiting_intents_are_asked_for_after_a_change(server: Server) -> None:
    tracker = ServerKeyTracker(server.url)
    writer = await open_queue_writer(server.url, "test", 100)
    reader = await open_queue_reader(server.url, "test", "apns", tracker)
    async with open_client(server.url) as client:
        try:
            assert await reader.enqueue_due(NOW_US, 10) == (0, 0)
            assert reader._first_waiting is not None
            await wait_until(reader._first_waiting.is_tracked, "waiting intents are tracked")
            await client.call("CONFIG", "RESETSTAT")
            for _ in range(3):
                assert await reader.enqueue_due(NOW_US, 10) == (0, 0)
            stats = await client.call("INFO", "commandstats")
            assert b"evalsha" not in stats and b"zrange" not in stats

            await writer.enqueue([Intent("alice", "a", IntentKind.ITEM, "apns", "phone", 0, 1, NOW_US)], NOW_US + 5)
            await wait_until(lambda: reader.enqueue_due(NOW_US + 5, 10), "the intent is enqueued at its time")
        finally:
            await reader.close()
            await writer.close()
            await tracker.close()
