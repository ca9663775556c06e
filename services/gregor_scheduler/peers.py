"""The live schedulers: each renews a lease every few seconds, and reads the leases of the others."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import structlog

from gregor.store.contract.store import Unavailable

from .due_loop import DueLoop
from .metrics import SchedulerMetrics
from .partition_shares import PartitionShares

_log = structlog.get_logger(__name__)

RENEW_S: Final = 4.0
"""Interval of the renewals, in seconds. A dead scheduler loses its share after at most 14 s, when its lease and one
interval have ended. Its deputies serve late partitions after half a second already."""


class Peers:
    """Keeps the share of this scheduler current. ``renew``: renews the lease, and returns the ids of live schedulers.

    While the leases cannot be read, the last known share stays in use (fail static). The deputies of a partition then
    cover schedulers that die meanwhile.
    """

    def __init__(
        self,
        renew: Callable[[], Awaitable[Sequence[str]]],
        shares: PartitionShares,
        due_loop: DueLoop,
        metrics: SchedulerMetrics,
    ) -> None:
        self._renew = renew
        self._shares = shares
        self._due_loop = due_loop
        self._metrics = metrics

    async def refresh(self) -> None:
        """Renew the lease, and use the share that follows from the live schedulers."""
        try:
            live = await self._renew()
        except Unavailable as error:
            _log.warning("scheduler.peers_unknown", reason=str(error), effect="the last known schedulers stay in use")
            return
        self._metrics.schedulers.set(len(live))
        if self._shares.update(live):
            share = self._shares.share
            self._due_loop.use_share(share)
            self._metrics.owned_partitions.set(len(share.owned))
            _log.info("scheduler.share_changed", schedulers=len(live), owned=len(share.owned), deputy=len(share.deputy))

    async def watch(self) -> None:
        """Refresh every few seconds until cancelled."""
        while True:
            await asyncio.sleep(RENEW_S)
            try:
                await self.refresh()
            except Exception:
                # Without this loop, the share would stay as it is until the next restart.
                _log.exception("scheduler.peers_failed", retry_in_s=RENEW_S)
