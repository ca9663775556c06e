"""Pub/sub without a server: for the memory store, and for tests, which can make it lose messages."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

from gregor.redis.errors import RedisUnavailable

from .channel import PubSubChannel
from .contract import PubSubStatus, Receiver, SubscriptionReport

FIRST_SERVER: Final = "memory"
"""The id of the server on which subscriptions begin."""


class MemoryPubSub:
    """``PubSub`` for messages that are passed to its ``publish``. Delivers in the next iteration of the event loop."""

    def __init__(self) -> None:
        self._channels: dict[tuple[bool, bytes], PubSubChannel] = {}
        self._blocked: set[bytes] = set()
        self._to_drop = 0
        self._is_interrupted = False
        self._closed = False
        self.status: PubSubStatus = "ok"

    @property
    def healthy(self) -> bool:
        """See ``PubSub.healthy``; a test sets ``status``."""
        return self.status != "down"

    def report(self) -> Mapping[str, SubscriptionReport]:
        """See ``PubSub.report``: there are no probes."""
        return {"memory": SubscriptionReport(None, 0, 0, len(self._channels))}

    async def open(self) -> None:
        """Do nothing: the other implementations connect here."""

    async def close(self) -> None:
        """See ``PubSub.close``."""
        self._closed = True
        for channel in self._channels.values():
            channel.fail(RedisUnavailable("the pub/sub is closed"))
        self._channels.clear()

    def subscribe(self, channel: bytes | str, receiver: Receiver, *, sharded: bool = True) -> asyncio.Future[None]:
        """See ``PubSub.subscribe``. Confirmed in the next iteration of the event loop."""
        key = sharded, _name(channel)
        found = self._channels.get(key)
        if found is None:
            found = PubSubChannel(key[1], sharded)
            if not self._closed:
                self._channels[key] = found
                asyncio.get_running_loop().call_soon(self._confirm, found)
        future = found.add(receiver)
        if self._closed:
            found.fail(RedisUnavailable("the pub/sub is closed"))
        return future

    def unsubscribe(self, channel: bytes | str, receiver: Receiver, *, sharded: bool = True) -> None:
        """See ``PubSub.unsubscribe``."""
        key = sharded, _name(channel)
        found = self._channels.get(key)
        if found is not None:
            found.remove(receiver)
            if not found.receivers:
                del self._channels[key]

    def publish(self, channel: bytes | str, payload: bytes, *, sharded: bool = True) -> None:
        """Deliver a message to the receivers in the next iteration of the event loop, unless a test drops it."""
        if self._is_interrupted:
            return
        if self._to_drop:
            self._to_drop -= 1
            return
        asyncio.get_running_loop().call_soon(self._deliver, (sharded, _name(channel)), payload)

    def drop_next(self, count: int = 1) -> None:
        """Lose the next ``count`` messages of any channel without notice."""
        self._to_drop += count

    def block(self, channel: bytes | str) -> None:
        """Lose all messages of a channel without notice, until ``unblock`` is called."""
        self._blocked.add(_name(channel))

    def unblock(self) -> None:
        """Deliver again on every channel that was blocked, and notify its receivers of the gap."""
        blocked, self._blocked = self._blocked, set()
        for (_, name), channel in list(self._channels.items()):
            if name in blocked:
                channel.gap()

    def interrupt(self) -> None:
        """Lose the subscriptions of all channels, and all messages until ``reconnect``."""
        self._is_interrupted = True
        for channel in self._channels.values():
            channel.interrupt()

    def reconnect(self, server_id: str) -> None:
        """Confirm all subscriptions again, on this server. The first server is ``FIRST_SERVER``."""
        self._is_interrupted = False
        for channel in list(self._channels.values()):
            channel.confirm(server_id)

    def _confirm(self, channel: PubSubChannel) -> None:
        if self._channels.get((channel.sharded, channel.name)) is channel and not self._is_interrupted:
            channel.confirm(FIRST_SERVER)

    def _deliver(self, key: tuple[bool, bytes], payload: bytes) -> None:
        channel = self._channels.get(key)
        if channel is not None and key[1] not in self._blocked and not self._is_interrupted:
            channel.deliver(payload)


def _name(channel: bytes | str) -> bytes:
    return channel.encode() if isinstance(channel, str) else channel
