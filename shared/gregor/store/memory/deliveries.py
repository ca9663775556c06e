"""What is to be told, as a list in memory."""

from __future__ import annotations

from collections.abc import Sequence

from gregor.core.intents import Intent


class MemoryDeliveries:
    """``agenda.Deliveries`` without a server: what was handed over is in ``intents``, in order."""

    def __init__(self) -> None:
        self.intents: list[Intent] = []

    async def hand_over(self, intents: Sequence[Intent]) -> None:
        """As ``Deliveries`` says."""
        self.intents.extend(intents)

    async def close(self) -> None:
        """Nothing to close."""
