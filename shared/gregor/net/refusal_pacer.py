"""Delays the refusals of a client that is over its limit, if its connection must stay open.

A proxy sends the requests of many clients over one connection, so closing it would not limit one of them. A client that
repeats refused requests as fast as they are answered would fill a process: each takes 0.14 ms.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from gregor.clock import Clock
from gregor.core.rate_limit import RateLimiter

REFUSALS_PER_S: Final = 50.0
"""Refusals of one client address a second: less than 1 % of a core."""
BURST: Final = 10
"""Refusals that are not delayed."""
MAX_WAIT_S: Final = 10.0
"""Longest delay: proxies and clients give up later than this."""
MAX_WAITING: Final = 2_000
"""Delayed refusals of a process, of about 10 KB each. Above, refusals are not delayed."""


class RefusalPacer:
    """The refusals of a process that wait for their turn, by client address."""

    def __init__(self, clock: Clock, sleep: Callable[[float], Awaitable[object]] = asyncio.sleep) -> None:
        self._clock = clock
        self._sleep = sleep
        self._rates: dict[str, RateLimiter] = {}
        self.waiting = 0
        """How many refusals wait."""

    async def wait(self, client: str) -> None:
        """Return when the next refusal of a client may be sent."""
        if self.waiting >= MAX_WAITING:
            return
        now_s = self._clock.monotonic()
        rate = self._rates.pop(client, None) or RateLimiter(REFUSALS_PER_S, BURST)
        # Full buckets are forgotten, the least recent first; two steps a call keep up with one insertion.
        for oldest in [name for _, name in zip(range(2), self._rates, strict=False)]:
            if self._rates[oldest].capacity(BURST, now_s) == BURST:
                del self._rates[oldest]
        self._rates[client] = rate
        wait_s = rate.wait_s(now_s)
        if wait_s < MAX_WAIT_S:
            rate.acquire(now_s)
        self.waiting += 1
        try:
            await self._sleep(min(wait_s, MAX_WAIT_S))
        finally:
            self.waiting -= 1
