"""A cache that every process refreshes when the version in the store changes.

A pub/sub message invalidates the cache at once. A poll of the version finds changes whose message was lost.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final

import structlog

from gregor.redis.pubsub.contract import PubSub
from gregor.store.contract.store import Unavailable

_log = structlog.get_logger(__name__)

POLL_S: Final = 0.5
"""Interval between two polls of the version. It bounds the staleness of a process to less than one second."""
_SUBSCRIBE_S: Final = 2.0


class VersionedCache:
    """Base class of a cache with a version number in the store. A subclass implements ``_load_if_changed``.

    If ``subscriptions`` is given, messages on ``channel`` invalidate the cache; otherwise only the poll every
    ``poll_s`` seconds does.
    """

    def __init__(self, channel: str, subscriptions: PubSub | None = None, poll_s: float = POLL_S) -> None:
        self._channel = channel
        self._subscriptions = subscriptions
        self.poll_s = poll_s
        self._invalidated = asyncio.Event()
        # Without the lock, a slow read of an older version could overwrite a newer one.
        self._refreshing = asyncio.Lock()
        self._watching: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Load the current version, then keep the cache up to date. Raises ``Unavailable``."""
        await self.refresh()
        if self._subscriptions is not None:
            # A start does not wait long for the confirmation, because the poll covers the time before it.
            confirmed = self._subscriptions.subscribe(self._channel, self, sharded=False)
            confirmed.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
            await asyncio.wait([confirmed], timeout=_SUBSCRIBE_S)
        self._watching = asyncio.create_task(self._watch())

    async def close(self) -> None:
        """Stop refreshing; the last loaded version remains readable."""
        if self._subscriptions is not None:
            self._subscriptions.unsubscribe(self._channel, self, sharded=False)
        if self._watching is not None:
            self._watching.cancel()
            with suppress(asyncio.CancelledError):
                await self._watching
            self._watching = None

    def receive(self, payload: bytes) -> None:
        """Invalidate the cache. The subscriptions call this when another process published a new version."""
        self._invalidated.set()

    def lost(self) -> None:
        """Do nothing: ``gap`` follows, and the poll covers the time before it."""

    def gap(self, *, same_server: bool) -> None:
        """Invalidate the cache. The subscriptions call this if messages may have been lost."""
        self._invalidated.set()

    async def wait_until_known(self) -> None:
        """Refresh this process after a change, then wait until the poll of every other process has found it too."""
        await self.refresh()
        await asyncio.sleep(1.2 * self.poll_s)

    async def refresh(self) -> None:
        """Load the current version if this process has another one. Raises ``Unavailable``."""
        async with self._refreshing:
            await self._load_if_changed()

    async def _load_if_changed(self) -> None:
        raise NotImplementedError

    async def _watch(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self.poll_s):
                    await self._invalidated.wait()
            self._invalidated.clear()
            try:
                await self.refresh()
            except Unavailable as error:
                _log.warning("cache.refresh_failed", channel=self._channel, reason=str(error))
