"""Decides which deliveries count in `gregor_delivery_age_seconds`: those that their user or device did not delay."""

from __future__ import annotations

from typing import Final

from gregor.core.notify.ledger import DeliveryHistory

from .channels.verdict import Retry
from .throttle.breaker import THROTTLING_STATUSES

RECEIVER_DOWN: Final = "receiver_down"
RECEIVER_WAITS: Final = frozenset({"receiver_busy", RECEIVER_DOWN})
"""Reasons of waits for a receiver that many users share, unless the device has chosen it."""


def was_held_up(
    history: DeliveryHistory,
    *,
    is_own_receiver: bool = False,
    has_waited_for_own: bool = False,
    was_provider_down: bool = False,
) -> bool:
    """Return whether its own user or device delayed a delivery: then its age says nothing about the service.

    Quiet hours, budgets and paces concern one user. A provider may throttle one device, or fail for it. If it fails for
    all, the circuit breaker opens (``gregor_delivery_parked``).

    ``is_own_receiver``: the device has chosen the receiver. ``has_waited_for_own``: since the delivery began, a
    delivery of its user has waited for another one. ``was_provider_down``: the channel's circuit breaker was open.
    """
    waits = {wait.reason for wait in history.waits}
    statuses = {attempt.status for attempt in history.attempts}
    if (waits if is_own_receiver else waits - RECEIVER_WAITS) or statuses & THROTTLING_STATUSES:
        return True
    if was_provider_down or RECEIVER_DOWN in waits:
        return False
    # No device can make a provider unreachable, unless it has chosen the provider.
    failed_alone = statuses if is_own_receiver else statuses - {Retry.name}
    return bool(failed_alone) or has_waited_for_own
