"""Opening a connection that is ready for commands: authenticated, in its database, with all data loaded."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Awaitable, Callable
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
_RUN_ID: Final = re.compile(rb"^run_id:(\w+)", re.MULTILINE)
_REPLICA: Final = re.compile(rb"^role:slave", re.MULTILINE)

Check = Callable[[RedisConnection], Awaitable[None]]
"""A test of a connection after its handshake; raises ``RedisUnavailable`` if the server must not be used."""


async def connect(
    server: RedisUrl, client_name: str, listener: ConnectionListener, timeout_s: float, check: Check | None = None
) -> RedisConnection:
    """Return a connection to one server that is ready; ``listener`` gets its replies. See also ``connector_of``.

    Raises ``RedisAccessRefused`` if the server refuses this client, otherwise ``RedisUnavailable``. The messages name
    the server, never the credentials.
    """

    async def prepare(connection: RedisConnection) -> None:
        await _handshake(connection, server, client_name)
        if check is not None:
            await check(connection)

    return await _open(server, timeout_s, prepare, listener)


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
    server: RedisUrl,
    timeout_s: float,
    handshake: Callable[[RedisConnection], Awaitable[None]],
    listener: ConnectionListener,
) -> RedisConnection:
    """Connect, run the handshake and set the listener within ``timeout_s``. A failure leaves no connection open."""
    connection = RedisConnection()
    try:
        async with asyncio.timeout(timeout_s):
            await server.connect(lambda: connection)
            await handshake(connection)
        connection.set_listener(listener)
    except OSError as error:  # includes TimeoutError and RedisUnavailable
        connection.abort("was given up")
        raise _with_address(server, error, timeout_s) from None
    except asyncio.CancelledError:
        connection.abort("was given up")
        raise
    return connection


def _with_address(server: RedisUrl, error: OSError, timeout_s: float) -> RedisUnavailable:
    """Return the error as a sentence that names the server."""
    match error:
        case RedisUnavailable():
            return type(error)(f"{server} {error}")
        case TimeoutError():
            return RedisUnavailable(f"{server} did not answer within {timeout_s:g} s")
        case _:
            return RedisUnavailable(f"cannot connect to {server}: {os_error_text(error)}")


async def _handshake(connection: RedisConnection, server: RedisUrl, client_name: str) -> None:
    """Send AUTH, SELECT, and PING, which a server that is still loading refuses; set a name; learn id and role."""
    required: list[Command] = []
    if server.password is not None:
        required.append(("AUTH", *([server.username] if server.username else []), server.password))
    if server.db:
        required.append(("SELECT", server.db))
    required.append(("PING",))
    optional: list[Command] = [("CLIENT", "SETNAME", client_name), ("INFO", "server", "replication")]
    replies = await connection.request([*required, *optional])
    for reply in replies[: len(required)]:
        if isinstance(reply, ReplyError):
            is_temporary = reply.code in _TEMPORARY_CODES or "max number of clients" in str(reply)
            raise (RedisUnavailable if is_temporary else RedisAccessRefused)(f"refused the connection: {reply}")
    # The name only helps a reader of CLIENT LIST, so a server without the command or the permission is accepted. A
    # user without INFO is accepted, too: then every reconnect counts as one to another server, which is a primary.
    connection.server_id, connection.is_replica = _identity(replies[-1])


def _identity(info: Any) -> tuple[str | None, bool]:
    """Return the id of the server process, and whether it is a replica, from its reply to INFO."""
    if not isinstance(info, bytes):
        return None, False
    found = _RUN_ID.search(info)
    return found[1].decode() if found else None, _REPLICA.search(info) is not None
