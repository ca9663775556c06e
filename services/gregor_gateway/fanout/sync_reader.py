"""Reading syncs from the store: once for all that ask for the same, and not too many at a time."""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog

from gregor.clock import Clock
from gregor.core.errors import Problem
from gregor.core.ids import Prefixes
from gregor.core.items.sync import Delta, Full, SyncResult, View
from gregor.core.messages.encode import encode_sync
from gregor.store.contract.store import Store, Unavailable
from gregor.telemetry import Metrics
from gregor_gateway.protocol.hello import Position
from gregor_gateway.runtime.background import BackgroundTasks

from .rendering import ItemRendering
from .sequence_tracker import Continuity
from .subscriber import Subscriber

if TYPE_CHECKING:
    from .hub import Hub, UserChannel

log = structlog.get_logger(__name__)

AT_ONCE: Final = 128
"""Reads in flight: enough to keep the store busy, few enough that a storm of reconnects does not hold all answers."""


@dataclass(frozen=True, slots=True)
class SyncRequest:
    """What is read: the sync of one view from one position, with words in a language or without."""

    uid: str
    view: View
    systems: Prefixes
    position: Position
    locale: str | None = None


class SyncReader:
    """The readers of a process. ``jitter(low, high)``: a random number of seconds."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        metrics: Metrics,
        background: BackgroundTasks,
        words: ItemRendering,
        jitter: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._store = store
        self._clock = clock
        self._syncs = metrics.syncs
        self.background = background
        self.words = words
        self.jitter = jitter
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._asked: dict[tuple[UserChannel, SyncRequest], list[tuple[Subscriber, int]]] = {}

    def ask(self, hub: Hub, channel: UserChannel, subscriber: Subscriber, serial: int, question: SyncRequest) -> None:
        """Read for a member; who asks the same in this turn of the event loop shares the answer."""
        # A user who left and came back has another room: its track must be settled by a read of its own.
        waiting = self._asked.get((channel, question))
        if waiting is not None:
            waiting.append((subscriber, serial))
            return
        self._asked[channel, question] = [(subscriber, serial)]
        self.background.start(self._read(hub, channel, question))

    async def _read(self, hub: Hub, channel: UserChannel, question: SyncRequest) -> None:
        async with self._slots:
            # From here on nobody joins: what is announced from now on may not be in the answer.
            asking = self._asked.pop((channel, question))
            then = channel.tracker.mark
            try:
                answer = await self.sync(question)
                words = await self.words.of_sync(answer, question.locale, question.uid)
            except Exception as error:
                if not isinstance(error, Unavailable | Problem):
                    log.error("A sync could not be read.", exc_info=error)
                for subscriber, serial in asking:
                    subscriber.sync_failed(serial)
                return
        continuity = channel.tracker.settle(answer.epoch, answer.seq, then)
        frame = encode_sync(answer, question.view, words)
        for subscriber, serial in asking:
            subscriber.synced(serial, answer, frame)
            if continuity is Continuity.GAP:
                subscriber.resync(None, 0)
        if continuity is Continuity.FORK:
            hub.reconciler.ask(channel)

    async def sync(self, question: SyncRequest) -> SyncResult:
        """The answer of the store. Raises ``Unavailable``."""
        answer = await self._store.users.sync(
            question.uid,
            question.view,
            question.position.cursor,
            question.position.digest,
            self._clock.now_us(),
            question.systems,
            secrets.token_bytes(3),
        )
        kind = "full" if isinstance(answer, Full) else "delta" if isinstance(answer, Delta) else "unchanged"
        self._syncs.labels(kind).inc()
        return answer

    def touch(self, channel: UserChannel) -> None:
        """Have whatever is due for a user committed (a flush of all, an expiry): any read does so."""
        self.background.start(self._touch(channel))

    async def _touch(self, channel: UserChannel) -> None:
        if not channel.groups:
            return
        view = channel.groups[0].view
        async with self._slots:
            try:
                await self.sync(SyncRequest(channel.uid, view, (), Position(None, bytes(32))))
            except (Unavailable, Problem):
                log.warning("A user could not be flushed now; its next read will do so.")
