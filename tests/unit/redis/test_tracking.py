"""Tracked reads on a server: every change of a key that was read is reported, also after interruptions."""

import asyncio
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gregor.redis.commands import Script
from gregor.redis.errors import RedisUnavailable, ReplyError
from gregor.redis.tracking import ServerKeyTracker, SlowReply, TrackedRead
from tests.support.kept_errors import garbage_collection_off, kept_errors
from tests.support.servers import BINARIES, Relay, Server, open_client, running_server
from tests.support.wait import wait_until

pytestmark = pytest.mark.redis

WRITE = Script("return redis.call('SET', KEYS[1], ARGV[1])")
SHORT = {"heartbeat_s": 0.2, "answer_s": 0.2}


@pytest.fixture(params=BINARIES, ids=lambda binary: Path(binary).name)
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    """Start a server of each kind for this test."""
    with running_server(request.param, tmp_path) as server:
        yield server


class Stale:
    """Records the keys that are reported."""

    def __init__(self) -> None:
        self.keys: list[bytes] = []

    def on_stale(self, keys: Collection[bytes]) -> None:
        self.keys += keys


@asynccontextmanager
async def open_tracker(url: str, **heartbeat: float) -> AsyncIterator[tuple[ServerKeyTracker, Stale]]:
    """Return a tracker that is connected, and its listener."""
    tracker, stale = ServerKeyTracker(url, **heartbeat), Stale()
    tracker.add_listener(stale)
    try:
        await wait_until(lambda: can_read(tracker), "the tracker is connected")
        stale.keys.clear()
        yield tracker, stale
    finally:
        await tracker.close()


async def can_read(tracker: ServerKeyTracker) -> bool:
    return not isinstance((await get(tracker, "other"))[0], Exception)


async def get(tracker: ServerKeyTracker, *keys: str) -> list[Any]:
    return await tracker.read([("GET", key) for key in keys])


async def test_change_of_a_read_key_is_reported_once(server: Server) -> None:
    async with open_tracker(server.url) as (tracker, stale):
        assert await get(tracker, "a", "b") == [None, None]
        server.say("SET", "a", "1")
        await wait_until(lambda: stale.keys == [b"a"], "the change is reported")
        server.say("SET", "a", "2")
        server.say("SET", "unread", "1")
        assert await get(tracker, "b") == [None]
        assert stale.keys == [b"a"]

        assert await get(tracker, "a") == [b"2"]
        server.say("DEL", "a")
        await wait_until(lambda: stale.keys == [b"a", b"a"], "the next change is reported")


async def test_writes_of_scripts_are_reported(server: Server) -> None:
    async with open_tracker(server.url) as (tracker, stale), open_client(server.url) as client:
        await get(tracker, "a")
        await client.evalsha(WRITE, ["a"], ["1"])
        await wait_until(lambda: stale.keys == [b"a"], "the change is reported")


async def test_flush_reports_every_key(server: Server) -> None:
    async with open_tracker(server.url) as (tracker, stale):
        await get(tracker, "a", "b")
        server.say("FLUSHALL")
        await wait_until(lambda: {b"a", b"b"} <= set(stale.keys), "all keys are stale")


async def test_lost_connection_makes_its_keys_stale(server: Server) -> None:
    async with open_tracker(server.url) as (tracker, stale):
        await get(tracker, "a", "b")
        server.say("CLIENT", "KILL", "TYPE", "normal")
        await wait_until(lambda: {b"a", b"b"} <= set(stale.keys), "all keys are stale")
        await wait_until(lambda: can_read(tracker), "connected again")
        await get(tracker, "a")
        stale.keys.clear()
        server.say("SET", "a", "1")
        await wait_until(lambda: stale.keys == [b"a"], "changes are reported again")


async def test_keys_are_stale_again_when_connected(server: Server) -> None:
    """A reader that polls while the server is unreachable learns that its keys can be tracked."""
    tracker, stale = ServerKeyTracker(server.url), Stale()
    tracker.add_listener(stale)
    assert isinstance((await get(tracker, "a"))[0], RedisUnavailable)

    await wait_until(lambda: stale.keys == [b"a"], "the key is reported")

    assert await get(tracker, "a") == [None]
    await tracker.close()


@pytest.mark.parametrize("swallows", ["swallows", "swallows_replies"])
async def test_silent_network_is_noticed(server: Server, swallows: str) -> None:
    async with Relay(server) as relay:
        url = f"redis://127.0.0.1:{relay.port}/0"
        async with open_tracker(url, **SHORT) as (tracker, stale):
            await get(tracker, "a")
            setattr(relay, swallows, True)
            server.say("SET", "a", "1")

            await wait_until(lambda: b"a" in stale.keys, "the loss is noticed")

            assert isinstance((await get(tracker, "a"))[0], RedisUnavailable)
            relay.heal()
            await wait_until(lambda: can_read(tracker), "connected again")
            assert await get(tracker, "a") == [b"1"]


async def test_hanging_server_delays_only_the_first_read(server: Server) -> None:
    async with open_tracker(server.url, heartbeat_s=60, answer_s=60) as (tracker, _):
        server.suspend()
        loop = asyncio.get_running_loop()
        try:
            # The patience of a read is for the slower servers of a cluster; the only server is awaited.
            first = asyncio.create_task(get(tracker, "a"))
            await wait_until(
                lambda: tracker._connection is not None and tracker._connection.silent_s > 0.5, "the reply is late"
            )
            began_s = loop.time()
            assert isinstance((await get(tracker, "a"))[0], SlowReply)
            assert loop.time() - began_s < 0.3
        finally:
            server.resume()
        assert await first == [None]


async def test_refused_tracking_leaves_polling(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    server.say("ACL", "SETUSER", "gregor", "on", ">pw", "~*", "&*", "+@all", "-client|tracking")
    tracker = ServerKeyTracker(f"redis://gregor:pw@127.0.0.1:{server.port}/0")
    await get(tracker, "a")

    await wait_until(lambda: "tracking.refused" in caplog.text, "the refusal is logged")

    assert isinstance((await get(tracker, "a"))[0], RedisUnavailable)
    assert "+client|tracking" in caplog.text
    await tracker.close()


async def test_idle_tracker_sends_a_heartbeat(server: Server) -> None:
    async with open_tracker(server.url, heartbeat_s=0.1, answer_s=5), open_client(server.url) as client:
        await client.call("CONFIG", "RESETSTAT")

        async def pings() -> bool:
            return b"cmdstat_ping:calls=3," in await client.call("INFO", "commandstats")

        await wait_until(pings, "pings are sent")


async def test_cancelled_read_leaves_replies_in_step(server: Server) -> None:
    server.say("MSET", "a", "1", "b", "2")
    async with open_tracker(server.url) as (tracker, _):
        cancelled = asyncio.create_task(get(tracker, "a"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        cancelled.cancel()

        assert await get(tracker, "b") == [b"2"]


async def test_closed_tracker_fails_its_reads(server: Server) -> None:
    async with open_tracker(server.url) as (tracker, _):
        pass
    assert isinstance((await get(tracker, "a"))[0], RedisUnavailable)


async def test_tracked_read_asks_only_after_a_change(server: Server) -> None:
    async with open_tracker(server.url) as (tracker, _), open_client(server.url) as client:
        read = TrackedRead(tracker, "GET", "a")
        await client.call("CONFIG", "RESETSTAT")
        for _ in range(3):
            assert await read.reply() is None
        assert b"cmdstat_get:calls=1," in await client.call("INFO", "commandstats")

        server.say("SET", "a", "1")
        await asyncio.wait_for(read.changed.wait(), 5)

        assert await read.reply() == b"1" and await read.is_tracked()


async def test_tracked_read_of_a_key_in_bytes_notices_a_change(server: Server) -> None:
    async with open_tracker(server.url) as (tracker, _):
        read = TrackedRead(tracker, "GET", b"a")
        assert await read.reply() is None

        server.say("SET", "a", "1")
        await asyncio.wait_for(read.changed.wait(), 5)

        assert await read.reply() == b"1"


async def test_tracked_read_that_the_server_refuses_is_not_tracked(server: Server) -> None:
    server.say("RPUSH", "a", "1")
    async with open_tracker(server.url) as (tracker, _):
        read = TrackedRead(tracker, "GET", "a")

        assert not await read.is_tracked()
        with pytest.raises(ReplyError):
            await read.reply()


async def test_failure_of_a_tracked_read_is_freed(server: Server) -> None:
    async with open_tracker(server.url) as (tracker, _):
        read = TrackedRead(tracker, "GET", "a")
    with garbage_collection_off():
        before = kept_errors(RedisUnavailable)
        for _ in range(3):
            assert not await read.is_tracked()

        assert kept_errors(RedisUnavailable) == before


async def test_tracked_read_without_connection_fails(server: Server) -> None:
    async with open_tracker(server.url) as (tracker, _):
        read = TrackedRead(tracker, "GET", "a")
        await read.reply()
    assert not await read.is_tracked()
    with pytest.raises(RedisUnavailable):
        await read.reply()
