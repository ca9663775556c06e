"""What the ledger of deliveries promises; a part of ``contract.Store``. The values are in ``core.ledger``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from gregor.core.notify.intents import Intent
from gregor.core.notify.ledger import (
    Claim,
    DeliveryHistory,
    DeliveryRecord,
    DeliveryState,
    NotClaimed,
    NotYet,
    PendingWithdrawals,
)


class Ledger(Protocol):
    """What became of each thing that was to be told; see ``core.ledger``. Lives beside the user's state."""

    async def plan(
        self, intents: Sequence[Intent], state: DeliveryState, reason: str | None, now_us: int
    ) -> list[Intent]:
        """Enter deliveries in ``state`` (planned, or cancelled with its reason); returns those that were new.

        Repeatable: the first entry under a key stands. Of a user that is forgotten nothing is entered. What is planned
        is looked after: ``OVERDUE_US`` from then the agenda asks what became of it (``WorkKind.OVERDUE``).
        """
        ...

    async def claim(
        self, intent: Intent, place: str, now_us: int, lease_until_us: int, *, is_early: bool = False
    ) -> Claim | NotClaimed | NotYet:
        """Take a delivery to send it. ``place`` (device and collapse id, or empty) is held with it: one at a time.

        ``NotYet`` before ``story.next_us`` of its last settlement: an intent that was handed over twice waits as one.
        ``is_early``: it is given before that, since it costs nothing to send it along with something else. An
        ``UNKNOWN`` that was settled without ``next_us`` is over.
        """
        ...

    async def note(self, delivery: DeliveryRecord) -> bool:
        """Write the story of a claim that goes on; false, and nothing written, where it passed to another."""
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
        """Write what became of a claim; false where the lease passed to another. ``counts``: the attempt was one.

        With a withdrawal that is ``SENT`` go, in the same step, the sent deliveries of its item to its device and
        channel: they are ``WITHDRAWN``. One that held a place woke the device at its last attempt. What is ``DEAD``
        is a dead letter from that step on.
        """
        ...

    async def move(
        self,
        intent: Intent,
        sources: Sequence[DeliveryState],
        state: DeliveryState,
        history: DeliveryHistory | None = None,
    ) -> bool:
        """From one of ``sources`` to ``state``, without a claim; false where it is in none of them.

        Neither from nor to ``DEAD``: what is dead is moved by ``dead_letters``.
        """
        ...

    async def expedite(self, uid: str, reason: str, until_us: int, now_us: int) -> int:
        """Have what waits for ``reason``, and longer than ``until_us``, looked at now; how many there were. Repeatable.

        In the same step the agenda asks what became of them (``WorkKind.OVERDUE``): by that they are handed over. What
        somebody has in hand waits as it was looked at.
        """
        ...

    async def withdrawals(self, uid: str, device: str, channel: str) -> PendingWithdrawals:
        """What is to be withdrawn from a device, and when it was woken for that."""
        ...

    async def of_item(self, uid: str, item: str) -> list[DeliveryRecord]:
        """The deliveries of one item, oldest first."""
        ...

    async def of_user(self, uid: str, limit: int) -> list[DeliveryRecord]:
        """The deliveries of the user's newest ``limit`` items with any, the newest item first."""
        ...
