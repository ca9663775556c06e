"""Readiness of a process: the answer of ``/readyz`` (http.md, "Probes")."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from gregor.redis.pubsub import PubSub
from gregor.store.contract.store import Store, Unavailable
from gregor.telemetry import Metrics

FAILURES: Final = 3
"""Consecutive failures until the process is not ready: one lost packet must not remove it from the load balancer."""
PERIOD_S: Final = 1.0
ANSWER_S: Final = 2.0
"""Timeout of one ping of the store."""


class Readiness:
    """Pings the store every second. Not ready before the first success, after three failures, and while draining."""

    def __init__(self, store: Store, metrics: Metrics, feed: PubSub | None = None) -> None:
        self._store = store
        self._metrics = metrics
        self._feed = feed
        self._failures = FAILURES
        self.draining = False

    async def check(self) -> None:
        """Ping the store once and update the state."""
        try:
            async with asyncio.timeout(ANSWER_S):
                await self._store.ping()
        except (Unavailable, TimeoutError):
            self._failures += 1
        else:
            self._failures = 0
        self._metrics.ready.set(self.is_ready)

    async def watch(self) -> None:
        """Check every second until cancelled."""
        while True:
            await self.check()
            await asyncio.sleep(PERIOD_S)

    @property
    def is_ready(self) -> bool:
        """Whether a load balancer may send requests to this process."""
        probe_is_well = self._feed is None or self._feed.healthy
        return self._failures < FAILURES and probe_is_well and not self.draining

    def document(self) -> dict[str, Any]:
        """Return the body of ``/readyz``."""
        redis = "ok" if self._failures == 0 else "late" if self._failures < FAILURES else "down"
        probe = "ok" if self._feed is None else self._feed.status
        return {"ready": self.is_ready, "checks": {"redis": redis, "probe": probe, "draining": self.draining}}
