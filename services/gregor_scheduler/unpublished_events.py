"""Webhook events that are in the ledger, but did not reach the queue. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from gregor.core.notify.intents import Intent

EventKey = tuple[str, str, str, int, str, str]
"""``Intent.key`` of an event."""
MAX_WORKS: Final = 1_000
"""Agenda entries that are remembered. The check of overdue deliveries publishes the events of the others."""


class UnpublishedEvents:
    """The events of each agenda entry that a failure of the queue left unpublished."""

    def __init__(self) -> None:
        self._events: dict[tuple[str, bytes], frozenset[EventKey]] = {}

    def add(self, uid: str, entry: bytes, intents: Iterable[Intent]) -> None:
        """Remember the events of an entry, until they are taken."""
        self._events[uid, entry] = frozenset(intent.key for intent in intents)
        if len(self._events) > MAX_WORKS:
            del self._events[next(iter(self._events))]

    def take(self, uid: str, entry: bytes) -> frozenset[EventKey]:
        """Return the keys of the events of an entry, and forget them."""
        return self._events.pop((uid, entry), frozenset())
