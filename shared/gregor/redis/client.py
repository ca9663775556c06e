"""The Redis client: all commands of a process share one connection and are pipelined automatically.

Why an own client: commands issued in one iteration of the event loop leave in one socket write, without an await, a
lock or a pooled connection for each. This saves most of the CPU of a general client, here and in the server.
`docs/decisions/0008-redis-client.md` has the measurements, and says when we would give it up.

Replies come back in order. Blocking commands (``XREADGROUP BLOCK``) need a separate client. Transactions of several
calls (``WATCH``) are not supported, because all callers share the connection.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Sequence
from itertools import repeat
from typing import Any, Final, Literal

from gregor.core.backoff import Backoff
from gregor.redis.cluster.slots import SLOTS

from .address import AddressSource, UrlSource
from .commands import KeyGroup, Script, ScriptCall
from .connect import FIRST_RETRY_S, MAX_RETRY_S, connect_with_retry
from .connection import Argument, Command, RedisConnection, pack, pack_script
from .connector import connector_of
from .errors import RedisConnectionLost, RedisUnavailable, ReplyError

_log = logging.getLogger(__name__)

# The most bytes that may wait for a slow or absent server; then new commands are refused.
_MAX_QUEUED_BYTES: Final = 64 * 1024 * 1024


class _PendingScript(asyncio.Future[Any]):
    """An EVALSHA without a reply yet, with everything needed to repeat it."""

    __slots__ = ("load", "packed", "script")

    script: Script
    packed: bytes
    load: asyncio.Future[Any] | None


class _ConnectionCall(asyncio.Future[Any]):
    """A command without a reply yet that ends with its connection, although it was not written."""


class _Batch:
    """Commands issued together. It takes the place of each of them in the queue and collects their replies in order."""

    __slots__ = ("_missing", "_replies", "has_errors", "replies")

    def __init__(self, count: int, loop: asyncio.AbstractEventLoop) -> None:
        self._missing = count
        self._replies: list[Any] = []
        self.has_errors = False
        self.replies: asyncio.Future[list[Any]] = loop.create_future()

    def done(self) -> bool:
        return self.replies.done()

    def set_result(self, reply: Any) -> None:
        self._replies.append(reply)
        self._missing -= 1
        if not self._missing and not self.replies.done():
            self.replies.set_result(self._replies)

    def set_exception(self, error: Exception) -> None:
        self.has_errors = True
        self.set_result(error)


class RedisClient:
    """``RedisCommands`` over one connection, which reconnects automatically with exponential backoff.

    A command that was written when the connection breaks fails with ``RedisConnectionLost``. A command that was not
    written waits for the next connection.

    Args:
        url: See ``RedisUrl.parse``; or a function that returns it, which is called for each connection.
        name: Name of the connection in ``CLIENT LIST``.
        max_wait_s: How long a command waits for a connection before it fails with ``RedisUnavailable``.
        timeout_s: How long the server may be silent while replies are missing; also the timeout of connecting.
        max_in_flight: The most commands without a reply; more are refused (backpressure).
        accepts_replica: Whether the server may be a replica, for a client that only reads.
    """

    def __init__(
        self,
        url: UrlSource,
        *,
        name: str = "gregor",
        max_wait_s: float = 2.0,
        timeout_s: float = 5.0,
        max_in_flight: int = 100_000,
        accepts_replica: bool = False,
    ) -> None:
        addresses = AddressSource(url)
        self.address = addresses.current()
        if self.address.is_cluster:
            raise ValueError(f"{self.address} is a cluster: use gregor.redis.clients.client_of")
        self.reconnections = 0
        self._connector = connector_of(addresses, accepts_replica=accepts_replica)
        self._name = name
        self._max_wait_s = max_wait_s
        self._timeout_s = timeout_s
        self._max_in_flight = max_in_flight
        self._loop = asyncio.get_running_loop()
        self._connection: RedisConnection | None = None
        # Every command without a reply, oldest first. The newest len(_unsent) of them were not written yet.
        self._in_flight: deque[asyncio.Future[Any] | _Batch] = deque()
        self._unsent: deque[bytes] = deque()
        self._is_flush_scheduled = False
        # True while nothing can be written: not connected, or the server does not read.
        self._is_paused = True
        self._queued_bytes = 0
        # While not connected: the time at which each command of _unsent fails.
        self._deadlines: deque[float] = deque()
        self._expiry_timer: asyncio.TimerHandle | None = None
        self._silence_timer: asyncio.TimerHandle | None = None
        self._loading: dict[str, asyncio.Future[Any]] = {}
        self._load_commands: list[bytes] = []  # SCRIPT LOAD commands to repeat on every new connection
        self._backoff = Backoff(FIRST_RETRY_S, MAX_RETRY_S, random.uniform)
        self._reconnecting: asyncio.Task[None] | None = None
        self._down_reason = f"{self.address} is not connected"
        self._closed = False

    @property
    def connected(self) -> bool:
        """Whether the client is connected now."""
        return self._connection is not None

    @property
    def outstanding(self) -> int:
        """The number of commands without a reply."""
        return len(self._in_flight)

    @property
    def waiting(self) -> int:
        """The number of commands that wait for a connection, or for a server that does not read."""
        return len(self._unsent) if self._is_paused else 0

    @property
    def covered_slots(self) -> int:
        """The number of hash slots with a connected server: all of them or none."""
        return SLOTS if self.connected else 0

    @property
    def name(self) -> str:
        """See ``RedisNode.name``."""
        return str(self.address)

    @property
    def server_id(self) -> str | None:
        """See ``RedisNode.server_id``."""
        return self._connection.server_id if self._connection is not None else None

    @property
    def generation(self) -> int:
        """See ``RedisNode.generation``."""
        return self.reconnections

    @property
    def connected_for_s(self) -> float:
        """See ``RedisNode.connected_for_s``."""
        return self._loop.time() - self._connection.opened_at if self._connection is not None else 0.0

    @property
    def primary_switches(self) -> int:
        """How often the Sentinels have named another primary since the start; 0 without Sentinels."""
        return self._connector.switches

    @property
    def nodes(self) -> Sequence[RedisClient]:
        """See ``RedisCommands.nodes``: the server of this client."""
        return (self,)

    def group_by_node(self, keys: Sequence[Argument]) -> list[KeyGroup]:
        """See ``RedisCommands.group_by_node``: one group with all keys."""
        return [KeyGroup(self, range(len(keys)))] if keys else []

    async def open(self) -> None:
        """Connect. Raises ``RedisAccessRefused`` at once, ``RedisUnavailable`` after ``max_wait_s``."""
        self._attach(await connect_with_retry(self._connect, self._max_wait_s))

    async def close(self) -> None:
        """Close for good. Commands without a reply fail, and so does every later call."""
        self._closed = True
        self._down_reason = f"the client of {self.address} is closed"
        if self._reconnecting is not None:
            self._reconnecting.cancel()
            await asyncio.gather(self._reconnecting, return_exceptions=True)
        connection = self._connection
        if connection is not None:
            connection.abort("was closed by this process")
            await connection.closed.wait()
        self._fail_unsent(len(self._unsent))
        await self._connector.close()

    # ---- commands

    def call(self, *args: Argument) -> asyncio.Future[Any]:
        """See ``RedisCommands.call``. Raises ``TypeError`` at once for an argument of another type."""
        packed = pack(args)
        future = self._loop.create_future()
        self._enqueue(future, (packed,))
        return future

    def call_on_connection(self, *args: Argument) -> asyncio.Future[Any]:
        """See ``RedisNode.call_on_connection``."""
        future = _ConnectionCall(loop=self._loop)
        if self.connected:
            self._enqueue(future, (pack(args),))
        else:
            future.set_exception(RedisUnavailable(self._down_reason))
        return future

    def evalsha(self, script: Script, keys: Sequence[Argument], args: Sequence[Argument]) -> asyncio.Future[Any]:
        """See ``RedisCommands.evalsha``. A script that does not compile fails with the server's ``ReplyError``."""
        return self.run((script, pack_script(script.sha, keys, args)))

    def run(self, call: ScriptCall) -> asyncio.Future[Any]:
        """See ``RedisCommands.run``."""
        future = _PendingScript(loop=self._loop)
        future.script, future.packed = call
        future.load = None
        self._enqueue(future, (future.packed,))
        return future

    async def run_many(self, calls: Sequence[ScriptCall]) -> list[Any]:
        """See ``RedisCommands.run_many``."""
        if not calls:
            return []
        batch = _Batch(len(calls), self._loop)
        self._enqueue(batch, [packed for _, packed in calls])
        replies = await batch.replies
        if batch.has_errors:
            missing = [
                n for n, reply in enumerate(replies) if isinstance(reply, ReplyError) and reply.is_missing_script
            ]
            retried = await asyncio.gather(*(self.run(calls[n]) for n in missing), return_exceptions=True)
            for n, reply in zip(missing, retried, strict=True):
                replies[n] = reply
        return replies

    async def call_many(self, commands: Sequence[Command]) -> list[Any]:
        """See ``RedisCommands.call_many``."""
        if not commands:
            return []
        batch = _Batch(len(commands), self._loop)
        self._enqueue(batch, [pack(command) for command in commands])
        return await batch.replies

    async def load(self, scripts: Sequence[Script]) -> None:
        """See ``RedisCommands.load``. Raises the same errors as ``call``."""
        await asyncio.gather(*(self.call("SCRIPT", "LOAD", script.source) for script in scripts))
        self._load_commands += [pack(("SCRIPT", "LOAD", script.source)) for script in scripts]

    # ---- events of the connection

    def on_replies(self, replies: list[Any]) -> None:
        """Give each reply to the oldest command without one. Called by the connection."""
        in_flight = self._in_flight
        # More replies than commands: the stream is out of step, so no reply can be trusted.
        if len(replies) > len(in_flight) - len(self._unsent):
            self._abort("sent a reply without a request")
            return
        is_demoted = False
        for reply in replies:
            future = in_flight.popleft()
            if future.done():  # its caller cancelled it
                continue
            if isinstance(reply, ReplyError):
                is_demoted |= self._deliver_error(future, reply)
            else:
                future.set_result(reply)
        # After the last reply: the loss of the connection fails all commands that are in flight then.
        if is_demoted:
            self._abort("is no longer the primary")

    def on_resumed(self) -> None:
        """Write what was queued: the server reads again. Called by the connection."""
        self._is_paused = False
        self._flush()

    def on_lost(self, reason: str) -> None:
        """Fail the commands that were written; keep the others for the next connection. Called by the connection."""
        self._connection = None
        self._is_paused = True
        if self._silence_timer is not None:
            self._silence_timer.cancel()
            self._silence_timer = None
        message = f"{self.address} {reason}; it is unknown whether the command was executed"
        for _ in range(len(self._in_flight) - len(self._unsent)):
            _fail(self._in_flight.popleft(), RedisConnectionLost(message))
        for future in self._in_flight:
            if isinstance(future, _ConnectionCall):
                _fail(future, RedisUnavailable(f"{self.address} {reason}"))
        if self._closed:
            return
        _log.warning("redis.disconnected server=%s reason=%s", self.address, reason)
        self._down_reason = f"{self.address} {reason}"
        self._queued_bytes = sum(map(len, self._unsent))
        self._deadlines.extend([self._loop.time() + self._max_wait_s] * len(self._unsent))
        self._arm_expiry_timer()
        self._reconnecting = self._loop.create_task(self._reconnect())

    # ---- queueing and writing

    def _enqueue(self, future: asyncio.Future[Any] | _Batch, packed: Sequence[bytes]) -> None:
        """Send one command or many in the next write. ``future`` takes the reply of each of them."""
        is_over_limit = len(self._in_flight) + len(packed) > self._max_in_flight
        if (self._is_paused or is_over_limit) and not self._admit(future, packed, is_over_limit):
            return
        self._in_flight.extend(repeat(future, len(packed)))
        self._unsent.extend(packed)
        if not self._is_flush_scheduled:
            self._is_flush_scheduled = True
            # call_soon runs after the other callbacks of this loop iteration, whose commands join this write.
            self._loop.call_soon(self._flush)

    def _admit(self, future: asyncio.Future[Any] | _Batch, packed: Sequence[bytes], is_over_limit: bool) -> bool:
        """Return whether commands that cannot be written now may wait. If not, they have failed already."""
        if self._closed:
            return _reject(future, packed, self._down_reason)
        if is_over_limit or self._queued_bytes > _MAX_QUEUED_BYTES:
            return _reject(future, packed, f"the client of {self.address} is overloaded: too many commands wait")
        self._queued_bytes += sum(map(len, packed))
        if self._connection is None:
            self._deadlines.extend([self._loop.time() + self._max_wait_s] * len(packed))
            self._arm_expiry_timer()
        return True

    def _flush(self) -> None:
        """Write all queued commands in one socket write."""
        self._is_flush_scheduled = False
        connection, unsent = self._connection, self._unsent
        if connection is None or self._is_paused or not unsent:
            return
        if len(self._in_flight) == len(unsent):
            connection.last_received_at = self._loop.time()  # no reply was missing: the silence starts now
        if self._silence_timer is None:
            self._silence_timer = self._loop.call_later(self._timeout_s, self._check_silence, connection, None)
        data = b"".join(unsent)
        unsent.clear()
        self._queued_bytes = 0
        connection.write(data)
        self._is_paused = not connection.writable

    # ---- failures: silence, error replies, reconnecting, expiry

    def _check_silence(self, connection: RedisConnection, suspect_since: float | None) -> None:
        """Abort the connection if the server owes replies and was silent for ``timeout_s``.

        An idle connection is not checked. In services, ``Readiness`` pings the store, which starts the check. A
        ``Heartbeat`` would not help clients of blocking commands: its PING would wait behind the command.

        A suspended process finds this timer due before it has read what arrived. Therefore a second check follows
        shortly after the first; ``suspect_since`` is the time of the last data that the first check saw.
        """
        self._silence_timer = None
        if len(self._in_flight) == len(self._unsent):
            return  # the next flush starts the timer again
        rest_s = connection.last_received_at + self._timeout_s - self._loop.time()
        if rest_s > 0:
            self._silence_timer = self._loop.call_later(rest_s, self._check_silence, connection, None)
        elif suspect_since != connection.last_received_at:
            self._silence_timer = self._loop.call_later(
                min(0.1, self._timeout_s / 10), self._check_silence, connection, connection.last_received_at
            )
        else:
            # The socket may look healthy: without this a dropped network would block all callers.
            connection.abort(f"was silent for {self._timeout_s:g} s")

    def _deliver_error(self, future: asyncio.Future[Any] | _Batch, error: ReplyError) -> bool:
        """Pass an error reply to its caller, unless the script was only missing: then load it and repeat the call.

        Returns whether the server is no longer the primary.
        """
        if error.is_missing_script and isinstance(future, _PendingScript):
            if future.load is None:
                self._load_and_repeat(future)
                return False
            refusal = future.load.exception() if future.load.done() and not future.load.cancelled() else None
            future.set_exception(refusal or error)
            return False
        future.set_exception(error)
        return self._connector.on_error_reply(error)

    def _load_and_repeat(self, future: _PendingScript) -> None:
        """Load the script once for all calls that miss it, and repeat each call behind the load."""
        script = future.script
        load = self._loading.get(script.sha)
        if load is None or load.done():
            load = self._loading[script.sha] = self.call("SCRIPT", "LOAD", script.source)
            load.add_done_callback(lambda done: done.exception())  # its error is reported by the calls that need it
        future.load = load
        self._enqueue(future, (future.packed,))

    def _abort(self, reason: str) -> None:
        if self._connection is not None:
            self._connection.abort(reason)

    async def _connect(self) -> RedisConnection:
        return await self._connector.connect(self._name, self, self._timeout_s)

    async def _reconnect(self) -> None:
        while True:
            await asyncio.sleep(self._backoff.next_at(self._loop.time()))
            try:
                connection = await self._connect()
            except RedisUnavailable as error:
                self._down_reason = str(error)
                continue
            self.reconnections += 1
            _log.info("redis.reconnected server=%s", self.address)
            self._attach(connection)
            return

    def _attach(self, connection: RedisConnection) -> None:
        """Use a new connection: load the scripts, then send the waiting commands, except the cancelled ones."""
        self._connection = connection
        self._deadlines.clear()
        if self._expiry_timer is not None:
            self._expiry_timer.cancel()
            self._expiry_timer = None
        waiting = [(f, packed) for f, packed in zip(self._in_flight, self._unsent, strict=True) if not f.done()]
        # These loads are not awaited: a call whose script is missing loads it again.
        loading = _Batch(len(self._load_commands), self._loop)
        self._in_flight = deque([*repeat(loading, len(self._load_commands)), *(future for future, _ in waiting)])
        self._unsent = deque([*self._load_commands, *(packed for _, packed in waiting)])
        self._is_paused = not connection.writable
        self._flush()

    def _arm_expiry_timer(self) -> None:
        if self._expiry_timer is None and self._deadlines:
            self._expiry_timer = self._loop.call_at(self._deadlines[0], self._expire_waiting)

    def _expire_waiting(self) -> None:
        """Fail the commands that have waited too long for a connection."""
        self._expiry_timer = None
        now = self._loop.time()
        self._fail_unsent(sum(1 for deadline in self._deadlines if deadline <= now))
        self._arm_expiry_timer()

    def _fail_unsent(self, count: int) -> None:
        """Fail the ``count`` oldest of the commands that wait for a connection."""
        for _ in range(count):
            self._queued_bytes -= len(self._unsent.popleft())
            _fail(self._in_flight.popleft(), RedisUnavailable(self._down_reason))
            if self._deadlines:
                self._deadlines.popleft()


def _fail(future: asyncio.Future[Any] | _Batch, error: RedisUnavailable) -> None:
    if not future.done():
        future.set_exception(error)


def _reject(future: asyncio.Future[Any] | _Batch, packed: Sequence[bytes], why: str) -> Literal[False]:
    """Fail commands that were never sent."""
    for _ in packed:
        future.set_exception(RedisUnavailable(why))
    return False
