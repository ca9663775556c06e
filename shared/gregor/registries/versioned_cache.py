"""A cache that every process refreshes when the version in the store changes.

If Redis restarts without its newest data, an old version number may come back with other data. After a report, a gap or
a failure, and once a minute, the data is therefore loaded even if its version is the same.

A pub/sub message invalidates the cache at once, and so does a report of Redis (``KeyTracker``). While changes are not
reported, a poll of the version finds them.

The data of a cache belongs to no user, so its shard of a cluster may be unreachable while the shards of users answer.
A process then starts without the data, and reads it later.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Final

import structlog

from gregor.redis.pubsub.contract import PubSub
from gregor.redis.tracking import KeyTracker, TrackedRead
from gregor.store.contract.store import Unavailable

_log = structlog.get_logger(__name__)

POLL_S: Final = 0.5
"""Interval between two polls of the version. It bounds the staleness of a process to less than one second."""
RECHECK_S: Final = 60.0
"""Interval between two polls while the server reports changes: a safety net.
Also the interval between two loads of the data if its version stays the same."""
_SUBSCRIBE_S: Final = 2.0


class CacheUnavailable(Unavailable):
    """The data of a cache cannot be read. The shards of users may answer."""


class VersionedCache:
    """Base class of a cache with a version number in the store. A subclass implements ``_load``.

    If ``subscriptions`` is given, messages on ``channel`` invalidate the cache. If ``tracker`` is given, changes of the
    key with the name of the channel do. Without reports of the tracker, the version is polled every ``poll_s`` seconds.
    ``ping``: see ``Store.ping``.
    """

    def __init__(
        self,
        channel: str,
        ping: Callable[[], Awaitable[Mapping[str, float | None]]],
        subscriptions: PubSub | None = None,
        poll_s: float = POLL_S,
        tracker: KeyTracker | None = None,
    ) -> None:
        self.is_read = False
        """Whether the stored data was read since the start of this process."""
        self._channel = channel
        self._ping = ping
        self._subscriptions = subscriptions
        self.poll_s = poll_s
        # The channel has the name of the key.
        self._tracked = None if tracker is None else TrackedRead(tracker, "HGET", channel, "version")
        self._invalidated = asyncio.Event() if self._tracked is None else self._tracked.changed
        # Without the lock, a slow read of an older version could overwrite a newer one.
        self._refreshing = asyncio.Lock()
        self._watching: asyncio.Task[None] | None = None
        self._retry_at_s = 0.0
        self._reload_at_s = 0.0
        """When the data is loaded next even if its version is the same."""
        self._is_started = False

    async def start(self) -> None:
        """Load the current version, then keep the cache up to date.

        If its shard is unreachable and another one answers, the cache is loaded later (``is_read``). Raises
        ``Unavailable`` if no shard answers.
        """
        try:
            await self.refresh()
        except CacheUnavailable as error:
            if len(await self._ping()) < 2:
                raise
            _log.warning("cache.not_read", channel=self._channel, reason=str(error), retry_in_s=self.poll_s)
            self._start_without_data()
        self._is_started = True
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
        """Refresh this process after a change, then wait until the others know it, by a report or their poll."""
        await self.refresh()
        await asyncio.sleep(1.2 * self.poll_s)

    async def refresh(self) -> None:
        """Load the data if its version has changed, or if a reload is due. Raises ``CacheUnavailable``."""
        async with self._refreshing:
            # Calls that waited for a failed read must not each wait for another one.
            now_s = asyncio.get_running_loop().time()
            if now_s < self._retry_at_s:
                raise CacheUnavailable(f"{self._channel} could not be read a moment ago")
            is_forced = now_s >= self._reload_at_s
            if is_forced:
                # Before the read: a gap during the read must cause another one.
                self._reload_at_s = now_s + RECHECK_S
            try:
                await self._load(is_forced=is_forced)
            except BaseException as error:  # a cancelled load must be repeated, too
                self._reload_at_s = 0.0
                if not isinstance(error, Unavailable):
                    raise
                self._retry_at_s = asyncio.get_running_loop().time() + min(self.poll_s, POLL_S) / 2
                raise CacheUnavailable(f"{self._channel} cannot be read: {error}") from error
            self.is_read = True

    async def _load(self, *, is_forced: bool) -> None:
        """Load the data if its version has changed, or if ``is_forced``. Raises ``Unavailable``."""
        raise NotImplementedError

    def _start_without_data(self) -> None:
        """Prepare for a start without the stored data. A subclass may override this."""

    async def _watch(self) -> None:
        is_reported = False
        if self._tracked is not None:
            self._tracked.changed.set()  # begin to track at once
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(RECHECK_S if is_reported else self.poll_s):
                    await self._invalidated.wait()
            if self._invalidated.is_set():
                self._reload_at_s = 0.0
            self._invalidated.clear()
            # Before the version is read: a change after that read is reported.
            is_reported = self._tracked is not None and await self._tracked.is_tracked()
            try:
                await self.refresh()
            except Unavailable as error:
                is_reported = False
                _log.warning("cache.refresh_failed", channel=self._channel, reason=str(error))
