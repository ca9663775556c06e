"""Revocation check: after a gap in a user's channel, the store says which connections must be closed.

Revocations, deleted devices and users, and replaced sessions are published once, on the user's channel. Without this
check a revoked device would stay connected until its token expires if the publication was lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Final

import structlog

from gregor.clock import Clock
from gregor.core.close_codes import CloseCode
from gregor.store.contract.store import Store, Unavailable
from gregor.store.gateways import NO_GATEWAY
from gregor_gateway.runtime.background import BackgroundTasks
from gregor_gateway.runtime.timer_wheel import TimerWheel

from .batch import Batcher
from .subscriber import Subscriber
from .user_channel import UserChannel

log = structlog.get_logger(__name__)

USERS_PER_CALL: Final = 16
"""Users in one batch."""
PAUSE_S: Final = 0.025
"""Pause between two batches: 640 users a second. A device costs two reads and a connection one, and after a gap all
users are checked."""
RETRY_S: Final = 1.0


class RevocationChecker:
    """Checks the connections of user channels, and closes those that lost their permission.

    ``queue``: the channels to check.
    """

    def __init__(self, store: Store, clock: Clock, timers: TimerWheel, background: BackgroundTasks) -> None:
        self._devices = store.devices
        self._clock = clock
        self._timers = timers
        self.queue: Batcher[UserChannel] = Batcher(background, USERS_PER_CALL, self._check, pause_s=PAUSE_S)

    async def _check(self, channels: Iterable[UserChannel]) -> None:
        checks = [
            self._check_device(channel.uid, device, subscribers)
            for channel in channels
            for device, subscribers in _by_device(channel).items()
        ]
        results = await asyncio.gather(*checks, return_exceptions=True)
        failed = [error for error in results if error is not None]
        if failed:
            if not all(isinstance(error, Unavailable) for error in failed):
                log.error("revocation_check.failed", exc_info=failed[0])
            self._timers.after(RETRY_S, partial(self._retry, channels))

    def _retry(self, channels: Iterable[UserChannel]) -> None:
        for channel in channels:
            self.queue.add(channel)

    async def _check_device(self, uid: str, device: str, subscribers: Sequence[Subscriber]) -> None:
        """Close the connections of one device that must be closed. Raises ``Unavailable``."""
        # Filtered before the reads: a connection that joins during them checks the revocations itself.
        subscribers = [each for each in subscribers if each.is_present or each.observes]
        if not subscribers:
            return
        revoked_us = await self._devices.revoked_before(uid, device)
        is_registered = await self._devices.device(uid, device, self._clock.now_us()) is not None
        for subscriber in subscribers:
            code = await self._close_code(uid, subscriber, revoked_us, is_registered=is_registered)
            if code is not None:
                subscriber.close(code)

    async def _close_code(
        self, uid: str, subscriber: Subscriber, revoked_us: int | None, *, is_registered: bool
    ) -> CloseCode | None:
        """Return why a connection must be closed, or ``None``. Raises ``Unavailable``."""
        if subscriber.observes:
            # A ticket has no issue time: a revocation after the connection was opened applies to its observer too.
            return CloseCode.REVOKED if revoked_us is not None and subscriber.opened_us <= revoked_us else None
        if revoked_us is not None and subscriber.issued_us <= revoked_us:
            return CloseCode.REVOKED
        if not is_registered:
            return CloseCode.STATE_INVALIDATED
        held = await self._devices.session(uid, subscriber.device, subscriber.session_name, self._clock.now_us())
        if held is None or held.connection == subscriber.name or held.gateway == NO_GATEWAY:
            return None
        # A failover may bring back an older connection of the session, which this one has replaced.
        return CloseCode.REPLACED if held.opened_us >= subscriber.opened_us else None


def _by_device(channel: UserChannel) -> dict[str, list[Subscriber]]:
    """Return the connections of a user by device, so each device is read once."""
    devices: dict[str, list[Subscriber]] = {}
    for subscriber in channel.subscribers:
        devices.setdefault(subscriber.device, []).append(subscriber)
    return devices
