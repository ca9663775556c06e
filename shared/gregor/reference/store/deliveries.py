"""Executable specification: never runs in production. The writer of the delivery queues: a list."""

from __future__ import annotations

from collections.abc import Sequence

from gregor.core.notify.intents import Intent


class MemoryQueueWriter:
    """The contract of the queue writer in memory. ``intents``: the enqueued ones, in order.

    ``delayed``: intent to its time.

    ``most``: capacity for each channel; a full channel refuses intents.
    """

    def __init__(self, most: int | None = None) -> None:
        self.intents: list[Intent] = []
        self.delayed: dict[Intent, int] = {}
        self.most = most

    async def enqueue(self, intents: Sequence[Intent], at_us: int = 0) -> list[Intent]:
        """See ``contract.Deliveries.enqueue``."""
        refused = [intent for intent in intents if not at_us and not self._has_room(intent.channel)]
        self.intents.extend(intent for intent in intents if intent not in refused)
        self.delayed.update(dict.fromkeys(intents, at_us) if at_us else {})
        return refused

    async def remove_waiting(self, intents: Sequence[Intent]) -> None:
        """See ``contract.DeliveryQueueWriter.remove_waiting``."""
        for intent in intents:
            if self.delayed.pop(intent, None) is not None:
                self.intents.remove(intent)

    def _has_room(self, channel: str) -> bool:
        return self.most is None or sum(intent.channel == channel for intent in self.intents) < self.most

    async def close(self) -> None:
        """Do nothing."""
