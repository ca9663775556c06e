"""The subscriptions at one primary of a cluster, over one connection. A command never names channels of two slots."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, Final, Protocol

from gregor.core.backoff import Backoff
from gregor.redis.cluster.node import FIRST_RETRY_S, MAX_RETRY_S, Opener
from gregor.redis.cluster.slots import NodeAddress, slot_of
from gregor.redis.connection import RedisConnection, pack
from gregor.redis.errors import RedisUnavailable, ReplyError

from .channel import PubSubChannel, route

_log = logging.getLogger(__name__)

MAX_CHANNELS: Final = 512
"""Channels of one SSUBSCRIBE. More in one command would block the server for longer."""


class NodeSubscriptionEvents(Protocol):
    """Receives the events of a node's subscriptions."""

    def on_withdrawn(self, node: NodeSubscriptions, channel: PubSubChannel) -> None:
        """Handle that the server ended a subscription on its own: the slot of the channel has moved."""
        ...

    def on_refused(self, node: NodeSubscriptions, channels: list[PubSubChannel], error: ReplyError) -> None:
        """Handle that the server refused channels of one slot."""
        ...

    def on_disconnected(self, node: NodeSubscriptions) -> None:
        """Handle a lost connection. The channels are interrupted already."""
        ...


class NodeSubscriptions:
    """Channels that are subscribed at one node. ``add`` and ``drop`` take effect in this loop iteration."""

    def __init__(self, address: NodeAddress, opener: Opener, events: NodeSubscriptionEvents) -> None:
        self.address = address
        self.name = f"{address[0]}:{address[1]}"
        self.channels: dict[bool, dict[bytes, PubSubChannel]] = {True: {}, False: {}}
        self.connections = 0
        """How many connections were opened, the first one included."""
        self._opener = opener
        self._events = events
        self._loop = asyncio.get_running_loop()
        self._connection: RedisConnection | None = None
        # Names that the server knows on this connection, or will after the commands that were sent.
        self._sent: dict[bool, set[bytes]] = {True: set(), False: set()}
        self._to_add: list[PubSubChannel] = []
        self._to_drop: list[tuple[bool, bytes]] = []
        # Commands without a confirmation: the kind of the confirmations, and the channels in their order.
        self._unconfirmed: deque[tuple[bytes, deque[tuple[bytes, PubSubChannel | None]]]] = deque()
        self._is_flush_scheduled = False
        self._backoff = Backoff(FIRST_RETRY_S, MAX_RETRY_S, random.uniform)
        self._closed = False
        self._connecting: asyncio.Task[None] | None = self._loop.create_task(self._keep_connecting())

    @property
    def connected(self) -> bool:
        """Whether there is a connection now."""
        return self._connection is not None

    def add(self, channel: PubSubChannel) -> None:
        """Subscribe to a channel here."""
        self.channels[channel.sharded][channel.name] = channel
        self._to_add.append(channel)
        self._schedule()

    def drop(self, channel: PubSubChannel, *, was_withdrawn: bool = False) -> None:
        """End the subscription to a channel here. Messages that still come are ignored.

        ``was_withdrawn``: the server has ended the subscription already.
        """
        of_kind = self.channels[channel.sharded]
        if of_kind.get(channel.name) is channel:
            del of_kind[channel.name]
        if was_withdrawn:
            self._sent[channel.sharded].discard(channel.name)
        elif channel.name in self._sent[channel.sharded]:
            self._to_drop.append((channel.sharded, channel.name))
            self._schedule()

    def abort(self, reason: str) -> None:
        """Break the connection, and connect again."""
        if self._connection is not None:
            self._connection.abort(reason)

    async def close(self) -> None:
        """Close for good."""
        self._closed = True
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.gather(self._connecting, return_exceptions=True)
        connection = self._connection
        if connection is not None:
            connection.abort("was closed by this process")
            await connection.closed.wait()

    # ---- events of the connection

    def on_replies(self, replies: list[Any]) -> None:
        """Route messages to their channels, and record confirmations. Called by the connection."""
        route(replies, self.channels, self._on_confirmation, self._on_error)

    def on_resumed(self) -> None:
        """Do nothing: commands are few and small, so they are never held back. Called by the connection."""

    def on_lost(self, reason: str) -> None:
        """Interrupt all channels, and connect again. Called by the connection."""
        self._connection = None
        self._unconfirmed.clear()
        self._to_drop.clear()
        self._sent = {True: set(), False: set()}
        for channel in self._all_channels():
            channel.interrupt()
        if self._closed:
            return
        _log.warning("pubsub.disconnected server=%s reason=%s", self.name, reason)
        self._connecting = self._loop.create_task(self._keep_connecting())
        self._events.on_disconnected(self)

    # ---- commands

    def _schedule(self) -> None:
        if not self._is_flush_scheduled and self._connection is not None:
            self._is_flush_scheduled = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Send what was added and dropped. Dropped first: a name may be dropped and added again."""
        self._is_flush_scheduled = False
        connection = self._connection
        dropped, self._to_drop = self._to_drop, []
        added, self._to_add = self._to_add, []
        if connection is None:
            return  # everything in ``channels`` is subscribed when there is a connection
        commands = []
        for sharded, name in dropped:
            self._sent[sharded].discard(name)
            kind = b"sunsubscribe" if sharded else b"unsubscribe"
            commands.append(pack((kind.upper(), name)))
            self._unconfirmed.append((kind, deque([(name, None)])))
        wanted = dict.fromkeys(each for each in added if self.channels[each.sharded].get(each.name) is each)
        for sharded, group in _one_slot_each(each for each in wanted if each.name not in self._sent[each.sharded]):
            kind = b"ssubscribe" if sharded else b"subscribe"
            commands.append(pack((kind.upper(), *(channel.name for channel in group))))
            self._sent[sharded].update(channel.name for channel in group)
            self._unconfirmed.append((kind, deque((channel.name, channel) for channel in group)))
        if commands:
            connection.write(b"".join(commands))

    def _on_confirmation(self, kind: bytes, name: bytes) -> None:
        """Handle a confirmation, or an unsubscription that the server made on its own."""
        # The server confirms in the order of the commands, each channel by itself.
        if self._unconfirmed and self._unconfirmed[0][0] == kind and self._unconfirmed[0][1][0][0] == name:
            names = self._unconfirmed[0][1]
            _, channel = names.popleft()
            if not names:
                self._unconfirmed.popleft()
            if channel is not None and self.channels[channel.sharded].get(name) is channel:
                channel.confirm(self._connection.server_id if self._connection is not None else None)
        elif kind == b"sunsubscribe":
            self._sent[True].discard(name)
            withdrawn = self.channels[True].get(name)
            if withdrawn is not None:
                self._events.on_withdrawn(self, withdrawn)
        else:
            self.abort("sent a confirmation without a request")

    def _on_error(self, error: ReplyError) -> None:
        """Handle the refusal of the oldest command: of all its channels."""
        names = self._unconfirmed[0][1] if self._unconfirmed else ()
        if error.code == "MOVED" and (not names or _slot_in(error) != slot_of(names[0][0])):
            return  # for an unsubscription that the server had confirmed on its own before
        if not names:
            self.abort(f"sent an error: {error}")
            return
        _, names = self._unconfirmed.popleft()
        refused = [channel for _, channel in names if channel is not None]
        for channel in refused:
            self._sent[channel.sharded].discard(channel.name)
        current = [each for each in refused if self.channels[each.sharded].get(each.name) is each]
        if current:
            self._events.on_refused(self, current, error)

    # ---- connecting

    def _all_channels(self) -> list[PubSubChannel]:
        return [channel for channels in self.channels.values() for channel in channels.values()]

    async def _keep_connecting(self) -> None:
        while True:
            try:
                connection = await self._opener(self.address, self)
            except RedisUnavailable as error:
                _log.info("pubsub.connect_failed error=%s", error)
                await asyncio.sleep(self._backoff.next_at(self._loop.time()))
                continue
            self._connecting = None
            self.connections += 1
            self._connection = connection
            self._to_add = self._all_channels()
            self._flush()
            _log.info("pubsub.connected server=%s channels=%d", self.name, sum(map(len, self.channels.values())))
            return


def _slot_in(error: ReplyError) -> int:
    """Return the slot that a MOVED error names."""
    words = str(error).split(" ")
    return int(words[1]) if len(words) > 1 and words[1].isdigit() else -1


def _one_slot_each(channels: Iterable[PubSubChannel]) -> Iterator[tuple[bool, list[PubSubChannel]]]:
    """Return groups of at most ``MAX_CHANNELS`` channels: sharded ones of one slot, or plain ones."""
    groups: dict[int, list[PubSubChannel]] = {}
    for channel in channels:
        groups.setdefault(slot_of(channel.name) if channel.sharded else -1, []).append(channel)
    for slot, group in groups.items():
        for start in range(0, len(group), MAX_CHANNELS):
            yield slot >= 0, group[start : start + MAX_CHANNELS]
