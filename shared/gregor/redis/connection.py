"""One connection to one Redis-protocol server, as it is on the wire: bytes out, whole chunks of replies in.

``gregor.store.dial`` makes one; ``RedisClient`` (commands) and ``Feed`` (subscriptions) stand on it. RESP2 only:
subscriptions and commands never share a connection here, so the push types of RESP3 would add nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol, TypeAlias, cast

import hiredis

Argument: TypeAlias = bytes | str | int
Command: TypeAlias = tuple[Argument, ...]

_INCOMPLETE: Final = object()

# Its own type stub asks for a tuple of one.
pack = cast("Callable[[Command], bytes]", hiredis.pack_command)


def pack_script(sha: str, keys: Sequence[Argument], args: Sequence[Argument]) -> bytes:
    """The command that runs a script that the server knows."""
    return pack(("EVALSHA", sha, len(keys), *keys, *args))


class ReplyError(Exception):
    """The server answered with an error; the text is the server's own, its first word is the code."""

    @property
    def code(self) -> str:
        """``NOSCRIPT``, ``WRONGTYPE``, ``ERR`` …"""
        return str(self).partition(" ")[0]

    @property
    def is_missing_script(self) -> bool:
        """Whether the server was asked for a script that it was not given."""
        return self.code == "NOSCRIPT"


class RedisUnavailable(ConnectionError):
    """There is no connection, and the command was not sent: nothing was done."""


class RedisConnectionLost(RedisUnavailable):
    """The connection broke after the command was written: whether it was done is not known."""


class RedisAccessRefused(RedisUnavailable):
    """The server refuses this client (password, rights, database): trying again changes nothing."""


class ConnectionListener(Protocol):
    """Who a wire tells what happens. Called synchronously in the event loop; must not raise."""

    def replies(self, replies: list[Any]) -> None:
        """Whole replies, in order; at least one. An error reply is a ``ReplyError`` in its place."""
        ...

    def lost(self, reason: str) -> None:
        """The connection is gone; nothing more will come. Told once. ``reason`` ends the sentence "host:port …"."""
        ...

    def resumed(self) -> None:
        """What was written has drained: ``RedisConnection.writable`` is true again."""
        ...


class _Answers:
    """Collects a known number of replies: the peer of a wire while it is being introduced."""

    def __init__(self, expected: int) -> None:
        self._expected = expected
        self._replies: list[Any] = []
        self.complete: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()

    def replies(self, replies: list[Any]) -> None:
        self._replies += replies
        if len(self._replies) >= self._expected and not self.complete.done():
            self.complete.set_result(self._replies)

    def lost(self, reason: str) -> None:
        if self.complete.done():
            return
        # A server that is full says so before it was asked anything, and closes.
        if any(isinstance(reply, ReplyError) for reply in self._replies):
            self.complete.set_result(self._replies)
        else:
            self.complete.set_exception(RedisUnavailable(reason))

    def resumed(self) -> None:
        pass


class RedisConnection(asyncio.Protocol):
    """The asyncio side of one connection: feeds the parser, hands whole chunks of replies to its peer."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader(replyError=ReplyError, notEnoughData=_INCOMPLETE)
        self._transport: asyncio.Transport | None = None
        self._peer: ConnectionListener | None = None
        self.gone: asyncio.Event = asyncio.Event()
        self.lost_because: str | None = None
        self.writable = True
        self.heard_at = 0.0

    def write(self, data: bytes) -> None:
        """Hand bytes to the socket. Where ``writable`` is false they are buffered without bound: look first."""
        if self._transport is not None:
            self._transport.write(data)

    async def ask(self, commands: Sequence[Command]) -> list[Any]:
        """Send a few commands and wait for as many replies; errors are among them. ``RedisUnavailable`` where it
        breaks.
        """
        answers = _Answers(len(commands))
        self.attach(answers)
        self.write(b"".join(map(pack, commands)))
        return await answers.complete

    def attach(self, peer: ConnectionListener) -> None:
        """From now on ``peer`` is told. ``RedisUnavailable`` where the connection is gone already."""
        if self.lost_because is not None:
            raise RedisUnavailable(self.lost_because)
        self._peer = peer

    def drop(self, reason: str) -> None:
        """Close at once, without waiting for what is buffered; the peer is told before this returns."""
        if self.lost_because is not None:
            return
        self.lost_because = reason
        peer, self._peer = self._peer, None
        if self._transport is not None:
            self._transport.abort()
        if peer is not None:
            peer.lost(reason)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop."""
        self._transport = cast(asyncio.Transport, transport)
        self.heard_at = self._loop.time()
        if self.lost_because is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Called by the event loop."""
        self.heard_at = self._loop.time()
        reader, replies = self._reader, []
        try:
            reader.feed(data)
            while (reply := reader.gets()) is not _INCOMPLETE:
                replies.append(reply)
        except hiredis.ProtocolError:
            self.drop("does not speak the Redis protocol")
            return
        if replies and self._peer is not None:
            self._peer.replies(replies)

    def connection_lost(self, error: Exception | None) -> None:
        """Called by the event loop."""
        self.drop("closed the connection" if error is None else f"broke the connection ({error})")
        self.gone.set()

    def pause_writing(self) -> None:
        """Called by the event loop: the server reads more slowly than we write."""
        self.writable = False

    def resume_writing(self) -> None:
        """Called by the event loop."""
        self.writable = True
        if self._peer is not None:
            self._peer.resumed()
