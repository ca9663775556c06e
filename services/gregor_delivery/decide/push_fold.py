"""Folding: one push covers the deliveries above a user's push budget (explanation/delivery.md, "Budgets of a user")."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Final

from gregor.core.items.sync import StoredItem
from gregor.core.notify.intents import Intent, IntentKind
from gregor_delivery.channels.contract import PushMessage

from .withdrawals import with_withdrawals

COLLAPSE_ID_BYTES: Final = 18
"""Bytes of the hash: 24 characters, below every provider's limit (Web Push 32, APNs 64)."""


class PushFold:
    """A visible push with the deliveries and withdrawals that it covers."""

    __slots__ = ("_is_due", "_items", "_push", "_read_items")

    def __init__(
        self,
        push: PushMessage,
        read_items: Callable[[], Awaitable[Mapping[str, StoredItem]]],
        is_due: Callable[[Intent, StoredItem], bool],
    ) -> None:
        """`read_items`: returns the live items that the device sees. `is_due`: whether a delivery may be sent now."""
        self._push = push
        self._read_items = read_items
        self._is_due = is_due
        self._items: Mapping[str, StoredItem] = {}

    async def select(self, intents: Sequence[Intent]) -> Collection[Intent]:
        """Return those of the deliveries that the push may cover, by the state at this moment."""
        self._items = await self._read_items()
        return [each for each in intents if each.item in self._items and self._is_due(each, self._items[each.item])]

    def compose(self, covered: Sequence[Intent]) -> PushMessage:
        """Return the push with everything that it covers."""
        return with_withdrawals(self._with_count(covered), covered) if covered else self._push

    def _with_count(self, covered: Sequence[Intent]) -> PushMessage:
        """Return the push with the number of the other items that it covers; unchanged if there are none.

        The provider keeps it until the last of these items expires.
        """
        push = self._push
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
            # All such pushes to the device share it: a newer one replaces the older one.
            collapse_id=collapse_hash(f"f\0{push.uid}\0{push.device}"),
            expires_us=max(known_us) if len(known_us) == len(ends_us) else None,
            data={**push.data, "count": 1 + len(others)},
        )


def collapse_hash(name: str) -> str:
    """Return the hash of `name` that is used as a collapse id."""
    return base64.urlsafe_b64encode(hashlib.sha256(name.encode()).digest()[:COLLAPSE_ID_BYTES]).decode()
