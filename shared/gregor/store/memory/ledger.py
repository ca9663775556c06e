"""The ledger of deliveries in memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import msgspec

from gregor.core.intents import Intent
from gregor.core.ledger import Claimed, Delivery, NotClaimed, NotYet, State, Story

MOST_CLAIMS = 9_999
"""What the entry of an item's ledger in Redis has digits for."""
Key = tuple[str, str, str, int, str, str]


class MemoryLedger:
    """``ledger.Ledger`` over dictionaries; nothing in it grows old."""

    def __init__(self) -> None:
        self._entries: dict[Key, Delivery] = {}
        self._places: dict[tuple[str, str], tuple[int, Key]] = {}

    async def plan(self, intents: Sequence[Intent], state: State, reason: str | None, now_us: int) -> list[Intent]:
        """As ``Ledger`` says."""
        fresh = [intent for intent in dict.fromkeys(intents) if intent.key not in self._entries]
        for intent in fresh:
            story = Story(now_us, intent.seq, reason, event=intent.event)
            self._entries[intent.key] = Delivery(intent, state, 0, 0, story)
        return fresh

    async def claim(
        self, intent: Intent, place: str, now_us: int, lease_until_us: int
    ) -> Claimed | NotClaimed | NotYet:
        """As ``Ledger`` says."""
        entry = self._entries.get(intent.key)
        if entry is None:
            return NotClaimed.ABSENT
        if entry.state.is_over or (entry.state is State.UNKNOWN and not entry.lease_until_us):
            return NotClaimed.OVER
        if entry.lease_until_us > now_us:
            return NotClaimed.BUSY if entry.state is State.CLAIMED else NotYet(entry.lease_until_us)
        until_us, holder = self._places.get((intent.uid, place), (0, intent.key))
        if place and until_us > now_us and holder != intent.key:
            return NotClaimed.BUSY
        if place:
            self._places[intent.uid, place] = (lease_until_us, intent.key)
        changes = {"state": State.CLAIMED, "n": min(entry.n + 1, MOST_CLAIMS), "lease_until_us": lease_until_us}
        taken = self._entries[intent.key] = msgspec.structs.replace(entry, **changes)
        return Claimed(taken, entry.state)

    async def settle(self, delivery: Delivery, place: str, state: State, story: Story, *, counts: bool = True) -> bool:
        """As ``Ledger`` says."""
        key = delivery.intent.key
        entry = self._entries.get(key)
        if entry is None or entry.state is not State.CLAIMED or entry.n != delivery.n:
            return False
        n = entry.n if counts else entry.n - 1
        intent = replace(entry.intent, event=story.event)
        self._entries[key] = Delivery(intent, state, n, story.next_us or 0, story)
        if self._places.get((delivery.intent.uid, place), (0, None))[1] == key:
            del self._places[delivery.intent.uid, place]
        return True

    async def move(self, intent: Intent, sources: Sequence[State], state: State, story: Story | None = None) -> bool:
        """As ``Ledger`` says."""
        entry = self._entries.get(intent.key)
        if entry is None or entry.state not in sources:
            return False
        self._entries[intent.key] = Delivery(entry.intent, state, entry.n, 0, story or entry.story)
        return True

    async def of_item(self, uid: str, item: str) -> list[Delivery]:
        """As ``Ledger`` says."""
        return self._sorted(entry for entry in self._entries.values() if entry.intent.key[:2] == (uid, item))

    async def of_user(self, uid: str, limit: int) -> list[Delivery]:
        """As ``Ledger`` says."""
        mine = [entry for entry in self._entries.values() if entry.intent.uid == uid]
        newest: dict[str, int] = {}
        for entry in mine:
            newest[entry.intent.item] = max(newest.get(entry.intent.item, 0), entry.story.planned_us)
        items = sorted(newest, key=lambda item: (newest[item], item), reverse=True)[:limit]
        return [entry for item in items for entry in await self.of_item(uid, item)]

    @staticmethod
    def _sorted(entries: Iterable[Delivery]) -> list[Delivery]:
        return sorted(entries, key=lambda entry: (entry.story.planned_us, entry.intent.key[2:]))
