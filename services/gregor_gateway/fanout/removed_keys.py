"""Checks for removed keys of device tokens: closes the connections whose key was removed.

A leaked secret can sign tokens for any user. After its removal, the connections that these tokens opened must end, too.
A key does not belong to a user, so no user channel announces its removal.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from typing import Final

import structlog

from gregor.cooperative import for_each
from gregor.core.close_codes import CloseCode
from gregor_gateway.runtime.background import BackgroundTasks
from gregor_gateway.runtime.timer_wheel import TimerWheel
from gregor_gateway.sessions.authenticator import Authenticator

from .hub import Hub
from .subscriber import Subscriber
from .user_channel import UserChannel

log = structlog.get_logger(__name__)

EVERY_S: Final = 2.0
"""Interval of the check. It costs one comparison, and starts to load a key set that is old."""
CLOSES_PER_SECOND: Final = 200
"""Connections that are closed in a second, unless ``MAX_SPREAD_S`` requires more. Their devices reconnect at once."""
MAX_SPREAD_S: Final = 7.0
"""Longest time for which a connection stays open after the check."""


class RemovedKeyChecker:
    """Closes the connections of this process when the keys of their tokens are removed."""

    def __init__(
        self,
        hub: Hub,
        authenticator: Authenticator,
        timers: TimerWheel,
        background: BackgroundTasks,
        jitter: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._hub = hub
        self._authenticator = authenticator
        self._timers = timers
        self._background = background
        self._jitter = jitter
        self._handled = authenticator.key_removals()

    def watch(self) -> None:
        """Check every ``EVERY_S`` from now on."""
        self._timers.after(EVERY_S, self._check)

    def _check(self) -> None:
        self.watch()
        removals = self._authenticator.key_removals()
        if removals != self._handled:
            self._handled = removals
            self._background.start(self._close_affected())

    async def _close_affected(self) -> None:
        affected: list[Subscriber] = []

        def find(channel: UserChannel) -> None:
            affected.extend(each for each in channel.subscribers if not self._authenticator.has_key(each.key_mark))

        # A connection that joins during the search checks its key itself.
        await for_each(tuple(self._hub.channels.values()), find)
        log.info("token_key.removed", connections=len(affected))
        spread_s = min(len(affected) / CLOSES_PER_SECOND, MAX_SPREAD_S)
        for subscriber in affected:
            self._timers.after(self._jitter(0.0, spread_s), partial(self._close, subscriber))

    def _close(self, subscriber: Subscriber) -> None:
        # Meanwhile the device may have sent a token of another key, or the key may have been added again.
        if not self._authenticator.has_key(subscriber.key_mark):
            subscriber.close(CloseCode.TOKEN_EXPIRED)
