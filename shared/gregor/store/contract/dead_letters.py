"""What a store promises of dead letters: deliveries that were given up; a part of ``contract.Store``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from gregor.core.notify.intents import Intent
from gregor.core.notify.ledger import DeliveryRecord

DeadLetterPosition = tuple[int, str]
"""Where a dead letter stands in the order of all: when it was given up (µs), and ``ledger.path_of`` of it. With an
empty path: before all of that moment."""


@dataclass(frozen=True, slots=True)
class DeadLetterPage:
    """Some dead letters, the latest first. ``after``: the place from which the next page goes on; ``None``: no more.

    A page may hold fewer than were asked for, though another follows.
    """

    letters: tuple[DeliveryRecord, ...]
    after: DeadLetterPosition | None


class DeadLetters(Protocol):
    """A delivery is one from the step in which the ledger says ``DEAD``, until it is replayed, purged, or forgotten:
    with its user, or after the retention. What is purged stays ``DEAD`` in the ledger."""

    async def page(
        self, before: DeadLetterPosition | None, limit: int, channel: str | None, now_us: int
    ) -> DeadLetterPage:
        """Up to ``limit`` of one channel, or of all; those that stand behind ``before``."""
        ...

    async def replay(self, intent: Intent, now_us: int) -> bool:
        """Have one tried anew; false where it is no dead letter. Of two at the same moment one is true.

        In the same step its ledger says ``PLANNED``, its attempts kept, and the agenda asks now what became of it
        (``WorkKind.OVERDUE``): by that it is handed over, whoever dies meanwhile.
        """
        ...

    async def drop(self, intent: Intent) -> None:
        """It is no dead letter any more. Repeatable."""
        ...

    async def purge(self, channel: str | None, before_us: int | None) -> int:
        """Drop those of one channel, or of all, that were given up before that moment, or at any. How many went."""
        ...
