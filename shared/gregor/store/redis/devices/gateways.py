"""The leases of the gateways in Redis: one sorted set, by the time of the last renewal."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress

from gregor.core.limits import SECOND_US, Limits
from gregor.redis.commands import RedisCommands, Script
from gregor.store.contract.store import Unavailable
from gregor.store.gateways import GATEWAY_LEASE_US, REFRESH_S, LiveGateways
from gregor.store.redis import scripts
from gregor.store.redis.errors import result_of, results_of
from gregor.store.redis.keys import Keys

_OVERLAP_US = 60_000_000
"""Each read begins this long before the one before it: clocks of servers may step back after a failover."""
_log = logging.getLogger(__name__)


class RedisGateways:
    """``Gateways`` over one Redis-protocol server. Renewals have the time of the server: clocks of hosts may differ."""

    def __init__(self, connection: RedisCommands, keys: Keys, limits: Limits, *, allow_oom: bool = True) -> None:
        flags = "allow-oom" if allow_oom else ""
        self._connection = connection
        self._key = keys.gateways
        self._retention_us = limits.retention_us
        self._since_us = 0
        self._servers: dict[str, str] = {}
        self._task: asyncio.Task[None] | None = None
        self._renew = scripts.load("devices/renew_gateway", flags=flags)
        self.live = LiveGateways()

    @property
    def all_scripts(self) -> tuple[Script, ...]:
        """The scripts of this part, for ``RedisStore.prepare``."""
        return (self._renew,)

    @property
    def live_count(self) -> int:
        """See ``Gateways.live_count``."""
        return self.live.count

    async def renew(self, gateway: str, now_us: int) -> bool:
        """See ``Gateways.renew``."""
        arguments = (gateway, self._retention_us, GATEWAY_LEASE_US)
        is_alive = bool(await result_of(self._connection.evalsha(self._renew, (self._key,), arguments)))
        self.live.note(gateway, now_us)
        return self._are_servers_same() and is_alive

    def _are_servers_same(self) -> bool:
        """Return whether no server of the store was replaced or restarted since the last call."""
        nodes = self._connection.nodes
        # A node that is not connected now keeps the server that was known. A former primary is forgotten.
        known = {node.name: self._servers[node.name] for node in nodes if node.name in self._servers}
        # Without an id, each connection counts as one to another server.
        connected = {node.name: node.server_id or str(node.generation) for node in nodes if node.connected}
        before, self._servers = self._servers, known | connected
        return not before or all(before.get(name) == server for name, server in connected.items())

    async def refresh(self, now_us: int) -> None:
        """See ``Gateways.refresh``."""
        # Both commands leave in one write. The time must be that of the server with the renewals.
        node = self._connection.group_by_node((self._key,))[0].node
        if node is None:
            raise Unavailable("the server of the gateways is unknown")
        reading = self._connection.call("ZRANGEBYSCORE", self._key, self._since_us, "+inf", "WITHSCORES")
        (seconds, microseconds), renewed = await results_of((node.call("TIME"), reading))
        server_us = int(seconds) * SECOND_US + int(microseconds)
        ahead_us = now_us - server_us  # of our clock, by which sessions and callers count
        found = {renewed[i].decode(): int(renewed[i + 1]) + ahead_us for i in range(0, len(renewed), 2)}
        self.live.observe(found, now_us, self._retention_us)
        self._since_us = max(0, server_us - _OVERLAP_US)

    async def start(self, now_us: Callable[[], int]) -> None:
        """Read the gateways now and then every ``REFRESH_S`` seconds, until ``close``."""
        await self._try_refresh(now_us())
        self._task = asyncio.create_task(self._refresh_forever(now_us))

    async def _refresh_forever(self, now_us: Callable[[], int]) -> None:
        while True:
            await asyncio.sleep(REFRESH_S)
            await self._try_refresh(now_us())

    async def _try_refresh(self, now_us: int) -> None:
        try:
            await self.refresh(now_us)
        except Unavailable as error:
            _log.warning("gateways.read_failed reason=%s", error)

    async def close(self) -> None:
        """Stop reading."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
