"""Publishes intents to the delivery queue (Redis streams), with a circuit breaker for outages of the queue Redis."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import structlog

from gregor.config.live_settings import LiveSettings
from gregor.core.limits import SECOND_US
from gregor.core.notify.intents import Intent
from gregor.redis.errors import RedisAccessRefused
from gregor.store.contract.agenda import WorkKind
from gregor.store.contract.queue import DeliveryQueueWriter
from gregor.store.contract.store import Unavailable
from gregor.store.redis.delivery.queue_writer import open_queue_writer

from .user_shares import UserShares

_log = structlog.get_logger(__name__)

PAUSE_S: Final = 5.0
"""After a failure, every attempt within this time fails at once, without a request."""
CONNECT_TIMEOUT_S: Final = 0.5
RESPONSE_TIMEOUT_S: Final = 1.5
"""Timeout of one request. Other due work of the user waits this long at most, once every ``PAUSE_S`` and process."""

SKIPPED: Final = "skipped"
"""The name of the share of skipped notifications, beside the channels."""


class QueueUnavailable(Unavailable):
    """The queue Redis is unavailable; the state Redis may be available."""


class DeliveryPublisher:
    """Appends intents to the delivery queue.

    ``connect`` opens the queue; ``monotonic`` returns seconds. ``shares`` bounds the intents of each user.
    ``count_refused`` gets the channel of each intent above that bound, ``count_full`` of each one without room.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[DeliveryQueueWriter]],
        monotonic: Callable[[], float],
        shares: UserShares | None = None,
        count_refused: Callable[[str], None] = lambda channel: None,
        count_full: Callable[[str], None] = lambda channel: None,
    ) -> None:
        self._connect = connect
        self._monotonic = monotonic
        self._shares = shares or UserShares(None)
        self._count_refused = count_refused
        self._count_full = count_full
        self._writer: DeliveryQueueWriter | None = None
        self._connecting = asyncio.Lock()
        self._paused_until_s = float("-inf")

    async def open(self) -> None:
        """Connect now, or on a later use if the queue is unavailable. Raises ``Unavailable`` if access is refused."""
        try:
            await self._open_writer()
        except Unavailable as error:
            if isinstance(error.__cause__, RedisAccessRefused):
                raise
            _log.warning("queue.unavailable", reason=str(error), effect="due pushes and e-mails are retried later")

    @property
    def is_paused(self) -> bool:
        """Whether a request failed recently: nothing is sent to the queue for now."""
        return self._monotonic() < self._paused_until_s

    def raise_if_paused(self) -> None:
        """Raise ``QueueUnavailable`` if a request failed recently. Call it before an expensive decision."""
        if self.is_paused:
            raise QueueUnavailable(f"the delivery queue was unavailable less than {PAUSE_S:g} s ago")

    def share_wait_s(self, uid: str, channel: str, count: int) -> float:
        """Return the seconds until the user's share allows this number of intents, without taking it."""
        return self._shares.wait_s(uid, channel, count, self._monotonic())

    def take_share(self, intents: Sequence[Intent]) -> float:
        """Take the user's share for intents of one user and channel, before they are planned.

        Returns 0.0 if it was taken, else the seconds until it can be taken.
        """
        wait_s = self._shares.take(intents[0].uid, intents[0].channel, len(intents), self._monotonic())
        if wait_s:
            for intent in intents:
                self._count_refused(intent.channel)
        return wait_s

    def is_above_share(self, kind: WorkKind, uid: str) -> bool:
        """Return whether a decision of this kind would exceed the user's share, as the last one did."""
        return self._shares.is_paused(kind, uid, self._monotonic())

    def split_by_share(self, kind: WorkKind, intents: Sequence[Intent]) -> tuple[list[Intent], list[Intent]]:
        """Take the share of one user. Returns the intents within it, and those above it."""
        now_s = self._monotonic()
        passed, above = self._shares.split(intents, now_s)
        if above:
            self._shares.pause(kind, above, now_s)
        for intent in above:
            self._count_refused(intent.channel)
        return passed, above

    def take_share_of_skipped(self, uid: str, count: int) -> bool:
        """Take the user's share of records of skipped notifications. Returns false if it was not enough."""
        return not self._shares.take(uid, SKIPPED, count, self._monotonic())

    async def publish(self, intents: Sequence[Intent], at_us: int = 0, *, has_share: bool = False) -> list[Intent]:
        """Append intents, visible to consumers now or from ``at_us`` on. Return those that were not appended: their
        stream is full, or their user is above the share.

        The share does not limit intents with ``at_us``, nor those for which the caller took it (``has_share``).
        Raises ``QueueUnavailable``; some intents may then have been appended.
        """
        try:
            writer = await self._open_writer()
            if at_us or has_share:
                return await self._enqueue(writer, intents, at_us)
            passed, refused = self._shares.split(intents, self._monotonic())
            for intent in refused:
                self._count_refused(intent.channel)
            return [*await self._enqueue(writer, passed), *refused] if passed else refused
        except Unavailable as error:
            self._paused_until_s = self._monotonic() + PAUSE_S
            raise QueueUnavailable(str(error)) from error

    async def publish_in_turn(self, intents: Sequence[Intent], now_us: int, most_waiting: int) -> list[Intent]:
        """Append intents of one user and channel. Above the share of the user, they wait in the queue for their turn.

        Returns those that were not appended, because their stream is full. Raises ``QueueUnavailable``.
        ``most_waiting``: the number of calls whose intents may wait; above it, the oldest intents are given up.
        """
        if not self.take_share(intents):
            return await self.publish(intents, has_share=True)
        count = len(intents)
        turn_s = self._shares.turn_s(intents[0].uid, intents[0].channel, count, most_waiting * count, self._monotonic())
        # A random time up to the turn: if all intents waited for the last turn, each would be given up before.
        return await self.publish(intents, now_us + round(random.uniform(0.0, turn_s) * SECOND_US))

    async def _enqueue(self, writer: DeliveryQueueWriter, intents: Sequence[Intent], at_us: int = 0) -> list[Intent]:
        full = await writer.enqueue(intents, at_us)
        for intent in full:
            self._count_full(intent.channel)
        return full

    async def remove_waiting(self, intents: Sequence[Intent]) -> None:
        """Remove intents that were given up or cancelled from the queue, if they wait there.

        Raises ``QueueUnavailable``: call it again later. Until then, a worker drops them when they are due.
        """
        if not intents:
            return
        self.raise_if_paused()
        try:
            await (await self._open_writer()).remove_waiting(intents)
        except Unavailable as error:
            self._paused_until_s = self._monotonic() + PAUSE_S
            raise QueueUnavailable(str(error)) from error

    async def close(self) -> None:
        """Close the connection."""
        if self._writer is not None:
            await self._writer.close()

    async def _open_writer(self) -> DeliveryQueueWriter:
        # Without the lock, concurrent users would open one connection each.
        async with self._connecting:
            if self._writer is None:
                self.raise_if_paused()
                self._writer = await self._connect()
            return self._writer


def queue_connector(live: LiveSettings) -> Callable[[], Awaitable[DeliveryQueueWriter]]:
    """Return the function that connects to the queue Redis of the settings."""
    namespace, capacity = live.current.namespace, live.current.stream_entries
    return lambda: open_queue_writer(
        live.queue_url, namespace, capacity, max_wait_s=CONNECT_TIMEOUT_S, timeout_s=RESPONSE_TIMEOUT_S
    )
