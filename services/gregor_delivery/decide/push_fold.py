"""Folding: one push covers the deliveries above the push budget of a user (explanation/delivery.md, "Push budget")."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from gregor.core.items.sync import StoredItem
from gregor.core.notify.intents import Intent, IntentKind
from gregor_delivery.channels.contract import PushMessage


@dataclass(slots=True)
class PushFold:
    """Chooses the deliveries that one push covers, and adds their number to it.

    `read_items`: returns the live items that the device sees. `is_due`: whether a delivery of an item may be sent now.
    `collapse_id`: of all folded pushes to the device, so a newer one replaces the older one.
    """

    read_items: Callable[[], Awaitable[Mapping[str, StoredItem]]]
    is_due: Callable[[Intent, StoredItem], bool]
    collapse_id: str
    _items: Mapping[str, StoredItem] = field(default_factory=dict)

    async def select(self, intents: Sequence[Intent]) -> Collection[Intent]:
        """Return those of the deliveries that the push may cover, by the state at this moment."""
        self._items = await self.read_items()
        return [each for each in intents if each.item in self._items and self.is_due(each, self._items[each.item])]

    def apply(self, push: PushMessage, covered: Sequence[Intent]) -> PushMessage:
        """Return the push with the number of the other items that it covers; unchanged if there are none.

        The provider keeps it until the last of these items expires.
        """
        others = {each.item for each in covered if each.kind is not IntentKind.WITHDRAW} - {push.data["id"]}
        if not others:
            return push
        ends_us = [push.expires_us, *(self._items[each].expires_us for each in others)]
        known_us = [each for each in ends_us if each is not None]
        count = f"(+{len(others)})"
        return replace(
            push,
            title=f"{push.title} {count}" if push.title else "",
            text=push.text if push.title else f"{push.text} {count}",
            collapse_id=self.collapse_id,
            expires_us=max(known_us) if len(known_us) == len(ends_us) else None,
            data={**push.data, "count": 1 + len(others)},
        )
