"""``KeyTracker`` of one server, and of the primaries of a cluster. Connections are opened by the first read."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from functools import partial
from typing import Any, Final

from gregor.redis.address import AddressSource, UrlSource
from gregor.redis.cluster.client import ClusterClient
from gregor.redis.cluster.slots import NodeAddress, slot_of
from gregor.redis.connection import Command, ConnectionListener, RedisConnection, argument_bytes
from gregor.redis.connector import connector_of
from gregor.redis.errors import RedisUnavailable
from gregor.redis.reads import PATIENCE_S

from .connection import TrackingConnection
from .contract import SlowReply, StaleListener

_NAME: Final = "gregor-tracking"
TIMEOUT_S: Final = 3.0
"""Timeout of one attempt to connect."""


class _Tracker:
    """Base class of both trackers: remembers which connection has read each key, and reports stale keys."""

    def __init__(self) -> None:
        self._listeners: list[StaleListener] = []
        self._readers: dict[bytes, TrackingConnection] = {}

    def add_listener(self, listener: StaleListener) -> None:
        """See ``KeyTracker.add_listener``."""
        self._listeners.append(listener)

    def on_changed(self, connection: TrackingConnection, keys: Collection[bytes] | None) -> None:
        """See ``TrackingEvents``."""
        if keys is None:
            keys = [key for key, reader in self._readers.items() if reader is connection]
        self._report(keys)

    def _report(self, keys: Collection[bytes]) -> None:
        if keys:
            for listener in self._listeners:
                listener.on_stale(keys)

    async def _read(
        self,
        groups: dict[TrackingConnection, list[int]],
        commands: Sequence[Command],
        *,
        is_only_server: bool = False,
    ) -> list[Any]:
        """Send reads to their connections and return all replies in order.

        ``groups``: the indexes of the commands for each connection. Commands in no group get ``RedisUnavailable``. A
        server that hangs delays the others by ``PATIENCE_S`` once. Until it answers, it gets no further reads.
        """
        replies: list[Any] = [RedisUnavailable("the owner of the key is unknown")] * len(commands)
        reading: dict[asyncio.Task[list[Any]], Sequence[int]] = {}
        for connection, places in groups.items():
            chosen = [commands[place] for place in places]
            self._readers |= dict.fromkeys(map(_key, chosen), connection)
            if connection.silent_s > PATIENCE_S:
                _put(replies, places, [SlowReply(f"{connection.name} has not answered earlier reads")] * len(places))
            else:
                reading[asyncio.create_task(connection.read(chosen))] = places
        if reading:
            try:
                # In a cluster, the keys of other servers may be known, and must not wait for the only one that is read.
                if is_only_server:
                    await asyncio.wait(reading, return_when=asyncio.FIRST_COMPLETED)
                await asyncio.wait(reading, timeout=PATIENCE_S)
            finally:
                for task in reading:
                    task.cancel()  # without effect on those that have ended
        for task, read_places in reading.items():
            _put(replies, read_places, _replies_of(task, len(read_places)))
        return replies


def _replies_of(task: asyncio.Task[list[Any]], count: int) -> Sequence[Any]:
    """Return the replies of a read, or its failure ``count`` times."""
    if not task.done() or task.cancelled():
        return [SlowReply("the server of the key is slow")] * count
    error = task.exception()
    if error is None:
        return task.result()
    if not isinstance(error, RedisUnavailable):
        raise error
    return [error] * count


def _put(replies: list[Any], places: Sequence[int], found: Sequence[Any]) -> None:
    for place, reply in zip(places, found, strict=True):
        replies[place] = reply


class ServerKeyTracker(_Tracker):
    """``KeyTracker`` of one server, or of the primary that the Sentinels of the URL name.

    Args:
        url: See ``RedisClient``.
        heartbeat_s, answer_s: See ``TrackingConnection``.
    """

    def __init__(self, url: UrlSource, **heartbeat: float) -> None:
        super().__init__()
        addresses = AddressSource(url)
        self._name = str(addresses.current())
        self._connector = connector_of(addresses)
        self._heartbeat = heartbeat
        self._connection: TrackingConnection | None = None

    async def read(self, commands: Sequence[Command]) -> list[Any]:
        """See ``KeyTracker.read``."""
        if self._connection is None:
            self._connection = TrackingConnection(self._name, self._open, self, **self._heartbeat)
        return await self._read({self._connection: list(range(len(commands)))}, commands, is_only_server=True)

    async def _open(self, listener: ConnectionListener) -> RedisConnection:
        return await self._connector.connect(_NAME, listener, TIMEOUT_S)

    async def close(self) -> None:
        """See ``KeyTracker.close``."""
        if self._connection is not None:
            await self._connection.close()
        await self._connector.close()


class ClusterKeyTracker(_Tracker):
    """``KeyTracker`` of a cluster: each key is read at the primary of its slot, and is stale when the slot moves.

    Args:
        client: Knows the owners of the slots.
        heartbeat_s, answer_s: See ``TrackingConnection``.
    """

    def __init__(self, client: ClusterClient, **heartbeat: float) -> None:
        super().__init__()
        self._client = client
        self._opener = client.opener(_NAME)
        self._heartbeat = heartbeat
        self._connections: dict[NodeAddress, TrackingConnection] = {}
        self._slots: dict[int, set[bytes]] = {}
        self._closing: set[asyncio.Task[None]] = set()
        client.slot_listeners.append(self._on_slots_changed)

    async def read(self, commands: Sequence[Command]) -> list[Any]:
        """See ``KeyTracker.read``. While a slot moves, its reads may get a redirect (MOVED, ASK) as ``ReplyError``."""
        groups: dict[TrackingConnection, list[int]] = {}
        for place, command in enumerate(commands):
            key = _key(command)
            slot = slot_of(key)
            self._slots.setdefault(slot, set()).add(key)
            owner = self._client.owner_address(slot)
            if owner is not None:
                groups.setdefault(self._connection_to(owner), []).append(place)
        return await self._read(groups, commands)

    def _connection_to(self, address: NodeAddress) -> TrackingConnection:
        found = self._connections.get(address)
        if found is None:
            name = f"{address[0]}:{address[1]}"
            opener = partial(self._opener, address)
            found = self._connections[address] = TrackingConnection(name, opener, self, **self._heartbeat)
        return found

    def _on_slots_changed(self, slots: set[int]) -> None:
        """Report the keys of slots with a new owner, and close the connections to servers without slots."""
        self._report([key for slot in slots & self._slots.keys() for key in self._slots[slot]])
        primaries = set(self._client.primary_addresses)
        for address in [each for each in self._connections if each not in primaries]:
            task = asyncio.get_running_loop().create_task(self._connections.pop(address).close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """See ``KeyTracker.close``."""
        if self._on_slots_changed in self._client.slot_listeners:
            self._client.slot_listeners.remove(self._on_slots_changed)
        await asyncio.gather(*(connection.close() for connection in self._connections.values()), *self._closing)


def _key(command: Command) -> bytes:
    return argument_bytes(command[1])
