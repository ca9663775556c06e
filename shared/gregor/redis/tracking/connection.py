"""The connection of tracked reads to one server: RESP3, with ``CLIENT TRACKING``, a heartbeat, and reconnects."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any, Final, Protocol

import hiredis

from gregor.core.backoff import Backoff
from gregor.redis.connect import FIRST_RETRY_S, MAX_RETRY_S
from gregor.redis.connection import Command, ConnectionListener, NullListener, RedisConnection, pack
from gregor.redis.errors import RedisUnavailable, ReplyError
from gregor.redis.heartbeat import Heartbeat

_log = logging.getLogger(__name__)

HEARTBEAT_S: Final = 2.0
"""After this time without data, a PING is sent."""
ANSWER_S: Final = 1.0
"""How long the server may be silent while it owes a reply. With the heartbeat, a dead connection is found after 3 s."""
REFUSED_RETRY_S: Final = 60.0
"""Pause after a server refused to track keys: an operator must change its access rules."""
_PING: Final = pack(("PING",))
_PREPARE: Final[tuple[Command, ...]] = (("HELLO", 3), ("CLIENT", "TRACKING", "ON"))

ConnectionOpener = Callable[[ConnectionListener], Awaitable[RedisConnection]]
"""Opens a connection to the server; raises ``RedisUnavailable``."""


class TrackingEvents(Protocol):
    """Receives the events of a tracking connection."""

    def on_changed(self, connection: TrackingConnection, keys: Collection[bytes] | None) -> None:
        """Handle that keys have changed; ``None``: perhaps all of them (lost connection, FLUSHALL)."""
        ...


class _PendingRead:
    """The commands of one ``read`` whose replies are not complete. Collects the replies in order."""

    __slots__ = ("missing", "replies", "result")

    def __init__(self, count: int, result: asyncio.Future[list[Any]]) -> None:
        self.missing = count
        self.replies: list[Any] = []
        self.result = result

    def add(self, reply: Any) -> None:
        self.replies.append(reply)
        self.missing -= 1
        if not self.missing and not self.result.done():
            self.result.set_result(self.replies)


class TrackingConnection:
    """Reads keys of one server, and reports their changes. It reconnects by itself until ``close``.

    Args:
        name: ``host:port``, for logs.
        opener: Opens a connection.
        events: Receives the reported changes.
        heartbeat_s, answer_s: See ``HEARTBEAT_S`` and ``ANSWER_S``.
    """

    def __init__(
        self,
        name: str,
        opener: ConnectionOpener,
        events: TrackingEvents,
        *,
        heartbeat_s: float = HEARTBEAT_S,
        answer_s: float = ANSWER_S,
    ) -> None:
        self.name = name
        self._opener = opener
        self._events = events
        self._heartbeat_s = heartbeat_s
        self._answer_s = answer_s
        self._loop = asyncio.get_running_loop()
        self._connection: RedisConnection | None = None
        # Reads without all replies, and None for each PING, oldest first.
        self._in_flight: deque[_PendingRead | None] = deque()
        self._backoff = Backoff(FIRST_RETRY_S, MAX_RETRY_S, random.uniform)
        self._heartbeat: Heartbeat | None = None
        self._has_logged_refusal = False
        self._closed = False
        self._connecting: asyncio.Task[None] | None = self._loop.create_task(self._keep_connecting(0.0))

    @property
    def connected(self) -> bool:
        """Whether keys can be read and tracked now."""
        return self._connection is not None

    @property
    def silent_s(self) -> float:
        """Seconds without data while replies are missing; 0 if none is missing."""
        if self._connection is None or not self._in_flight:
            return 0.0
        return self._loop.time() - self._connection.last_received_at

    async def read(self, commands: Sequence[Command]) -> list[Any]:
        """Send reads in one write and return their replies in order, error replies (``ReplyError``) among them.

        Raises ``RedisUnavailable`` if the server is not connected, or the connection breaks.
        """
        connection = self._connection
        if connection is None:
            raise RedisUnavailable(f"{self.name} is not connected for tracked reads")
        result: asyncio.Future[list[Any]] = self._loop.create_future()
        self._note_silence(connection)
        self._in_flight.append(_PendingRead(len(commands), result))
        connection.write(b"".join(map(pack, commands)))
        return await result

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
        """Report changes, and give each reply to the oldest read. Called by the connection."""
        for reply in replies:
            if isinstance(reply, hiredis.PushNotification):
                if reply and reply[0] == b"invalidate":
                    self._events.on_changed(self, reply[1])
                continue
            if not self._in_flight:
                self._abort("sent a reply without a request")
                return
            pending = self._in_flight[0]
            if pending is not None:
                pending.add(reply)
            if pending is None or not pending.missing:
                self._in_flight.popleft()

    def on_resumed(self) -> None:
        """Do nothing: reads are so few and small that backpressure is not needed. Called by the connection."""

    def on_lost(self, reason: str) -> None:
        """Fail the reads without a reply, report all keys as changed, and connect again. Called by the connection."""
        self._connection = None
        if self._heartbeat is not None:
            self._heartbeat.stop()
            self._heartbeat = None
        pending, self._in_flight = self._in_flight, deque()
        for read in pending:
            if read is not None and not read.result.done():
                read.result.set_exception(RedisUnavailable(f"{self.name} {reason}"))
        self._events.on_changed(self, None)
        if not self._closed:
            _log.warning("tracking.disconnected server=%s reason=%s", self.name, reason)
            self._connecting = self._loop.create_task(self._keep_connecting(self._backoff.next_at(self._loop.time())))

    # ---- connecting, heartbeat

    async def _keep_connecting(self, delay_s: float) -> None:
        while True:
            await asyncio.sleep(delay_s)
            try:
                connection = await self._open()
            except RedisUnavailable as error:
                _log.info("tracking.connect_failed server=%s error=%s", self.name, error)
                delay_s = self._backoff.next_at(self._loop.time())
            except ReplyError as error:
                self._log_refusal(error)
                delay_s = REFUSED_RETRY_S
            else:
                self._connecting = None
                self._connection = connection
                self._heartbeat = Heartbeat(
                    connection,
                    self._ping,
                    lambda: bool(self._in_flight),
                    idle_s=self._heartbeat_s,
                    dead_s=self._answer_s,
                )
                # Readers that polled until now learn that their keys can be tracked.
                self._events.on_changed(self, None)
                return

    async def _open(self) -> RedisConnection:
        """Return a connection that tracks keys. Raises ``RedisUnavailable``; ``ReplyError`` if the server refuses."""
        connection = await self._opener(NullListener())
        try:
            async with asyncio.timeout(self._answer_s + self._heartbeat_s):
                replies = await connection.request(_PREPARE)
            for reply in replies:
                if isinstance(reply, ReplyError):
                    raise reply
            connection.set_listener(self)
        except BaseException as error:
            connection.abort("was given up")
            if isinstance(error, TimeoutError):
                raise RedisUnavailable(f"{self.name} does not answer") from None
            raise
        return connection

    def _log_refusal(self, error: ReplyError) -> None:
        if not self._has_logged_refusal:
            self._has_logged_refusal = True
            effect, fix = "keys are polled", "allow the user +hello +client|tracking"
            _log.warning("tracking.refused server=%s reason=%s effect=%s fix=%s", self.name, error, effect, fix)

    def _abort(self, reason: str) -> None:
        if self._connection is not None:
            self._connection.abort(reason)

    def _note_silence(self, connection: RedisConnection) -> None:
        if not self._in_flight:
            connection.last_received_at = self._loop.time()  # no reply was missing: the silence starts now

    def _ping(self) -> None:
        if self._connection is not None:
            self._note_silence(self._connection)
            self._in_flight.append(None)
            self._connection.write(_PING)
