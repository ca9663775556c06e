"""The connection of one primary: commands in one write for each turn of the event loop, replies in order, a heartbeat.

It reconnects by itself, but keeps no commands while it is not connected: they wait in the gates of their slots, because
another node may own these slots before this one is back.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Final, Protocol, TypeAlias

from gregor.core.backoff import Backoff
from gregor.redis.commands import Script
from gregor.redis.connection import Argument, ConnectionListener, RedisConnection, pack
from gregor.redis.errors import RedisUnavailable, ReplyError
from gregor.redis.heartbeat import Heartbeat

from .commands import Command, ConnectionCommand
from .gates import SlotGate
from .slots import NodeAddress

_log = logging.getLogger(__name__)

HEARTBEAT_S: Final = 4.5
"""After this time without data, a PING is sent. In services, ``Readiness`` sends one earlier.

A link in use is dead 3 s after the first command without a reply. No caller waits for an idle link, and the next read
of the slot map finds the new owner of its slots."""
FIRST_RETRY_S: Final = 0.05
MAX_RETRY_S: Final = 1.0
"""Bounds of the delay before a reconnect; a node that restarts is used again within this time."""
RENEW_S: Final = 1.0
"""The least time between two renewals of a connection whose node redirects to itself."""
_MAX_UNSENT_BYTES: Final = 64 * 1024 * 1024
_PING: Final = pack(("PING",))
_ASKING: Final = pack(("ASKING",))

Opener: TypeAlias = Callable[[NodeAddress, ConnectionListener], Awaitable[RedisConnection]]
"""Opens a connection to a node; raises ``RedisUnavailable``."""


class NodeEvents(Protocol):
    """Receives the events of a node."""

    @property
    def watches_replies(self) -> bool:
        """Whether ``on_answer`` wants every reply, and not only errors."""
        ...

    def on_answer(self, node: ClusterNode, command: Command, reply: Any) -> None:
        """Handle the reply to a command."""
        ...

    def on_progress(self, node: ClusterNode) -> None:
        """Handle that all replies of one read were passed on; called while ``watches_replies`` is true."""
        ...

    def on_open(self, node: ClusterNode) -> None:
        """Handle that commands can be sent."""
        ...

    def on_lost(self, node: ClusterNode, written: Sequence[Command], unwritten: Sequence[Command], reason: str) -> None:
        """Handle a lost connection. ``written`` may have been executed, ``unwritten`` was not."""
        ...


class ClusterNode:
    """A node of the cluster: ``gates.Outlet``, and ``RedisNode`` for its callers.

    Args:
        heartbeat_s, dead_s: See ``Heartbeat``.
    """

    def __init__(
        self,
        address: NodeAddress,
        opener: Opener,
        events: NodeEvents,
        *,
        max_in_flight: int,
        heartbeat_s: float,
        dead_s: float,
    ) -> None:
        self.address = address
        self.sent = 0
        self.answered = 0
        self.draining: deque[tuple[int, SlotGate]] = deque()
        self.load_commands: Sequence[bytes] = ()
        """Sent first on every new connection."""
        self._connections = 0  # opened so far
        self._opener = opener
        self._events = events
        self._max_in_flight = max_in_flight
        self._heartbeat_s = heartbeat_s
        self._dead_s = dead_s
        self._loop = asyncio.get_running_loop()
        self._connection: RedisConnection | None = None
        self._in_flight: deque[Command] = deque()
        self._unsent: list[bytes] = []
        self._unsent_commands = 0
        self._unsent_bytes = 0
        self._is_flush_scheduled = False
        self._is_paused = False
        self._is_renewing = False
        self._renewed_at = float("-inf")
        self._loading: set[str] = set()
        self._heartbeat: Heartbeat | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._backoff = Backoff(FIRST_RETRY_S, MAX_RETRY_S, random.uniform)
        self._closed = False
        self.down_reason = f"{self.name} is not connected"

    # ---- state

    @property
    def outstanding(self) -> int:
        """The number of commands without a reply."""
        return len(self._in_flight)

    @property
    def name(self) -> str:
        """See ``RedisNode.name``."""
        host, port = self.address
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    @property
    def connected(self) -> bool:
        """See ``RedisNode.connected``."""
        return self._connection is not None

    @property
    def server_id(self) -> str | None:
        """See ``RedisNode.server_id``."""
        return self._connection.server_id if self._connection is not None else None

    @property
    def generation(self) -> int:
        """See ``RedisNode.generation``."""
        return self._connections

    @property
    def connected_for_s(self) -> float:
        """See ``RedisNode.connected_for_s``."""
        return self._loop.time() - self._connection.opened_at if self._connection is not None else 0.0

    @property
    def reconnections(self) -> int:
        """How often a lost connection was replaced."""
        return max(0, self._connections - 1)

    @property
    def is_open(self) -> bool:
        """See ``Outlet.is_open``."""
        return self._connection is not None and not self._is_renewing

    @property
    def is_full(self) -> bool:
        """See ``Outlet.is_full``."""
        return len(self._in_flight) >= self._max_in_flight or self._unsent_bytes > _MAX_UNSENT_BYTES

    @property
    def silent_s(self) -> float:
        """Seconds without data while replies are missing; 0 if none is missing."""
        if self._connection is None or not self._in_flight:
            return 0.0
        return self._loop.time() - self._connection.last_received_at

    def in_flight(self) -> Iterable[Command]:
        """See ``Outlet.in_flight``."""
        return self._in_flight

    # ---- life cycle

    def start(self) -> None:
        """Connect, and keep connected until ``close``."""
        if self._connecting is None and self._connection is None and not self._closed:
            self._connecting = self._loop.create_task(self._keep_connecting(self._backoff.next_at))

    async def open(self) -> None:
        """Connect once. Raises ``RedisUnavailable`` or ``RedisAccessRefused``; then ``start`` tries again."""
        self._attach(await self._opener(self.address, self))

    async def close(self) -> None:
        """Close for good. Commands in flight fail as lost."""
        self._closed = True
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.gather(self._connecting, return_exceptions=True)
        connection = self._connection
        if connection is not None:
            connection.abort("was closed by this process")
            await connection.closed.wait()

    def abort(self, reason: str) -> None:
        """Break the connection, and connect again. ``reason`` completes the sentence "host:port …"."""
        if self._connection is not None:
            self._connection.abort(reason)

    def renew(self) -> None:
        """See ``Outlet.renew``. At most once a second; otherwise the commands are repeated on this connection."""
        now = self._loop.time()
        if now - self._renewed_at < RENEW_S:
            return
        self._renewed_at = now
        self._is_renewing = True
        # Called while a reply is handled: ``on_replies`` closes the connection when the last one is there.
        _log.info("redis.renewed server=%s reason=redirects_to_itself", self.name)

    # ---- sending

    def call(self, *args: Argument) -> asyncio.Future[Any]:
        """See ``RedisNode.call``. Fails at once if the node is not connected."""
        future: asyncio.Future[Any] = self._loop.create_future()

        def deliver(reply: Any) -> None:
            if future.done():
                return
            if isinstance(reply, Exception):
                future.set_exception(reply)
            else:
                future.set_result(reply)

        command = ConnectionCommand(pack(args), deliver)
        if not self.is_open or self.is_full:
            command.give_up(self.down_reason if not self.is_open else f"the connection to {self.name} is overloaded")
        else:
            self.send(command)
        return future

    def call_on_connection(self, *args: Argument) -> asyncio.Future[Any]:
        """See ``RedisNode.call_on_connection``. As ``call``: a ``ConnectionCommand`` is never repeated."""
        return self.call(*args)

    def send(self, command: Command, *, asking: bool = False) -> None:
        """See ``Outlet.send``."""
        if asking:
            self._append(ConnectionCommand(_ASKING))
        self._append(command)

    def load(self, script: Script) -> None:
        """See ``Outlet.load``."""
        if script.sha not in self._loading:
            self._loading.add(script.sha)
            packed = pack(("SCRIPT", "LOAD", script.source))
            self._append(ConnectionCommand(packed, lambda _: self._loading.discard(script.sha)))

    def _append(self, command: Command) -> None:
        self.sent += 1
        self._in_flight.append(command)
        self._unsent.append(command.packed)
        self._unsent_commands += 1
        self._unsent_bytes += len(command.packed)
        if not self._is_flush_scheduled:
            self._is_flush_scheduled = True
            # After the other callbacks of this loop iteration, whose commands join this write.
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._is_flush_scheduled = False
        connection = self._connection
        if connection is None or self._is_paused or not self._unsent:
            return
        if len(self._in_flight) == self._unsent_commands:
            connection.last_received_at = self._loop.time()  # no reply was missing: the silence starts now
        data = b"".join(self._unsent)
        self._forget_unsent()
        connection.write(data)
        self._is_paused = not connection.writable

    def _forget_unsent(self) -> None:
        self._unsent.clear()
        self._unsent_commands = self._unsent_bytes = 0

    # ---- events of the connection

    def on_replies(self, replies: list[Any]) -> None:
        """Give each reply to the oldest command without one. Called by the connection."""
        in_flight, events = self._in_flight, self._events
        if len(replies) > len(in_flight) - self._unsent_commands:
            self.abort("sent a reply without a request")
            return
        for reply in replies:
            command = in_flight.popleft()
            self.answered += 1
            if isinstance(reply, ReplyError) or events.watches_replies:
                events.on_answer(self, command, reply)
            else:
                command.finish(reply)
        if events.watches_replies:
            events.on_progress(self)
        if self._is_renewing and not in_flight:
            self.abort("redirects to its own address")

    def on_resumed(self) -> None:
        """Write what was queued: the server reads again. Called by the connection."""
        self._is_paused = False
        self._flush()

    def on_lost(self, reason: str) -> None:
        """Pass on the commands without a reply, and connect again. Called by the connection."""
        self._connection = None
        self._is_paused = self._is_renewing = False
        if self._heartbeat is not None:
            self._heartbeat.stop()
            self._heartbeat = None
        pending, written = list(self._in_flight), len(self._in_flight) - self._unsent_commands
        self._in_flight.clear()
        self._forget_unsent()
        self._loading.clear()
        self.answered = self.sent
        self.down_reason = f"{self.name} {reason}"
        if not self._closed:
            _log.warning("redis.disconnected server=%s reason=%s", self.name, reason)
            self._connecting = self._loop.create_task(self._keep_connecting(self._backoff.next_at))
        self._events.on_lost(self, pending[:written], pending[written:], self.down_reason)

    # ---- connecting

    async def _keep_connecting(self, delay_at: Callable[[float], float]) -> None:
        while True:
            await asyncio.sleep(delay_at(self._loop.time()))
            try:
                connection = await self._opener(self.address, self)
            except RedisUnavailable as error:
                self.down_reason = str(error)
                continue
            self._connecting = None
            _log.info("redis.reconnected server=%s" if self._connections else "redis.connected server=%s", self.name)
            self._attach(connection)
            return

    def _attach(self, connection: RedisConnection) -> None:
        """Use a new connection: load the scripts first, then take commands."""
        self._connection = connection
        self._connections += 1
        self._is_paused = not connection.writable
        for packed in self.load_commands:
            # Not awaited: a call whose script is missing loads it again.
            self._append(ConnectionCommand(packed))
        self._heartbeat = Heartbeat(
            connection, self._ping, lambda: bool(self._in_flight), idle_s=self._heartbeat_s, dead_s=self._dead_s
        )
        self._events.on_open(self)

    def _ping(self) -> None:
        self._append(ConnectionCommand(_PING))
