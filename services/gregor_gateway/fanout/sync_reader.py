"""Single-flight reads of syncs: connections that need the same sync share one store read."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass
from typing import Final

import structlog

from gregor.clock import Clock
from gregor.cooperative import KeyedSemaphore
from gregor.core.errors import Problem
from gregor.core.ids import Prefixes
from gregor.core.items.sync import Delta, Full, SyncResult, View
from gregor.core.messages.encode import encode_sync
from gregor.cpu_meter import CpuMeter
from gregor.store.contract.store import Store, Unavailable
from gregor.telemetry import traceback_log
from gregor_gateway.metrics import GatewayMetrics
from gregor_gateway.protocol.hello import VOID_POSITION, Position
from gregor_gateway.runtime.background import BackgroundTasks

from .rendering import ItemRendering
from .sequence_tracker import Continuity
from .subscriber import Subscriber
from .user_channel import UserChannel

log = structlog.get_logger(__name__)

CONCURRENT_READS: Final = 128
"""Reads in flight: enough to keep the store busy, few enough that a storm of reconnects does not exhaust memory."""
READS_OF_USER: Final = 4
"""Reads in flight for one user. Otherwise a device that reconnects in a loop would take the slots of all users."""


@dataclass(frozen=True, slots=True)
class SyncRequest:
    """A sync to read: one view from one position, rendered in a locale or not at all."""

    uid: str
    view: View
    systems: Prefixes
    position: Position
    locale: str | None = None


class SyncReader:
    """Reads syncs from the store for the connections of a process."""

    def __init__(
        self, store: Store, clock: Clock, metrics: GatewayMetrics, background: BackgroundTasks, rendering: ItemRendering
    ) -> None:
        self._store = store
        self._clock = clock
        self._syncs = metrics.syncs
        self._failures = traceback_log()
        self._background = background
        self._rendering = rendering
        self.waiting = 0
        """Reads that wait for their turn or for the store."""
        self._slots = asyncio.Semaphore(CONCURRENT_READS)
        # By user, not by channel: a device that leaves and returns would have a new limit each time.
        self._of_user = KeyedSemaphore(READS_OF_USER)
        # By channel, not by user: if a user leaves and returns, the new channel needs a read for its own tracker.
        self._queued: dict[tuple[UserChannel, SyncRequest], list[tuple[Subscriber, int]]] = {}

    def request(self, channel: UserChannel, subscriber: Subscriber, serial: int, request: SyncRequest) -> None:
        """Read a sync and pass it to ``subscriber.synced`` with ``serial``. Equal requests share one read."""
        waiting = self._queued.get((channel, request))
        if waiting is not None:
            waiting.append((subscriber, serial))
            return
        self._queued[channel, request] = [(subscriber, serial)]
        self._background.start(self._read_counted(channel, request))

    async def _read_counted(self, channel: UserChannel, request: SyncRequest) -> None:
        self.waiting += 1
        try:
            await self._read(channel, request)
        finally:
            self.waiting -= 1

    async def _read(self, channel: UserChannel, request: SyncRequest) -> None:
        async with self._of_user.of(request.uid), self._slots:
            # Later requests need another read: this one may miss announcements published from now on.
            waiting = self._queued.pop((channel, request))
            if all(subscriber.is_over for subscriber, _ in waiting):
                return
            then, meter = channel.process_pending().position, CpuMeter(self._clock.cpu_ns)
            try:
                result, frame = await meter.run(self._frame(request))
            except Exception as error:
                if not isinstance(error, Unavailable | Problem):
                    now_s = self._clock.monotonic()
                    self._failures.record("sync.failed", now_s, "error", uid=request.uid, exc_info=error)
                for subscriber, serial in waiting:
                    subscriber.sync_failed(serial)
                return
        tracker = channel.process_pending()
        continuity = tracker.confirm_sync(result.epoch, result.seq, then)
        # The store may contain messages whose publication is on its way here.
        late = [each for each in waiting if tracker.seq < result.seq and each[0].lacks_external]
        for subscriber, serial in waiting:
            if (subscriber, serial) not in late:
                subscriber.synced(serial, result, frame, meter.used_ns // len(waiting))
            if continuity is Continuity.GAP:
                subscriber.resync(None, 0)
        if continuity is Continuity.FORK:
            channel.reconcile()
        if late:
            has_arrived = await channel.arrival(result.seq)
            for subscriber, serial in late:
                if not has_arrived:
                    subscriber.resync(VOID_POSITION, 0)
                subscriber.synced(serial, result, frame, meter.used_ns // len(waiting))

    async def _frame(self, request: SyncRequest) -> tuple[SyncResult, bytes]:
        """Return the sync, and its encoded and rendered object. Raises ``Unavailable``."""
        result = await self.sync(request)
        rendered = await self._rendering.of_sync(result, request.locale, request.uid)
        return result, encode_sync(result, request.view, rendered)

    async def sync(self, request: SyncRequest) -> SyncResult:
        """Return the sync as the store reads it now. Raises ``Unavailable``."""
        result = await self._store.users.sync(
            request.uid,
            request.view,
            request.position.cursor,
            request.position.digest,
            self._clock.now_us(),
            request.systems,
            secrets.token_bytes(3),
        )
        kind = "full" if isinstance(result, Full) else "delta" if isinstance(result, Delta) else "unchanged"
        self._syncs.labels(kind).inc()
        return result

    def read_for_commit(self, channel: UserChannel) -> None:
        """Read a user's state and drop it: any read commits a pending reset or expiry of the user."""
        self._background.start(self._read_for_commit(channel))

    async def _read_for_commit(self, channel: UserChannel) -> None:
        if not channel.groups:
            return
        view = channel.groups[0].view
        async with self._slots:
            try:
                await self.sync(SyncRequest(channel.uid, view, (), Position(None, bytes(32))))
            except (Unavailable, Problem):
                log.warning("reset.postponed", uid=channel.uid)
