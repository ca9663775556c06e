"""The commands of a process on one connection to one Redis-protocol server, pipelined without being asked.

Commands issued in one turn of the event loop leave in one socket write; replies come back in order. That is what makes
concurrent requests cheap, for this process and for the server. Nothing that blocks (``XREADGROUP BLOCK``) and no
transaction of several calls (``WATCH``) belongs here: all callers share the connection.
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

from .commands import RedisCommands, Script, ScriptCall
from .connect import FIRST_RETRY_S, MAX_RETRY_S, connect, connect_with_retry
from .connection import (
    Argument,
    RedisAccessRefused,
    RedisConnection,
    RedisConnectionLost,
    RedisUnavailable,
    ReplyError,
    pack,
    pack_script,
)
from .url import RedisUrl

__all__ = [
    "Argument",
    "RedisAccessRefused",
    "RedisClient",
    "RedisCommands",
    "RedisConnectionLost",
    "RedisUnavailable",
    "ReplyError",
    "Script",
    "ScriptCall",
]

_log = logging.getLogger(__name__)

# What may wait for the server to read again, or to come back, before new commands are refused.
_MOST_HELD_BYTES: Final = 64 * 1024 * 1024


class _ScriptCall(asyncio.Future[Any]):
    """An EVALSHA on its way, with what it takes to repeat it."""

    __slots__ = ("load", "packed", "script")

    script: Script
    packed: bytes
    load: asyncio.Future[Any] | None


class _Many:
    """Commands issued together: stands for each of them in the queue, and collects the replies in order."""

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
    """``RedisCommands`` over the wire. Mends itself; see the parameters for how long anything may take.

    ``patience_s``: how long a call waits for a connection. ``timeout_s``: how long the server may be silent while it
    owes replies, and how long a connection may take to make. ``most_outstanding``: commands without reply.
    """

    def __init__(
        self,
        url: str,
        *,
        name: str = "gregor",
        patience_s: float = 2.0,
        timeout_s: float = 5.0,
        most_outstanding: int = 100_000,
    ) -> None:
        self.address = RedisUrl.parse(url)
        self.reconnections = 0
        self._name = name
        self._patience_s = patience_s
        self._timeout_s = timeout_s
        self._most_outstanding = most_outstanding
        self._loop = asyncio.get_running_loop()
        self._wire: RedisConnection | None = None
        # Every command without reply, oldest first; the newest len(_unsent) of them were not written yet.
        self._outstanding: deque[asyncio.Future[Any] | _Many] = deque()
        self._unsent: deque[bytes] = deque()
        self._flushing = False
        # True while commands cannot be written: no connection, or the server does not read.
        self._held = True
        self._held_bytes = 0
        # While there is no connection: until when each command of _unsent waits for one.
        self._deadlines: deque[float] = deque()
        self._giving_up: asyncio.TimerHandle | None = None
        self._watching: asyncio.TimerHandle | None = None
        self._loading: dict[str, asyncio.Future[Any]] = {}
        self._loads: list[bytes] = []  # the commands that give the server the scripts of `load`
        self._backoff = Backoff(FIRST_RETRY_S, MAX_RETRY_S, random.uniform)
        self._reconnecting: asyncio.Task[None] | None = None
        self._trouble = f"{self.address} is not connected"
        self._closed = False

    @property
    def connected(self) -> bool:
        """Whether there is a connection now."""
        return self._wire is not None

    async def open(self) -> None:
        """Connect. ``RedisAccessRefused`` at once where the server will not have us, ``RedisUnavailable`` after
        ``patience_s``.
        """
        self._established(await connect_with_retry(self._dial, self._patience_s))

    async def close(self) -> None:
        """Close for good. What is outstanding fails, and so does every later call."""
        self._closed = True
        self._trouble = f"the link to {self.address} is closed"
        if self._reconnecting is not None:
            self._reconnecting.cancel()
            await asyncio.gather(self._reconnecting, return_exceptions=True)
        wire = self._wire
        if wire is not None:
            wire.drop("was closed by this process")
            await wire.gone.wait()
        self._fail_unsent(len(self._unsent))

    def call(self, *args: Argument) -> asyncio.Future[Any]:
        """As ``RedisCommands`` says. ``TypeError`` at once for an argument of another type."""
        packed = pack(args)
        future = self._loop.create_future()
        self._issue(future, (packed,))
        return future

    def evalsha(self, script: Script, keys: Sequence[Argument], args: Sequence[Argument]) -> asyncio.Future[Any]:
        """As ``RedisCommands`` says. A script that the server cannot compile ends in the server's ``ReplyError``."""
        return self.run((script, pack_script(script.sha, keys, args)))

    def run(self, call: ScriptCall) -> asyncio.Future[Any]:
        """As ``RedisCommands`` says."""
        future = _ScriptCall(loop=self._loop)
        future.script, future.packed = call
        future.load = None
        self._issue(future, (future.packed,))
        return future

    async def run_many(self, calls: Sequence[ScriptCall]) -> list[Any]:
        """As ``RedisCommands`` says."""
        if not calls:
            return []
        many = _Many(len(calls), self._loop)
        self._issue(many, [packed for _, packed in calls])
        replies = await many.replies
        if many.has_errors:
            missed = [n for n, reply in enumerate(replies) if isinstance(reply, ReplyError) and reply.is_missing_script]
            again = await asyncio.gather(*(self.run(calls[n]) for n in missed), return_exceptions=True)
            for n, reply in zip(missed, again, strict=True):
                replies[n] = reply
        return replies

    async def load(self, scripts: Sequence[Script]) -> None:
        """As ``RedisCommands`` says. Raises what ``call`` does."""
        await asyncio.gather(*(self.call("SCRIPT", "LOAD", script.source) for script in scripts))
        self._loads += [pack(("SCRIPT", "LOAD", script.source)) for script in scripts]

    def replies(self, replies: list[Any]) -> None:
        """Called by the wire: give each reply to the oldest command without one."""
        outstanding = self._outstanding
        if len(replies) > len(outstanding) - len(self._unsent):
            self._drop("answered what was not asked")
            return
        for reply in replies:
            future = outstanding.popleft()
            if future.done():  # its caller gave up
                continue
            if isinstance(reply, ReplyError):
                self._refuse(future, reply)
            else:
                future.set_result(reply)

    def resumed(self) -> None:
        """Called by the wire: the server reads again."""
        self._held = False
        self._flush()

    def lost(self, reason: str) -> None:
        """Called by the wire: fail what was written, keep the rest for the next connection."""
        self._wire = None
        self._held = True
        if self._watching is not None:
            self._watching.cancel()
            self._watching = None
        sentence = f"{self.address} {reason}; whether the command was done is not known"
        for _ in range(len(self._outstanding) - len(self._unsent)):
            _fail(self._outstanding.popleft(), RedisConnectionLost(sentence))
        if self._closed:
            return
        _log.warning("lost a connection: %s %s", self.address, reason)
        self._trouble = f"{self.address} {reason}"
        self._held_bytes = sum(map(len, self._unsent))
        self._deadlines.extend([self._loop.time() + self._patience_s] * len(self._unsent))
        self._give_up_in_time()
        self._reconnecting = self._loop.create_task(self._reconnect())

    def _issue(self, future: asyncio.Future[Any] | _Many, packed: Sequence[bytes]) -> None:
        """Send one command or many; ``future`` stands for each of them."""
        is_much = len(self._outstanding) + len(packed) > self._most_outstanding
        if (self._held or is_much) and not self._may_wait(future, packed, is_much):
            return
        self._outstanding.extend(repeat(future, len(packed)))
        self._unsent.extend(packed)
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _may_wait(self, future: asyncio.Future[Any] | _Many, packed: Sequence[bytes], is_much: bool) -> bool:
        """Whether commands that cannot leave now are kept; where not, they have failed."""
        if self._closed:
            return _refuse_all(future, packed, self._trouble)
        if is_much or self._held_bytes > _MOST_HELD_BYTES:
            return _refuse_all(future, packed, f"the link to {self.address} is overloaded")
        self._held_bytes += sum(map(len, packed))
        if self._wire is None:
            self._deadlines.extend([self._loop.time() + self._patience_s] * len(packed))
            self._give_up_in_time()
        return True

    def _flush(self) -> None:
        """Write all that waits, in one write."""
        self._flushing = False
        wire, unsent = self._wire, self._unsent
        if wire is None or self._held or not unsent:
            return
        if len(self._outstanding) == len(unsent):
            wire.heard_at = self._loop.time()  # the server owed nothing: its silence starts to count now
        if self._watching is None:
            self._watching = self._loop.call_later(self._timeout_s, self._watch, wire, None)
        data = b"".join(unsent)
        unsent.clear()
        self._held_bytes = 0
        wire.write(data)
        self._held = not wire.writable

    def _watch(self, wire: RedisConnection, suspected: float | None) -> None:
        """Drop a connection whose server owes replies and has been silent for ``timeout_s``.

        ``suspected``: what ``heard_at`` was when it first looked so. A second look follows, since a process that was
        itself suspended finds its timers due before it has read what arrived.
        """
        self._watching = None
        if len(self._outstanding) == len(self._unsent):
            return  # armed again by the next flush
        rest_s = wire.heard_at + self._timeout_s - self._loop.time()
        if rest_s > 0:
            self._watching = self._loop.call_later(rest_s, self._watch, wire, None)
        elif suspected != wire.heard_at:
            self._watching = self._loop.call_later(min(0.1, self._timeout_s / 10), self._watch, wire, wire.heard_at)
        else:
            wire.drop(f"was silent for {self._timeout_s:g} s")

    def _refuse(self, future: asyncio.Future[Any] | _Many, error: ReplyError) -> None:
        """An error reply: for the caller, unless the script was all that was missing."""
        if error.is_missing_script and isinstance(future, _ScriptCall):
            if future.load is None:
                self._load_and_repeat(future)
                return
            refusal = future.load.exception() if future.load.done() and not future.load.cancelled() else None
            future.set_exception(refusal or error)
            return
        future.set_exception(error)
        if error.code == "READONLY" and self.address.service is not None:
            # The Sentinels have moved the primary, and nobody has closed the connection to the old one.
            self._drop("is not the primary any more")

    def _load_and_repeat(self, future: _ScriptCall) -> None:
        """Send the script once however many calls miss it, and each call again behind it."""
        script = future.script
        load = self._loading.get(script.sha)
        if load is None or load.done():
            load = self._loading[script.sha] = self.call("SCRIPT", "LOAD", script.source)
            load.add_done_callback(lambda done: done.exception())  # told by the calls that need it
        future.load = load
        self._issue(future, (future.packed,))

    def _drop(self, reason: str) -> None:
        if self._wire is not None:
            self._wire.drop(reason)

    async def _dial(self) -> RedisConnection:
        return await connect(self.address, self._name, self, self._timeout_s)

    async def _reconnect(self) -> None:
        while True:
            await asyncio.sleep(self._backoff.next_at(self._loop.time()))
            try:
                wire = await self._dial()
            except RedisUnavailable as error:
                self._trouble = str(error)
                continue
            self.reconnections += 1
            _log.info("connected again: %s", self.address)
            self._established(wire)
            return

    def _established(self, wire: RedisConnection) -> None:
        """Send the scripts, and what waited, but for what its caller gave up."""
        self._wire = wire
        self._deadlines.clear()
        if self._giving_up is not None:
            self._giving_up.cancel()
            self._giving_up = None
        wanted = [(f, packed) for f, packed in zip(self._outstanding, self._unsent, strict=True) if not f.done()]
        # Nobody asks what became of the loads: a call that misses its script brings it.
        loads = _Many(len(self._loads), self._loop)
        self._outstanding = deque([*repeat(loads, len(self._loads)), *(future for future, _ in wanted)])
        self._unsent = deque([*self._loads, *(packed for _, packed in wanted)])
        self._held = not wire.writable
        self._flush()

    def _give_up_in_time(self) -> None:
        if self._giving_up is None and self._deadlines:
            self._giving_up = self._loop.call_at(self._deadlines[0], self._give_up)

    def _give_up(self) -> None:
        """Fail what has waited for a connection long enough."""
        self._giving_up = None
        now = self._loop.time()
        self._fail_unsent(sum(1 for deadline in self._deadlines if deadline <= now))
        self._give_up_in_time()

    def _fail_unsent(self, count: int) -> None:
        """Fail the ``count`` oldest of the commands that wait for a connection."""
        for _ in range(count):
            self._held_bytes -= len(self._unsent.popleft())
            _fail(self._outstanding.popleft(), RedisUnavailable(self._trouble))
            if self._deadlines:
                self._deadlines.popleft()


def _fail(future: asyncio.Future[Any] | _Many, error: RedisUnavailable) -> None:
    if not future.done():
        future.set_exception(error)


def _refuse_all(future: asyncio.Future[Any] | _Many, packed: Sequence[bytes], why: str) -> Literal[False]:
    """Fail commands that were never sent."""
    for _ in packed:
        future.set_exception(RedisUnavailable(why))
    return False
