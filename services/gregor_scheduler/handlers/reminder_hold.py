"""Holds reminders back after a reconnect to Redis, until the gateways have subscribed again.

The commit of a reminder announces it to the gateways. A gateway whose subscription is interrupted misses the
announcement. It repairs the gap with a full copy, which contains no reminders.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from gregor.clock import Clock
from gregor.core.limits import SECOND_US
from gregor.redis.commands import RedisNode
from gregor.redis.connect import MAX_RETRY_S

HOLD_S: Final = MAX_RETRY_S + 1.0
"""No reminder fires in this time after a connection was opened, the first one of the process included.

Gateways connect again within ``MAX_RETRY_S``. In the second after it, they subscribe and compare with the store.
"""
MAX_HOLD_S: Final = 20.0
"""A connection that breaks again and again holds reminders back for this time at most."""


class ReminderHold:
    """Knows until when the reminders of a user wait. ``node_of``: the server of a user; ``None``: it is unknown."""

    def __init__(self, node_of: Callable[[str], RedisNode | None], clock: Clock) -> None:
        self._node_of = node_of
        self._clock = clock
        # By server: the first and the last call of a series in which reminders were held back.
        self._series: dict[str, tuple[float, float]] = {}

    def until_us(self, uid: str, expires_us: int | None) -> int:
        """Return the time until which a reminder of this user waits; 0: it may fire now.

        ``expires_us``: the expiry of its item. A reminder does not wait beyond it.
        """
        held_us = self._held_until_us(uid)
        return held_us if expires_us is None or expires_us > held_us else 0

    def _held_until_us(self, uid: str) -> int:
        node = self._node_of(uid)
        if node is None:
            return 0
        left_s = HOLD_S - node.connected_for_s
        if left_s <= 0:
            self._series.pop(node.name, None)
            return 0
        now_s = self._clock.monotonic()
        first_s, last_s = self._series.get(node.name, (now_s, now_s))
        # Held reminders are tried again within HOLD_S. Without any for twice as long, this is another outage.
        if now_s - last_s > 2 * HOLD_S:
            first_s = now_s
        self._series[node.name] = first_s, now_s
        left_s = min(left_s, first_s + MAX_HOLD_S - now_s)
        return self._clock.now_us() + round(left_s * SECOND_US) if left_s > 0 else 0
