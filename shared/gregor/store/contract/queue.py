"""Where the delivery service takes what is to be told: one queue a channel, with a lease on what was taken.

What is taken stays in the queue until it is ``done`` or ``retry_later``; where its taker dies it is ``reclaim``-ed.
So an intent may be taken more than once, and never gets lost. The ledger knows what became of it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from gregor.core.notify.intents import Intent


@dataclass(frozen=True, slots=True)
class QueuedIntent:
    """An intent that this process has for the time of the lease. ``entry`` is the queue's own name of it."""

    entry: bytes
    intent: Intent


class DeliveryQueueReader(Protocol):
    """The queue of one channel. Every method may raise ``Unavailable``."""

    async def claim(self, most: int, wait_s: float) -> list[QueuedIntent]:
        """Up to ``most`` that nobody has, the oldest first; waits up to ``wait_s`` for the first.

        One caller at a time.
        """
        ...

    async def reclaim(self, idle_s: float, most: int) -> list[QueuedIntent]:
        """Up to ``most`` that were taken at least ``idle_s`` ago and never ended: their taker is dead."""
        ...

    async def ack(self, taken: Sequence[QueuedIntent]) -> None:
        """They are over. Repeatable."""
        ...

    async def retry_later(self, taken: QueuedIntent, at_us: int) -> None:
        """It waits, in nobody's hands, until ``at_us``."""
        ...

    async def enqueue_due(self, now_us: int, most: int) -> int:
        """Up to ``most`` of what has waited until its time can be taken again. How many; any process may do it."""
        ...

    async def prune(self, is_over: Callable[[Intent], Awaitable[bool]]) -> int:
        """Drop all of which this is true, whoever has it and whatever it waits for. How many; looks at every entry."""
        ...

    async def close(self) -> None:
        """Close the connections. What is taken is left to ``reclaim``."""
        ...
