"""The stores that one test body is held to. To add one, write its factory and its line in ``FACTORIES``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

from gregor.core.announce import Announcement, decode
from gregor.core.limits import Limits
from gregor.feed import MemoryFeed
from gregor.feed.contract import Receiver
from gregor.store.contract import Store
from gregor.store.memory import MemoryStore
from tests.support.wait import wait_until


class Subscriber(Protocol):
    """What a test needs of a feed."""

    async def subscribe(self, channel: str, receiver: Receiver, *, sharded: bool = True) -> None:
        """Hear a channel from now on."""
        ...


@dataclass(frozen=True)
class Twin:
    """A fresh, empty store, and the way to hear what it tells."""

    store: Store
    subscriber: Subscriber

    async def hear(self, uid: str) -> Heard:
        """Collect what is told of a user from now on."""
        heard = Heard()
        await self.subscriber.subscribe(self.store.channel_of(uid), heard)
        return heard

    async def hear_flushes(self) -> Heard:
        """Collect what is told to every gateway from now on."""
        heard = Heard()
        await self.subscriber.subscribe(self.store.flush_channel, heard, sharded=False)
        return heard


class Heard:
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
        return [decode(payload) for payload in told()[:count]]


class _MemorySubscriber:
    def __init__(self, feed: MemoryFeed) -> None:
        self._feed = feed

    async def subscribe(self, channel: str, receiver: Receiver, *, sharded: bool = True) -> None:
        await self._feed.subscribe(channel, receiver, sharded=sharded)


@asynccontextmanager
async def memory_twin(limits: Limits) -> AsyncIterator[Twin]:
    """The store without a server."""
    feed = MemoryFeed()
    store = MemoryStore(limits, feed)
    yield Twin(store, _MemorySubscriber(feed))
    await feed.close()
    await store.close()


Factory = Callable[[Limits], AbstractAsyncContextManager[Twin]]

FACTORIES: dict[str, Factory] = {
    "memory": memory_twin,
}
