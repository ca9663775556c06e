"""Turns of a user's frames that need Redis, at one gateway: above a rate they wait, in the order of their arrival."""

from __future__ import annotations

import asyncio
from typing import Final

from gregor.core.limits import Limits
from gregor.core.rate_limit import Bucket
from gregor_gateway.runtime.timer_wheel import TimerWheel

from .device_rates import DeviceRates

TURNS_A_MESSAGE: Final = 6
"""Frames for Redis for each message of a user's rate: 240 a second, 4 % of a core with the most expensive acks."""


def redis_bucket(limits: Limits) -> Bucket:
    """Return the budget of a user. A full one has a turn for each connection: all may enter the foreground at once."""
    rate = TURNS_A_MESSAGE * max(limits.user_rate, limits.device_rate)
    return Bucket("turns", rate, limits.devices * limits.connections)


class RedisTurns:
    """The budgets of the users who sent such frames recently. An idle user is forgotten."""

    def __init__(self, limits: Limits, timers: TimerWheel) -> None:
        self._rates = DeviceRates(redis_bucket(limits))
        self._timers = timers

    def __len__(self) -> int:
        return len(self._rates)

    def wait_s(self, uid: str) -> float:
        """Return the seconds that a frame of this user would wait for its turn now."""
        return self._rates.wait_s(uid, "", self._timers.now)

    async def take(self, uid: str) -> None:
        """Take the next turn of a user, and wait for it."""
        wait_s = self.wait_s(uid)
        # Taken before the wait, so the turns of all connections are in the order of their arrival.
        self._rates.charge(uid, "", 1, self._timers.now)
        if wait_s > 0:
            turn = asyncio.Event()
            self._timers.after(wait_s, turn.set)
            await turn.wait()
