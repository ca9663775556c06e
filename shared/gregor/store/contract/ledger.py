"""The part of the store contract about the delivery ledger. Values: `core.notify.ledger`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Protocol

from gregor.core.notify.intents import Intent
from gregor.core.notify.ledger import (
    Claim,
    DeliveryBudget,
    DeliveryHistory,
    DeliveryRecord,
    DeliveryState,
    NotClaimed,
    NotYet,
    OverBudget,
    PendingWithdrawals,
    PlannedDeliveries,
)


class Ledger(Protocol):
    """The state and history of every delivery, stored beside the user's state."""

    async def plan(
        self, intents: Sequence[Intent], state: DeliveryState, reason: str | None, now_us: int
    ) -> PlannedDeliveries:
        """Enter deliveries in ``state`` (planned, or cancelled with its reason).

        Repeatable: the first entry under a key wins. Nothing is entered for a deleted user. The agenda checks planned
        deliveries after ``OVERDUE_US`` (``WorkKind.OVERDUE``).

        A withdrawal is entered as cancelled if ``MAX_WAITING_OF_DEVICE`` already wait for its device and channel, or
        ``MAX_WAITING_OF_USER`` for all devices.

        If a user has more than ``Limits.delivered`` items with deliveries, the oldest items lose theirs, except live
        items and those with unfinished work. The bound is applied again after each ``Limits.delivered_step`` items.

        Items with webhook events have half of that bound, whatever else was planned for them before. Beyond it, the
        unsent events of the items with the oldest events become dead letters (``OVERFLOW``), except claimed ones.

        The webhook events of one item are bounded, too (``is_event_bound_due``, ``surplus_events``). The oldest
        completed events are forgotten, with their dead letters. If these do not suffice, the oldest waiting events
        become dead letters.
        """
        ...

    async def claim(
        self,
        intent: Intent,
        place: str,
        now_us: int,
        lease_until_us: int,
        *,
        is_early: bool = False,
        budget: DeliveryBudget | None = None,
    ) -> Claim | NotClaimed | NotYet | OverBudget:
        """Claim a delivery in order to send it. ``place`` (device and collapse id, or empty) is held with it: one
        at a time.

        Returns ``NotYet`` before the retry time, so that an intent that was enqueued twice waits once. An ``UNKNOWN``
        without a retry time is final.

        Args:
            is_early: Claim it even before its retry time, because it costs nothing to send it together with another.
            budget: Take one message from this budget of the user in the same step. ``OverBudget`` if it is used up:
                nothing is claimed, and a budget that folds remembers the delivery for the next message.
        """
        ...

    async def give_back(self, uid: str, budget: DeliveryBudget, now_us: int) -> None:
        """Return one message to a budget: it was claimed, but no provider processed it."""
        ...

    async def note(self, delivery: DeliveryRecord, place: str) -> bool:
        """Store the history of a claim that continues, and the end of its lease.

        If the claim holds ``place``, it holds it until then.

        Returns false, and stores nothing, if another worker has claimed it.
        """
        ...

    async def record_outcome(
        self,
        delivery: DeliveryRecord,
        place: str,
        state: DeliveryState,
        history: DeliveryHistory,
        *,
        counts: bool = True,
    ) -> bool:
        """Store the outcome of a claim. Returns false if another worker has claimed the delivery since.

        A withdrawal that is ``SENT`` also marks the sent deliveries of its item to its device and channel as
        ``WITHDRAWN``. If it held a place, its last attempt woke the device. A delivery that becomes ``DEAD`` is a dead
        letter from this step on.

        Args:
            counts: Whether the attempt counts.
        """
        ...

    async def move(
        self,
        intent: Intent,
        sources: Sequence[DeliveryState],
        state: DeliveryState,
        history: DeliveryHistory | None = None,
    ) -> bool:
        """Move a delivery from one of ``sources`` to ``state`` without a claim.

        Returns false if it is in another state.

        Neither from nor to ``DEAD``: that is done by ``DeadLetters``.
        """
        ...

    async def unknown(self, intents: Sequence[Intent]) -> list[Intent]:
        """Return the intents that are not in the ledger."""
        ...

    async def expedite(self, uid: str, reason: str, until_us: int, now_us: int) -> int:
        """Make deliveries that wait for ``reason`` beyond ``until_us`` due now. Returns how many. Repeatable.

        In the same step the agenda gets an entry (``WorkKind.OVERDUE``), which enqueues them. Claimed deliveries are
        left alone. Older deliveries than the newest ``MAX_EXAMINED`` of the user may keep their time.
        """
        ...

    async def count_recent(self, uid: str, now_us: int) -> int:
        """Return how many deliveries of a user ``expedite`` would examine."""
        ...

    async def withdrawals(self, uid: str, device: str, channel: str) -> PendingWithdrawals:
        """Return the pending withdrawals of a device, and when it was woken by withdrawals."""
        ...

    async def of_item(self, uid: str, item: str) -> list[DeliveryRecord]:
        """Return the deliveries of one item, oldest first."""
        ...

    async def of_user(self, uid: str, limit: int, most: int = sys.maxsize) -> list[DeliveryRecord]:
        """Return the deliveries of the user's newest ``limit`` items with deliveries, the newest item first.

        ``most``: deliveries after which no further item is read.
        """
        ...
