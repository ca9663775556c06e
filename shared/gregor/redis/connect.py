"""Opening a connection that is ready for commands: authenticated, in its database, with all data loaded."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, Final

from gregor.core.backoff import Backoff
from gregor.net.os_errors import os_error_text

from .connection import Command, ConnectionListener, RedisConnection
from .errors import RedisAccessRefused, RedisUnavailable, ReplyError
from .url import RedisUrl

FIRST_RETRY_S: Final = 0.05
"""Upper bound of the first delay before a retry; it doubles with each failure."""
MAX_RETRY_S: Final = 2.0
"""Upper bound of every such delay."""

# Errors of a server that will soon be ready: retry. Any other refusal needs an operator.
_TEMPORARY_CODES: Final = frozenset({"LOADING", "MASTERDOWN", "BUSY", "TRYAGAIN"})


async def connect(
    address: RedisUrl, client_name: str, listener: ConnectionListener, timeout_s: float
) -> RedisConnection:
    """Return a connection to a server that is ready; ``listener`` gets its replies.

    Raises ``RedisAccessRefused`` if the server refuses this client, otherwise ``RedisUnavailable``. The messages name
    the server, never the credentials.
    """
    if address.service is not None:
        address = await _find_primary(address, timeout_s)
    return await _open(address, timeout_s, lambda connection: _handshake(connection, address, client_name), listener)


async def connect_with_retry(
    connect_once: Callable[[], Awaitable[RedisConnection]], max_wait_s: float
) -> RedisConnection:
    """Connect with exponential backoff for at most ``max_wait_s``, then raise the last error.

    ``RedisAccessRefused`` is raised at once.
    """
    loop = asyncio.get_running_loop()
    deadline, backoff = loop.time() + max_wait_s, Backoff(FIRST_RETRY_S, MAX_RETRY_S, random.uniform)
    while True:
        try:
            return await connect_once()
        except RedisAccessRefused:
            raise
        except RedisUnavailable:
            delay_s = backoff.next_at(loop.time())
            if loop.time() + delay_s >= deadline:
                raise
            await asyncio.sleep(delay_s)


# ---- handshake


async def _open(
    address: RedisUrl,
    timeout_s: float,
    handshake: Callable[[RedisConnection], Awaitable[None]],
    listener: ConnectionListener,
) -> RedisConnection:
    """Connect, run the handshake and set the listener within ``timeout_s``. A failure leaves no connection open."""
    connection = RedisConnection()
    try:
        async with asyncio.timeout(timeout_s):
            await address.connect(lambda: connection)
            await handshake(connection)
        connection.set_listener(listener)
    except OSError as error:  # includes TimeoutError and RedisUnavailable
        connection.abort("was given up")
        raise _with_address(address, error, timeout_s) from None
    except asyncio.CancelledError:
        connection.abort("was given up")
        raise
    return connection


def _with_address(address: RedisUrl, error: OSError, timeout_s: float) -> RedisUnavailable:
    """Return the error as a sentence that names the server."""
    match error:
        case RedisUnavailable():
            return type(error)(f"{address} {error}")
        case TimeoutError():
            return RedisUnavailable(f"{address} did not answer within {timeout_s:g} s")
        case _:
            return RedisUnavailable(f"cannot connect to {address}: {os_error_text(error)}")


async def _handshake(connection: RedisConnection, address: RedisUrl, client_name: str) -> None:
    """Send AUTH, SELECT, a name, and PING, which a server that is still loading refuses."""
    required: list[Command] = []
    if address.password is not None:
        required.append(("AUTH", *([address.username] if address.username else []), address.password))
    if address.db:
        required.append(("SELECT", address.db))
    required.append(("PING",))
    replies = await connection.request([*required, ("CLIENT", "SETNAME", client_name)])
    # The name only helps a reader of CLIENT LIST, so a server without the command or the permission is accepted.
    for reply in replies[: len(required)]:
        if isinstance(reply, ReplyError):
            is_temporary = reply.code in _TEMPORARY_CODES or "max number of clients" in str(reply)
            raise (RedisUnavailable if is_temporary else RedisAccessRefused)(f"refused the connection: {reply}")


# ---- Sentinels


async def _find_primary(address: RedisUrl, timeout_s: float) -> RedisUrl:
    """Return the address of the primary, from the first Sentinel that knows it.

    Raises ``RedisUnavailable`` if none does.
    """
    failures = []
    # Sentinels are asked in order; one that is down or does not know the service is skipped.
    for host in address.hosts:
        sentinel = RedisUrl(hosts=(host,))
        query = _SentinelQuery(("SENTINEL", "GET-MASTER-ADDR-BY-NAME", address.service or ""))
        try:
            connection = await _open(sentinel, timeout_s, query.send, query)
        except RedisUnavailable as error:
            failures.append(str(error))
            continue
        connection.abort("is no longer needed")
        match query.answer:
            case [bytes(primary), bytes(port)]:
                return replace(address, hosts=((primary.decode(), int(port)),), service=None)
            case ReplyError() as refusal:
                failures.append(f"{sentinel} refused the query: {refusal}")
            case _:
                failures.append(f"{sentinel} does not know the service {address.service}")
    raise RedisUnavailable("no sentinel knows the primary: " + "; ".join(failures))


class _SentinelQuery:
    """One command to a Sentinel, and its reply."""

    def __init__(self, command: Command) -> None:
        self._command = command
        self.answer: Any = None

    async def send(self, connection: RedisConnection) -> None:
        [self.answer] = await connection.request([self._command])

    def on_replies(self, replies: list[Any]) -> None:
        pass

    def on_lost(self, reason: str) -> None:
        pass

    def on_resumed(self) -> None:
        pass
