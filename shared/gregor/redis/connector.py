"""Connectors: connect a client to the server of its URL, or to the primary that the Sentinels of its URL name."""

from __future__ import annotations

import asyncio
import logging
from typing import Final, Protocol
from weakref import WeakKeyDictionary, WeakSet

from .address import AddressSource
from .connect import connect
from .connection import ConnectionListener, RedisConnection
from .errors import RedisUnavailable, ReplyError
from .sentinel import PrimaryWatcher, shared_watcher

_log = logging.getLogger(__name__)

# Replies of a server that was demoted, or that is being replaced.
_DEMOTED_CODES: Final = frozenset({"READONLY", "MASTERDOWN", "UNBLOCKED"})

LEAVE_S: Final = 1.0
"""Shortest interval at which the connections to one server are closed because it refuses writes. A user without INFO
does not learn in the handshake that the server is a replica, and is refused again after each reconnect."""


class Connector(Protocol):
    """Opens the connections of one client."""

    async def connect(self, client_name: str, listener: ConnectionListener, timeout_s: float) -> RedisConnection:
        """Return a connection to the server that accepts writes. Raises as ``gregor.redis.connect.connect``."""
        ...

    def on_error_reply(self, error: ReplyError) -> bool:
        """Handle an error reply. Returns whether another server may be the primary: then the client connects again."""
        ...

    @property
    def switches(self) -> int:
        """How often another server has become the primary since the start."""
        ...

    async def close(self) -> None:
        """Release what the connector holds. The connections are closed by their owner."""
        ...


class ServerConnections:
    """All connections of an event loop to the server of one address. They leave a demoted server together.

    Another server may take over the address: by DNS, by the Service of a Kubernetes cluster, or behind a TCP proxy.
    Open connections then still lead to the old server, until this process closes them.
    """

    def __init__(self) -> None:
        self.open: WeakSet[RedisConnection] = WeakSet()
        self._left_at = float("-inf")

    def leave(self, server: str, reason: str) -> bool:
        """Close all connections in the next loop iteration. Returns false within ``LEAVE_S`` of the last time."""
        loop = asyncio.get_running_loop()
        if loop.time() - self._left_at < LEAVE_S:
            return False
        self._left_at = loop.time()
        _log.warning("redis.primary_left server=%s reason=%s", server, reason)
        # Later: the caller still reads the other replies of one of them.
        loop.call_soon(self._close)
        return True

    def _close(self) -> None:
        # Subscriptions and tracked reads get no error from a replica, but it may lag behind without end.
        for connection in list(self.open):
            connection.abort("is no longer the primary")


class ServerConnector:
    """``Connector`` of one server.

    Args:
        accepts_replica: Whether a replica may be used. Otherwise the handshake fails: it refuses writes.
    """

    def __init__(self, addresses: AddressSource, *, accepts_replica: bool = False) -> None:
        self._addresses = addresses
        self._accepts_replica = accepts_replica
        self._connections = _shared_connections(str(addresses.current()))

    async def connect(self, client_name: str, listener: ConnectionListener, timeout_s: float) -> RedisConnection:
        """See ``Connector.connect``. Raises ``RedisUnavailable`` if the server is a replica."""
        return await connect(self._addresses.current(), client_name, listener, timeout_s, self._check)

    async def _check(self, connection: RedisConnection) -> None:
        if connection.is_replica and not self._accepts_replica:
            raise RedisUnavailable(
                "is a replica, which refuses writes: the URL must lead to the primary, or name Sentinels"
            )
        # Registered before the listener is set: from now on it is closed with the others.
        self._connections.open.add(connection)

    def on_error_reply(self, error: ReplyError) -> bool:
        """See ``Connector.on_error_reply``. Leaves a demoted server at most once in ``LEAVE_S``."""
        return error.code in _DEMOTED_CODES and self._connections.leave(str(self._addresses.current()), error.code)

    @property
    def switches(self) -> int:
        """See ``Connector.switches``: always 0."""
        return 0

    async def close(self) -> None:
        """See ``Connector.close``."""


class SentinelConnector:
    """``Connector`` of the primary that the Sentinels name. All connectors of an event loop share one watcher."""

    def __init__(self, addresses: AddressSource, watcher: PrimaryWatcher) -> None:
        self._addresses = addresses
        self._watcher = watcher
        watcher.users.add(self)

    async def connect(self, client_name: str, listener: ConnectionListener, timeout_s: float) -> RedisConnection:
        """See ``Connector.connect``."""
        # The watcher follows the credentials of its users: passwords and certificates may be replaced.
        self._watcher.address = address = self._addresses.current()
        return await self._watcher.connect(address, client_name, listener, timeout_s)

    def on_error_reply(self, error: ReplyError) -> bool:
        """See ``Connector.on_error_reply``. Asks the Sentinels again if the server was demoted or lacks replicas."""
        is_demoted = error.code in _DEMOTED_CODES
        # A primary that its replicas have left refuses writes with NOREPLICAS: they may have a new primary.
        if is_demoted or error.code == "NOREPLICAS":
            self._watcher.ask_again()
        return is_demoted

    @property
    def switches(self) -> int:
        """See ``Connector.switches``."""
        return self._watcher.switches

    async def close(self) -> None:
        """See ``Connector.close``. The last user of a watcher stops it."""
        self._watcher.users.discard(self)
        if not self._watcher.users:
            await self._watcher.close()


def connector_of(addresses: AddressSource, *, accepts_replica: bool = False) -> Connector:
    """Return the connector of an address, whose credentials may change. See ``ServerConnector``."""
    address = addresses.current()
    if address.service is None:
        return ServerConnector(addresses, accepts_replica=accepts_replica)
    return SentinelConnector(addresses, shared_watcher(address))


# ---- the connections of all clients of a process

_connections: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, ServerConnections]] = WeakKeyDictionary()


def _shared_connections(server: str) -> ServerConnections:
    """Return the connections of this event loop to a server."""
    return _connections.setdefault(asyncio.get_running_loop(), {}).setdefault(server, ServerConnections())
