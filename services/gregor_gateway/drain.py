"""Draining a gateway on SIGTERM: clients are asked to reconnect elsewhere, spread over time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Final

from gregor.core.close_codes import CloseCode
from gregor_gateway.connection.connection import DeviceConnection
from gregor_gateway.context import GatewayContext

RECONNECTS_PER_SECOND: Final = 200
"""Connections a second that reconnect to other gateways, unless the deadline requires more."""
# Each costs another gateway 1 ms of CPU (handshake, join, read), and a proxy with TLS 1.4 ms. At 500 a second, two
# cores could not keep up: the p99 of the time without a connection was 6.5 s (`make bench ARGS=rolling`).
CLOSE_RESERVE_S: Final = 1.0
"""Part of the deadline that is reserved for writing the last close frames."""
POLL_INTERVAL_S: Final = 0.05


class Drain:
    """Drains a process. Unlike the other services, a gateway must ask its clients to leave before it may stop."""

    def __init__(self, context: GatewayContext, connections: Callable[[], Iterable[DeviceConnection]]) -> None:
        self._context = context
        self._connections = connections
        self._must_close = asyncio.Event()

    def close_now(self) -> None:
        """Close all connections now."""
        self._must_close.set()

    async def run(self, deadline_s: float) -> None:
        """Return when the connections that are open now are closed, at the latest after ``deadline_s``.

        New connections are refused. The drain does not wait for them: a client that opens them without end would
        prolong it. ``Shutdown`` calls it.
        """
        # Load balancers have noticed that the gateway is not ready; it turns new connections away from here on.
        connections = list(self._connections())
        spread_s = min(len(connections) / RECONNECTS_PER_SECOND, max(0.0, deadline_s - CLOSE_RESERVE_S))
        for connection in connections:
            connection.drain(round(1000 * self._context.jitter(0.0, spread_s)), "shutdown")
        until = self._context.timers.now + deadline_s
        open_before = set(connections)
        while any(each in open_before for each in self._connections()) and self._context.timers.now < until:
            try:
                async with asyncio.timeout(POLL_INTERVAL_S):
                    await self._must_close.wait()
                break
            except TimeoutError:
                continue
        for connection in list(self._connections()):
            connection.close(CloseCode.SHUTDOWN)
