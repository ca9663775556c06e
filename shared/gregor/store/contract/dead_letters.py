"""The part of the store contract about dead letters: deliveries that failed for good."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from gregor.core.notify.intents import Intent
from gregor.core.notify.ledger import DeliveryRecord

DeadLetterPosition = tuple[int, str]
"""Position in the order of all dead letters: time of the failure (µs), and the delivery's path.

An empty path is before all dead letters of that moment.
"""


@dataclass(frozen=True, slots=True)
class DeadLetterPage:
    """A page of dead letters, the latest first. A page may be shorter than requested although another follows.

    Attributes:
        after: Position from which the next page continues; ``None``: this is the last page.
        is_partial: A server is unreachable, and dead letters of its users may be missing.
    """

    letters: tuple[DeliveryRecord, ...]
    after: DeadLetterPosition | None
    is_partial: bool = False


class DeadLetters(Protocol):
    """The dead letters of a deployment.

    A delivery is a dead letter from the step in which the ledger stores ``DEAD``. It ends when the delivery is replayed
    or purged, its user is deleted, or the retention is over. A purged one stays ``DEAD`` in the ledger.
    """

    async def page(
        self, before: DeadLetterPosition | None, limit: int, channel: str | None, now_us: int
    ) -> DeadLetterPage:
        """Return up to ``limit`` dead letters of one channel (``None``: all) after the position ``before``.

        A page may end early after 10,000 dead letters of other channels. Another one then follows.
        """
        ...

    async def replay(self, intent: Intent, now_us: int) -> bool:
        """Plan a dead delivery again.

        Returns false if it is not a dead letter; of two concurrent calls one returns true.

        In the same step the ledger stores ``PLANNED`` with the earlier attempts, and the agenda gets an entry
        (``WorkKind.OVERDUE``). The delivery is therefore enqueued even if this process dies.
        """
        ...

    async def drop(self, intent: Intent) -> None:
        """Remove a delivery from the dead letters. Repeatable."""
        ...

    async def purge(self, channel: str | None, before_us: int | None) -> int:
        """Remove the dead letters of one channel (``None``: all) from before a time (``None``: any time).

        Returns how many.
        """
        ...
