"""The part of the store contract about delivery queues: the scheduler writes them, the delivery service reads them.

A claimed intent stays in the queue until ``ack`` or ``retry_later``. If its worker dies, another one gets it by
``reclaim``. An intent may therefore be claimed more than once, but is never lost; the ledger deduplicates.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

from gregor.core.notify.intents import Intent


@dataclass(frozen=True, slots=True)
class QueuedIntent:
    """An intent that this process has claimed. ``entry`` is its id in the queue."""

    entry: bytes
    intent: Intent


@dataclass(frozen=True, slots=True)
class QueueSizes:
    """The numbers of entries of a queue by their state, and the age of the oldest one that is not finished.

    ``oldest_s``: since it was enqueued, or made available again; waiting ones do not count.
    """

    unclaimed: int
    claimed: int
    waiting: int
    quarantined: int
    oldest_s: float


class DueIntents(NamedTuple):
    """Numbers of due intents: those that became available, and those that must wait longer."""

    available: int
    delayed: int


NONE_DUE: Final = DueIntents(0, 0)


class DeliveryQueueReader(Protocol):
    """The queue of one channel. Every method may raise ``Unavailable``."""

    async def claim(self, most: int, wait_s: float) -> list[QueuedIntent]:
        """Claim up to ``most`` intents, the oldest first; wait up to ``wait_s`` for the first. One caller at a time."""
        ...

    async def reclaim(self, idle_s: float, most: int) -> list[QueuedIntent]:
        """Claim up to ``most`` intents that another process claimed at least ``idle_s`` ago and did not finish."""
        ...

    async def renew(self, taken: Sequence[QueuedIntent]) -> None:
        """Extend the claims of these intents, so no other process reclaims them. Finished intents stay finished."""
        ...

    async def ack(self, taken: Sequence[QueuedIntent]) -> None:
        """Remove finished intents from the queue. Repeatable."""
        ...

    async def retry_later(self, taken: QueuedIntent, at_us: int) -> None:
        """Release a claimed intent, and make it available again at ``at_us``."""
        ...

    async def enqueue_due(
        self, now_us: int, most: int, wait_s: Callable[[str], float] | None = None, most_examined: int = 0
    ) -> DueIntents:
        """Make up to ``most`` waiting intents available whose time has come. Any process may call it.

        ``wait_s``: returns for a user how many seconds its next intent has to wait longer; 0.0 to make it available.
        ``most_examined``: how many intents are examined to find ``most``; used if it is higher than ``most``.
        """
        ...

    async def prune(self, is_over: Callable[[Intent], Awaitable[bool]]) -> int:
        """Remove all intents for which ``is_over`` is true, claimed and waiting ones too. Returns how many.

        Reads every entry.
        """
        ...

    async def sizes(self, now_us: int) -> QueueSizes:
        """Return how full the queue is."""
        ...

    async def close(self) -> None:
        """Close the connections. Claimed intents are left to ``reclaim``."""
        ...


class DeliveryQueueWriter(Protocol):
    """Enqueues deliveries for the delivery service: one queue for each channel.

    An intent may be enqueued twice if a scheduler dies; its key identifies the repetition.
    """

    async def enqueue(self, intents: Sequence[Intent], at_us: int = 0) -> list[Intent]:
        """Append intents to the queues of their channels. Returns those whose queue is full and that were not appended.

        With ``at_us`` the intents wait until then, and none is refused. Raises ``Unavailable``: some may have been
        appended.
        """
        ...

    async def remove_waiting(self, intents: Sequence[Intent]) -> None:
        """Remove these intents if they wait in the queue. Claimed and available ones stay. Raises ``Unavailable``."""
        ...

    async def close(self) -> None:
        """Close the connection."""
        ...
