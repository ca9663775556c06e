"""Executable specification: never runs in production. Dead letters."""

from __future__ import annotations

from gregor.core.notify.intents import Intent, IntentKind
from gregor.core.notify.ledger import DeliveryRecord, DeliveryState, delivery_path, parse_delivery_path, rebuild_intent
from gregor.reference.agenda import OVERDUE
from gregor.store.contract.dead_letters import DeadLetterPage, DeadLetterPosition

from .data import MemoryData


class MemoryDeadLetters:
    """``contract.DeadLetters`` in memory."""

    def __init__(self, data: MemoryData) -> None:
        self._data = data

    async def page(
        self, before: DeadLetterPosition | None, limit: int, channel: str | None, now_us: int
    ) -> DeadLetterPage:
        """See ``contract.DeadLetters.page``."""
        since_us = now_us - self._data.limits.retention_us
        places = sorted(((at_us, path) for path, at_us in self._data.dead.items() if at_us > since_us), reverse=True)
        found = [place for place in places if _is_of(channel, place[1]) and (before is None or place < before)]
        letters = (self._kept(path) for _, path in found[:limit])
        return DeadLetterPage(tuple(letters), found[limit - 1] if len(found) > limit else None)

    async def replay(self, intent: Intent, now_us: int) -> bool:
        """See ``contract.DeadLetters.replay``."""
        data = self._data
        if data.dead.pop(delivery_path(intent), None) is None:
            return False
        dead, owner = self._kept(delivery_path(intent)), data.owner(intent.uid)
        history = dead.history.replayed(now_us)
        owner.deliveries[intent.key] = DeliveryRecord(
            rebuild_intent(dead.intent, history), DeliveryState.PLANNED, dead.n, 0, history
        )
        owner.delivered[intent.item] = now_us
        if intent.kind is IntentKind.EVENT:
            owner.event_items[intent.item] = now_us
        owner.agenda[OVERDUE + intent.item] = now_us
        data.note(intent.uid, [now_us])
        return True

    async def drop(self, intent: Intent) -> None:
        """See ``contract.DeadLetters.drop``."""
        self._data.dead.pop(delivery_path(intent), None)

    async def purge(self, channel: str | None, before_us: int | None) -> int:
        """See ``contract.DeadLetters.purge``."""
        dead = self._data.dead
        purged = [path for path, at_us in dead.items() if _is_of(channel, path) and (before_us or at_us + 1) > at_us]
        for path in purged:
            del dead[path]
        return len(purged)

    def _kept(self, path: str) -> DeliveryRecord:
        intent = parse_delivery_path(path)
        return self._data.owner(intent.uid).deliveries[intent.key]


def _is_of(channel: str | None, path: str) -> bool:
    return channel is None or path.endswith(f"/{channel}")
