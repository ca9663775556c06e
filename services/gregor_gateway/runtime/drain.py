"""The end of a process: its devices are asked to go elsewhere, spread over time, before it closes (SIGTERM)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Final

from gregor.core.close_codes import CloseCode
from gregor_gateway.connection.connection import DeviceConnection
from gregor_gateway.context import GatewayContext

PER_SECOND: Final = 500
"""Connections a second that may be sent to other gateways: each costs there a handshake, a join and a read."""
LAST_S: Final = 1.0
"""Left of the deadline for the last closes to be written."""
STEP_S: Final = 0.05


class Drain:
    """Empties a process. ``hurry`` ends the waiting."""

    def __init__(self, context: GatewayContext, connections: Callable[[], Iterable[DeviceConnection]]) -> None:
        self._context = context
        self._connections = connections
        self._is_hurried = asyncio.Event()

    def hurry(self) -> None:
        """Close everything now."""
        self._is_hurried.set()

    async def run(self, deadline_s: float) -> None:
        """Return when all connections are closed: after ``deadline_s`` at the latest."""
        self._context.readiness.draining = True
        connections = list(self._connections())
        spread_s = min(len(connections) / PER_SECOND, max(0.0, deadline_s - LAST_S))
        for connection in connections:
            connection.drain(round(1000 * self._context.jitter(0.0, spread_s)), "shutdown")
        until = self._context.timers.now + deadline_s
        while any(True for _ in self._connections()) and self._context.timers.now < until:
            try:
                async with asyncio.timeout(STEP_S):
                    await self._is_hurried.wait()
                break
            except TimeoutError:
                continue
        for connection in list(self._connections()):
            connection.close(CloseCode.SHUTDOWN)
