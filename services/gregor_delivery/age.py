"""The age of a delivery: since Gregor could send it. Waits that its own user or device caused do not count."""

from __future__ import annotations

from typing import Final

from gregor.core.notify.ledger import DeliveryHistory

from .throttle.breaker import THROTTLING_STATUSES

RECEIVER_WAITS: Final = frozenset({"receiver_busy", "receiver_down"})
"""Reasons of waits for a receiver that many users share."""


def sendable_us(history: DeliveryHistory) -> int:
    """Return since when nothing of its user or device held a delivery up (µs).

    Quiet hours, budgets and the pace of badges are of the user. The provider may throttle a device alone. A limit of
    the provider for all is seen in ``gregor_delivery_parked``.
    """
    waits = [wait.until_us for wait in history.waits if wait.reason not in RECEIVER_WAITS]
    throttled = [attempt.at_us for attempt in history.attempts if attempt.status in THROTTLING_STATUSES]
    if throttled and throttled[-1] == history.attempts[-1].at_us:
        throttled.append(history.next_us or 0)
    return max(history.begun_us, *waits, *throttled, 0)
