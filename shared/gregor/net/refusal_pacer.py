"""Delays the refusals of a client above its limit, if its connection must stay open.

A proxy sends the requests of many clients over one connection, so the connection is not closed. A client that repeats
refused requests as fast as they are answered would otherwise occupy a process: each takes 0.14 ms.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from gregor.clock import Clock

from .connection_limits import AnonymousRequests

REFUSALS_PER_S: Final = 50.0
"""Refusals of one client address a second: less than 1 % of a core."""
BURST: Final = 10
"""Refusals that are not delayed."""
MAX_WAIT_S: Final = 10.0
"""Longest delay. Proxies and clients wait longer than this for a response."""
MAX_WAITING: Final = 3_000
"""Delayed refusals of a process, of about 10 KB each. Further refusals are not delayed."""
MAX_WAITING_OF_CLIENT: Final = 1_500
"""The same for one client: its connections to the proxy, unless they are more."""


class RefusalPacer:
    """Delays the refusals of a process, by client address."""

    def __init__(self, clock: Clock, sleep: Callable[[float], Awaitable[object]] = asyncio.sleep) -> None:
        self._clock = clock
        self._sleep = sleep
        self._turns = AnonymousRequests(REFUSALS_PER_S, BURST)
        self._waiting: dict[str, int] = {}
        self.waiting = 0
        """How many refusals wait."""

    async def wait(self, client: str) -> None:
        """Return when the next refusal of a client may be sent."""
        of_client = self._waiting.get(client, 0)
        if self.waiting >= MAX_WAITING or of_client >= MAX_WAITING_OF_CLIENT:
            return
        wait_s = self._turn_s(client)
        self._waiting[client] = of_client + 1
        self.waiting += 1
        try:
            await self._sleep(wait_s)
        finally:
            self.waiting -= 1
            self._waiting[client] -= 1
            if not self._waiting[client]:
                del self._waiting[client]

    def _turn_s(self, client: str) -> float:
        """Return the seconds until the next refusal of a client may be sent. Its turn is taken."""
        now_s = self._clock.monotonic()
        wait_s = min(self._turns.wait_s(client, now_s), MAX_WAIT_S)
        if wait_s < MAX_WAIT_S:
            self._turns.count(client, now_s)
        return wait_s
