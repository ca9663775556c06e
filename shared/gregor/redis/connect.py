"""From an address to a connection that is ready for commands: authenticated, in its database, loaded."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, Final

from gregor.core.backoff import Backoff
from gregor.net.os_errors import os_error_text

from .connection import (
    Command,
    ConnectionListener,
    RedisAccessRefused,
    RedisConnection,
    RedisUnavailable,
    ReplyError,
)
from .url import RedisUrl

FIRST_RETRY_S: Final = 0.05
"""Upper bound of the first delay before a connection is tried again; it doubles with each failure."""
MAX_RETRY_S: Final = 2.0
"""Upper bound of any such delay."""

# What a server answers while it is about to be fine: waiting helps. Any other refusal needs a person.
_PASSING_CODES: Final = frozenset({"LOADING", "MASTERDOWN", "BUSY", "TRYAGAIN"})


async def connect(address: RedisUrl, client_name: str, peer: ConnectionListener, timeout_s: float) -> RedisConnection:
    """A connection whose server is loaded, knows us and answers; ``peer`` is told what comes.

    ``RedisAccessRefused`` where the server will not have us, else ``RedisUnavailable``; both name the server, never
    credentials.
    """
    if address.service is not None:
        address = await _primary(address, timeout_s)
    return await _reach(address, timeout_s, lambda wire: _introduce(wire, address, client_name), peer)


async def connect_with_retry(dial_once: Callable[[], Awaitable[RedisConnection]], patience_s: float) -> RedisConnection:
    """Dial again and again, with back-off, for ``patience_s``; ``RedisAccessRefused`` ends it at once. Else the
    last error.
    """
    loop = asyncio.get_running_loop()
    deadline, backoff = loop.time() + patience_s, Backoff(FIRST_RETRY_S, MAX_RETRY_S, random.uniform)
    while True:
        try:
            return await dial_once()
        except RedisAccessRefused:
            raise
        except RedisUnavailable:
            pause_s = backoff.next_at(loop.time())
            if loop.time() + pause_s >= deadline:
                raise
            await asyncio.sleep(pause_s)


async def _reach(
    address: RedisUrl, timeout_s: float, greet: Callable[[RedisConnection], Awaitable[None]], peer: ConnectionListener
) -> RedisConnection:
    """Connect, greet, attach, all within ``timeout_s``; whatever goes wrong leaves no connection behind."""
    wire = RedisConnection()
    try:
        async with asyncio.timeout(timeout_s):
            await address.connect(lambda: wire)
            await greet(wire)
        wire.attach(peer)
    except OSError as error:  # a time-out and RedisUnavailable are among them
        wire.drop("was given up")
        raise _named(address, error, timeout_s) from None
    except asyncio.CancelledError:
        wire.drop("was given up")
        raise
    return wire


def _named(address: RedisUrl, error: OSError, timeout_s: float) -> RedisUnavailable:
    """The error as a sentence about the server."""
    match error:
        case RedisUnavailable():
            return type(error)(f"{address} {error}")
        case TimeoutError():
            return RedisUnavailable(f"{address} did not answer within {timeout_s:g} s")
        case _:
            return RedisUnavailable(f"cannot connect to {address}: {os_error_text(error)}")


async def _introduce(wire: RedisConnection, address: RedisUrl, client_name: str) -> None:
    """AUTH, SELECT, a name, and a PING, which a server that is still loading refuses."""
    needed: list[Command] = []
    if address.password is not None:
        needed.append(("AUTH", *([address.username] if address.username else []), address.password))
    if address.db:
        needed.append(("SELECT", address.db))
    needed.append(("PING",))
    replies = await wire.ask([*needed, ("CLIENT", "SETNAME", client_name)])
    # The name serves whoever looks at CLIENT LIST; a server or a right that lacks the command is no obstacle.
    for reply in replies[: len(needed)]:
        if isinstance(reply, ReplyError):
            passing = reply.code in _PASSING_CODES or "max number of clients" in str(reply)
            raise (RedisUnavailable if passing else RedisAccessRefused)(f"refused the connection: {reply}")


async def _primary(address: RedisUrl, timeout_s: float) -> RedisUrl:
    """The address of the primary, from the first Sentinel that knows it. ``RedisUnavailable`` where none does."""
    problems = []
    for host in address.hosts:
        sentinel = RedisUrl(hosts=(host,))
        asking = _Question(("SENTINEL", "GET-MASTER-ADDR-BY-NAME", address.service or ""))
        try:
            wire = await _reach(sentinel, timeout_s, asking.put, asking)
        except RedisUnavailable as error:
            problems.append(str(error))
            continue
        wire.drop("has answered")
        match asking.answer:
            case [bytes(primary), bytes(port)]:
                return replace(address, hosts=((primary.decode(), int(port)),), service=None)
            case ReplyError() as refusal:
                problems.append(f"{sentinel} refused the question: {refusal}")
            case _:
                problems.append(f"{sentinel} knows no service {address.service}")
    raise RedisUnavailable("no sentinel knows the primary: " + "; ".join(problems))


class _Question:
    """One command put to a server, for its answer alone."""

    def __init__(self, command: Command) -> None:
        self._command = command
        self.answer: Any = None

    async def put(self, wire: RedisConnection) -> None:
        [self.answer] = await wire.ask([self._command])

    def replies(self, replies: list[Any]) -> None:
        pass

    def lost(self, reason: str) -> None:
        pass

    def resumed(self) -> None:
        pass
