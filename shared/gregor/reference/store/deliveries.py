"""What is to be told, as a list in memory."""

from __future__ import annotations

from collections.abc import Sequence

from gregor.core.notify.intents import Intent


class MemoryQueueWriter:
    """``agenda.Deliveries`` without a server: what was handed over is in ``intents``, in order; until when
    it is to wait in ``later``.

    ``most``: intents of one channel; a full one takes no more.
    """

    def __init__(self, most: int | None = None) -> None:
        self.intents: list[Intent] = []
        self.later: dict[Intent, int] = {}
        self.most = most

    async def enqueue(self, intents: Sequence[Intent], at_us: int = 0) -> list[Intent]:
        """As ``Deliveries`` says."""
        refused = [intent for intent in intents if not at_us and not self._has_room(intent.channel)]
        self.intents.extend(intent for intent in intents if intent not in refused)
        self.later.update(dict.fromkeys(intents, at_us) if at_us else {})
        return refused

    def _has_room(self, channel: str) -> bool:
        return self.most is None or sum(intent.channel == channel for intent in self.intents) < self.most

    async def close(self) -> None:
        """Nothing to close."""
