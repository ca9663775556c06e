"""The way to the streams of the queue Redis. Where it is closed nobody tries it for a while, so nothing else waits."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import structlog

from gregor.config.settings import Settings
from gregor.core.notify.intents import Intent
from gregor.redis.errors import RedisAccessRefused
from gregor.store.contract.agenda import DeliveryQueueWriter
from gregor.store.contract.store import Unavailable
from gregor.store.redis.delivery.queue_writer import open_queue_writer

_log = structlog.get_logger(__name__)

CLOSED_S: Final = 5.0
"""After a failure, so long nothing is tried."""
PATIENCE_S: Final = 0.5
"""How long a hand-over waits for a connection."""
SILENCE_S: Final = 1.5
"""How long the queue Redis may be silent: what is due elsewhere waits for it so long, once in ``CLOSED_S``."""


class StreamsAway(Unavailable):
    """The queue Redis cannot be reached; the state may well be."""


class HandOver:
    """Gives intents to the streams. ``opening`` connects to them; ``monotonic``: seconds."""

    def __init__(self, opening: Callable[[], Awaitable[DeliveryQueueWriter]], monotonic: Callable[[], float]) -> None:
        self._opening = opening
        self._monotonic = monotonic
        self._deliveries: DeliveryQueueWriter | None = None
        self._connecting = asyncio.Lock()
        self._closed_until_s = float("-inf")

    async def open(self) -> None:
        """Connect now, or later where the queue is away. Raises ``Unavailable`` where it will never have us."""
        try:
            await self._streams()
        except Unavailable as trouble:
            if isinstance(trouble.__cause__, RedisAccessRefused):
                raise
            _log.warning("The queue cannot be reached; what is to be handed over waits.", reason=str(trouble))

    def check(self) -> None:
        """Raises ``StreamsAway`` where the way is known to be closed: then nothing needs to be decided either."""
        if self._monotonic() < self._closed_until_s:
            raise StreamsAway("the queue could not be reached a moment ago")

    async def give(self, intents: Sequence[Intent], at_us: int = 0) -> list[Intent]:
        """Append to the streams, now or at ``at_us``; those that found no room.

        Raises ``StreamsAway``: then some may have been appended.
        """
        try:
            streams = await self._streams()
            return await streams.enqueue(intents, at_us)
        except Unavailable as trouble:
            self._closed_until_s = self._monotonic() + CLOSED_S
            raise StreamsAway(str(trouble)) from trouble

    async def close(self) -> None:
        """Close the connection."""
        if self._deliveries is not None:
            await self._deliveries.close()

    async def _streams(self) -> DeliveryQueueWriter:
        async with self._connecting:
            if self._deliveries is None:
                self.check()
                self._deliveries = await self._opening()
            return self._deliveries


def streams_of(settings: Settings) -> Callable[[], Awaitable[DeliveryQueueWriter]]:
    """What connects to the streams of the setting QUEUE_URL."""
    url, namespace, most = settings.queue, settings.namespace, settings.stream_entries
    return lambda: open_queue_writer(url, namespace, most, max_wait_s=PATIENCE_S, timeout_s=SILENCE_S)
