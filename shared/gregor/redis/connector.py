"""Connectors: connect a client to the server of its URL, or to the primary that the Sentinels of its URL name."""

from __future__ import annotations

from typing import Final, Protocol

from .address import AddressSource
from .connect import connect
from .connection import ConnectionListener, RedisConnection
from .errors import ReplyError
from .sentinel import PrimaryWatcher, shared_watcher

# Replies of a server that was demoted, or that is being replaced.
_DEMOTED_CODES: Final = frozenset({"READONLY", "MASTERDOWN", "UNBLOCKED"})


class Connector(Protocol):
    """Opens the connections of one client."""

    async def connect(self, client_name: str, listener: ConnectionListener, timeout_s: float) -> RedisConnection:
        """Return a connection to the server that accepts writes. Raises as ``gregor.redis.connect.connect``."""
        ...

    def on_error_reply(self, error: ReplyError) -> bool:
        """Handle an error reply. Returns whether another server is the primary now: then the client connects again."""
        ...

    @property
    def switches(self) -> int:
        """How often another server has become the primary since the start."""
        ...

    async def close(self) -> None:
        """Release what the connector holds. The connections are closed by their owner."""
        ...


class ServerConnector:
    """``Connector`` of one server."""

    def __init__(self, addresses: AddressSource) -> None:
        self._addresses = addresses

    async def connect(self, client_name: str, listener: ConnectionListener, timeout_s: float) -> RedisConnection:
        """See ``Connector.connect``."""
        return await connect(self._addresses.current(), client_name, listener, timeout_s)

    def on_error_reply(self, error: ReplyError) -> bool:
        """See ``Connector.on_error_reply``: the URL names no other server."""
        return False

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


def connector_of(addresses: AddressSource) -> Connector:
    """Return the connector of an address, whose credentials may change."""
    address = addresses.current()
    if address.service is None:
        return ServerConnector(addresses)
    return SentinelConnector(addresses, shared_watcher(address))
