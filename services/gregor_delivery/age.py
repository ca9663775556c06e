"""Decides which deliveries count in the metric of ages: those that did not wait for their user or device."""

from __future__ import annotations

from typing import Final

from gregor.core.notify.ledger import DeliveryHistory

from .throttle.breaker import THROTTLING_STATUSES

RECEIVER_WAITS: Final = frozenset({"receiver_busy", "receiver_down"})
"""Reasons of waits for a receiver that many users share."""


def was_held_up(history: DeliveryHistory) -> bool:
    """Return whether a delivery waited for its own user or device: then its age says nothing about the service.

    Quiet hours, budgets and paces concern one user. A provider may throttle one device. If it throttles all, the
    circuit breaker opens (``gregor_delivery_parked``).
    """
    waited = any(wait.reason not in RECEIVER_WAITS for wait in history.waits)
    return waited or any(attempt.status in THROTTLING_STATUSES for attempt in history.attempts)
