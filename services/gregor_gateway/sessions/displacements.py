"""Charges a join that removes another device of its user to make room."""

from __future__ import annotations

from gregor.clock import Clock
from gregor.core.limits import Limits
from gregor.core.rate_limit import rate_limited, request_buckets
from gregor.metrics.process import Metrics
from gregor.store.contract.store import Store
from gregor.store.displacement import weigh_displacement


class DisplacementLimiter:
    """Takes displacements by joins from the requests of the device and of its user, as ingest does."""

    def __init__(self, store: Store, clock: Clock, limits: Limits, metrics: Metrics) -> None:
        self._store = store
        self._clock = clock
        self._limits = limits
        self._limits_reached = metrics.limits_reached.labels("requests")

    async def charge(self, uid: str, device: str) -> None:
        """Charge the join of ``device``. Raises ``Problem`` ``rate_limited``, or ``Unavailable``."""
        # The rates of joins hold for one gateway. Only these buckets limit tokens of many devices at all gateways.
        buckets = request_buckets(uid, device, self._limits)
        weight = min(1 + await weigh_displacement(self._store, uid), *(bucket.burst for bucket in buckets))
        wait_s, _, _ = await self._store.access.take_all(uid, buckets, weight, self._clock.now_us())
        if wait_s > 0:
            self._limits_reached.inc()
            raise rate_limited("requests", wait_s, "Too many new devices of this user")
