"""One socket to a Redis-protocol server: it writes bytes and passes on whole replies.

``connect`` opens a connection. ``RedisClient`` (commands) and ``RedisPubSub`` (subscriptions) are its listeners. RESP2
is enough for them: commands and subscriptions use separate connections. Only tracked reads use RESP3.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol, TypeAlias, cast

import hiredis

from .errors import RedisUnavailable, ReplyError

Argument: TypeAlias = bytes | str | int
Command: TypeAlias = tuple[Argument, ...]

_INCOMPLETE: Final = object()

# The type stub of hiredis requires a tuple of length one.
pack = cast("Callable[[Command], bytes]", hiredis.pack_command)


def pack_script(sha: str, keys: Sequence[Argument], args: Sequence[Argument]) -> bytes:
    """Return the packed EVALSHA command of a script."""
    return pack(("EVALSHA", sha, len(keys), *keys, *args))


def argument_bytes(argument: Argument) -> bytes:
    """Return an argument as the server sees it, for example to compute the slot of a key."""
    return argument if isinstance(argument, bytes) else str(argument).encode()


# ---- listeners


class ConnectionListener(Protocol):
    """Receives the events of a connection. The methods are called in the event loop and must not raise."""

    def on_replies(self, replies: list[Any]) -> None:
        """Receive whole replies in order, at least one. An error reply is a ``ReplyError`` in its place."""
        ...

    def on_lost(self, reason: str) -> None:
        """Handle the end of the connection; called once. ``reason`` completes the sentence "host:port …"."""
        ...

    def on_resumed(self) -> None:
        """Continue writing: the write buffer has drained, and ``RedisConnection.writable`` is true again."""
        ...


class NullListener:
    """Ignores the events of a connection that serves only ``RedisConnection.request``."""

    def on_replies(self, replies: list[Any]) -> None:
        """Ignore replies."""

    def on_lost(self, reason: str) -> None:
        """Ignore the loss of the connection."""

    def on_resumed(self) -> None:
        """Ignore that the connection accepts data again."""


class _ReplyCollector:
    """Collects a known number of replies: the listener during the handshake."""

    def __init__(self, expected: int) -> None:
        self._expected = expected
        self._replies: list[Any] = []
        self.complete: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()

    def on_replies(self, replies: list[Any]) -> None:
        self._replies += replies
        if len(self._replies) >= self._expected and not self.complete.done():
            self.complete.set_result(self._replies)

    def on_lost(self, reason: str) -> None:
        if self.complete.done():
            return
        # A server at its client limit sends an error before any request, and closes.
        if any(isinstance(reply, ReplyError) for reply in self._replies):
            self.complete.set_result(self._replies)
        else:
            self.complete.set_exception(RedisUnavailable(reason))

    def on_resumed(self) -> None:
        pass


# ---- the socket


class RedisConnection(asyncio.Protocol):
    """The asyncio protocol of one connection: parses replies and passes those of each read to the listener together."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader(replyError=ReplyError, notEnoughData=_INCOMPLETE)
        self._transport: asyncio.Transport | None = None
        self._listener: ConnectionListener | None = None
        self.server_id: str | None = None
        """The id of the server process, which changes with every restart; ``None`` if it is unknown."""
        self.is_replica = False
        """Whether the server was a replica at the handshake; false if it is unknown."""
        self.opened_at = 0.0
        """Loop time at which the connection was established."""
        self.closed: asyncio.Event = asyncio.Event()
        """Set when the socket is closed, shortly after ``close_reason``."""
        self.close_reason: str | None = None
        """Why the connection has ended; ``None`` while it is open."""
        self.writable = True
        """False while the server reads more slowly than this process writes (backpressure)."""
        self.last_received_at = 0.0
        """Loop time of the last data. The owner sets it when it sends a command while no reply is missing."""

    def write(self, data: bytes) -> None:
        """Write bytes to the socket. They are buffered without a bound while ``writable`` is false: check it first."""
        if self._transport is not None:
            self._transport.write(data)

    async def request(self, commands: Sequence[Command]) -> list[Any]:
        """Send a few commands and return as many replies, errors among them.

        Raises ``RedisUnavailable`` if the connection breaks.
        """
        answers = _ReplyCollector(len(commands))
        self.set_listener(answers)
        self.write(b"".join(map(pack, commands)))
        return await answers.complete

    def set_listener(self, listener: ConnectionListener) -> None:
        """Pass everything from now on to ``listener``.

        Raises ``RedisUnavailable`` if the connection is closed already.
        """
        if self.close_reason is not None:
            raise RedisUnavailable(self.close_reason)
        self._listener = listener

    def abort(self, reason: str) -> None:
        """Close at once and discard what is buffered. The listener is notified before this returns."""
        if self.close_reason is not None:
            return
        self.close_reason = reason
        listener, self._listener = self._listener, None
        if self._transport is not None:
            # abort, not close: close would first try to flush to a server that may not read.
            self._transport.abort()
        if listener is not None:
            listener.on_lost(reason)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See ``asyncio.Protocol``."""
        self._transport = cast(asyncio.Transport, transport)
        self.opened_at = self.last_received_at = self._loop.time()
        if self.close_reason is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """See ``asyncio.Protocol``."""
        self.last_received_at = self._loop.time()
        reader, replies = self._reader, []
        try:
            reader.feed(data)
            # All replies of one read are passed on together: one callback for a pipeline of commands.
            while (reply := reader.gets()) is not _INCOMPLETE:
                replies.append(reply)
        except hiredis.ProtocolError:
            self.abort("does not speak the Redis protocol")
            return
        if replies and self._listener is not None:
            self._listener.on_replies(replies)

    def connection_lost(self, error: Exception | None) -> None:
        """See ``asyncio.Protocol``."""
        self.abort("closed the connection" if error is None else f"broke the connection ({error})")
        self.closed.set()

    def pause_writing(self) -> None:
        """See ``asyncio.Protocol``: the server reads more slowly than this process writes."""
        self.writable = False

    def resume_writing(self) -> None:
        """See ``asyncio.Protocol``."""
        self.writable = True
        if self._listener is not None:
            self._listener.on_resumed()
