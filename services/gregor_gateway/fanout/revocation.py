"""Whether connections may stay: asked of the store after every hole in their user's channel.

Closes (a revocation, a device or a user forgotten, a newer connection of the session) are told on that channel alone,
once. What happened in a hole is found here; without it, a revoked device would go on hearing until its token ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Final

import structlog

from gregor.clock import Clock
from gregor.core.close_codes import CloseCode
from gregor.store.contract.store import Store, Unavailable
from gregor_gateway.runtime.background import BackgroundTasks
from gregor_gateway.runtime.timer_wheel import TimerWheel
from gregor_gateway.sessions.presence import AT_REST

from .batch import Batcher
from .subscriber import Subscriber

if TYPE_CHECKING:
    from .hub import UserChannel

log = structlog.get_logger(__name__)

AT_ONCE: Final = 100
"""Users a call, of whom each costs a few reads: after a hole all users of the process are looked at."""
RETRY_S: Final = 1.0


class RevocationChecker:
    """Looks at the connections of rooms, many at a time, and closes those that were told to go."""

    def __init__(self, store: Store, clock: Clock, timers: TimerWheel, background: BackgroundTasks) -> None:
        self._devices = store.devices
        self._clock = clock
        self._timers = timers
        self._turns = Batcher(background, AT_ONCE, self._ask)

    def ask(self, channel: UserChannel) -> None:
        """Look at all connections of a room soon."""
        self._turns.want(channel)

    async def _ask(self, channels: Iterable[UserChannel]) -> None:
        looks = [self._look(channel.uid, subscriber) for channel in channels for subscriber in channel.subscribers]
        done = await asyncio.gather(*looks, return_exceptions=True)
        failed = [error for error in done if error is not None]
        if failed:
            if not all(isinstance(error, Unavailable) for error in failed):
                log.error("Connections could not be looked at.", exc_info=failed[0])
            self._timers.after(RETRY_S, partial(self._ask_again, channels))

    def _ask_again(self, channels: Iterable[UserChannel]) -> None:
        for channel in channels:
            self.ask(channel)

    async def _look(self, uid: str, subscriber: Subscriber) -> None:
        """Close a connection that may not stay. Raises ``Unavailable``."""
        code = await self._verdict(uid, subscriber)
        if code is not None:
            subscriber.close(code)

    async def _verdict(self, uid: str, subscriber: Subscriber) -> int | None:
        now_us = self._clock.now_us()
        revoked_us = await self._devices.revoked_before(uid, subscriber.device)
        if subscriber.observes:
            # Its ticket is of no age: what was revoked since it is there is meant for it too.
            return CloseCode.REVOKED if revoked_us is not None and subscriber.opened_us <= revoked_us else None
        if not subscriber.is_present:
            return None  # about to join, and asks by itself
        if revoked_us is not None and subscriber.issued_us <= revoked_us:
            return CloseCode.REVOKED
        if await self._devices.device(uid, subscriber.device, now_us) is None:
            return CloseCode.STATE_INVALIDATED
        held = await self._devices.session(uid, subscriber.device, subscriber.session_name, now_us)
        if held is not None and held.connection != subscriber.name and held.gateway != AT_REST:
            return CloseCode.REPLACED
        return None
