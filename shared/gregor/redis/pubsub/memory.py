"""The feed without a server: for the memory store and for tests, which can also make it lose what is published."""

from __future__ import annotations

import asyncio

from gregor.redis.connection import RedisUnavailable

from .channel import PubSubChannel
from .contract import PubSubStatus, Receiver


class MemoryPubSub:
    """``PubSub`` of what its own ``publish`` is given. Delivers in the next turn of the event loop."""

    def __init__(self) -> None:
        self._channels: dict[tuple[bool, bytes], PubSubChannel] = {}
        self._cut: set[bytes] = set()
        self._to_drop = 0
        self._closed = False
        self.status: PubSubStatus = "ok"

    @property
    def healthy(self) -> bool:
        """As ``PubSub`` says; ``status`` is what a test sets it to."""
        return self.status != "down"

    async def open(self) -> None:
        """Nothing to do: here so that both feeds open alike."""

    async def close(self) -> None:
        """As ``PubSub`` says."""
        self._closed = True
        for channel in self._channels.values():
            channel.fail(RedisUnavailable("the feed is closed"))
        self._channels.clear()

    def subscribe(self, channel: bytes | str, receiver: Receiver, *, sharded: bool = True) -> asyncio.Future[None]:
        """As ``PubSub`` says; confirmed in the next turn of the event loop."""
        key = sharded, _name(channel)
        found = self._channels.get(key)
        if found is None:
            found = PubSubChannel(key[1], sharded)
            if not self._closed:
                self._channels[key] = found
                asyncio.get_running_loop().call_soon(self._confirm, found)
        future = found.add(receiver)
        if self._closed:
            found.fail(RedisUnavailable("the feed is closed"))
        return future

    def unsubscribe(self, channel: bytes | str, receiver: Receiver, *, sharded: bool = True) -> None:
        """As ``PubSub`` says."""
        key = sharded, _name(channel)
        found = self._channels.get(key)
        if found is not None:
            found.remove(receiver)
            if not found.receivers:
                del self._channels[key]

    def publish(self, channel: bytes | str, payload: bytes, *, sharded: bool = True) -> None:
        """Deliver to who is subscribed in the next turn of the event loop, unless it is to be lost."""
        if self._to_drop:
            self._to_drop -= 1
            return
        asyncio.get_running_loop().call_soon(self._deliver, (sharded, _name(channel)), payload)

    def drop_next(self, count: int = 1) -> None:
        """Lose the next ``count`` publications, whatever their channel; nobody is told."""
        self._to_drop += count

    def cut(self, channel: bytes | str) -> None:
        """Lose what is published on a channel from now on, silently; ``heal`` ends it."""
        self._cut.add(_name(channel))

    def heal(self) -> None:
        """Let every channel that was cut deliver again, and tell its receivers of the gap."""
        cut, self._cut = self._cut, set()
        for (_, name), channel in list(self._channels.items()):
            if name in cut:
                channel.gap()

    def _confirm(self, channel: PubSubChannel) -> None:
        if self._channels.get((channel.sharded, channel.name)) is channel:
            channel.confirm()

    def _deliver(self, key: tuple[bool, bytes], payload: bytes) -> None:
        channel = self._channels.get(key)
        if channel is not None and key[1] not in self._cut:
            channel.deliver(payload)


def _name(channel: bytes | str) -> bytes:
    return channel.encode() if isinstance(channel, str) else channel
