"""Keeping up with what has a version in the store: told of a change at once, found within a second where it was not."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final

import structlog

from gregor.redis.pubsub.contract import Subscriptions
from gregor.store.contract.store import Unavailable

_log = structlog.get_logger(__name__)

CHECK_S: Final = 0.5
"""How often the version is looked at: one read of a number, so that no process is behind for longer than a second."""
_SUBSCRIBE_S: Final = 2.0


class VersionedCache:
    """What a process holds of something in the store. Whoever inherits says in ``refresh`` how it is taken over.

    ``feed``: where changes are heard of, on ``channel``; without one they are found by looking every ``check_s``.
    """

    def __init__(self, channel: str, feed: Subscriptions | None = None, check_s: float = CHECK_S) -> None:
        self._channel = channel
        self._feed = feed
        self.check_s = check_s
        self._woken = asyncio.Event()
        self._refreshing = asyncio.Lock()  # or an older state, read slowly, would follow a newer one
        self._watching: asyncio.Task[None] | None = None

    async def follow(self) -> None:
        """Take over what holds, and keep up with it from now on. Raises ``Unavailable``."""
        await self.refresh()
        if self._feed is not None:
            # Not waited for long: until it is confirmed, the version is looked at.
            waiting = self._feed.subscribe(self._channel, self, sharded=False)
            waiting.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
            await asyncio.wait([waiting], timeout=_SUBSCRIBE_S)
        self._watching = asyncio.create_task(self._watch())

    async def close(self) -> None:
        """Keep up no more."""
        if self._feed is not None:
            self._feed.unsubscribe(self._channel, self, sharded=False)
        if self._watching is not None:
            self._watching.cancel()
            with suppress(asyncio.CancelledError):
                await self._watching
            self._watching = None

    def receive(self, payload: bytes) -> None:
        """Called by the feed: there is a new version."""
        self._woken.set()

    def gap(self) -> None:
        """Called by the feed: one may have been missed."""
        self._woken.set()

    async def wait_until_known(self) -> None:
        """After a change: take it over here, and give every other process the time to find it."""
        await self.refresh()
        await asyncio.sleep(1.2 * self.check_s)

    async def refresh(self) -> None:
        """Take over what holds, if it is not what this process has. Raises ``Unavailable``."""
        async with self._refreshing:
            await self._refresh()

    async def _refresh(self) -> None:
        raise NotImplementedError

    async def _watch(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self.check_s):
                    await self._woken.wait()
            self._woken.clear()
            try:
                await self.refresh()
            except Unavailable as trouble:
                _log.warning("what is followed cannot be read", of=self._channel, reason=str(trouble))
