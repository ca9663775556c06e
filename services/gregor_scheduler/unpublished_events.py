"""Remembers webhook events that are in the ledger, but did not reach the queue. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from gregor.core.notify.intents import Intent

EventKey = tuple[str, str, str, int, str, str]
"""``Intent.key`` of an event."""
MAX_WORKS: Final = 1_000
"""Agenda entries that are remembered. The check of overdue deliveries publishes the events of older ones."""


class UnpublishedEvents:
    """The unpublished events of each agenda entry, after a failure of the queue."""

    def __init__(self) -> None:
        self._events: dict[tuple[str, bytes], frozenset[EventKey]] = {}

    def add(self, uid: str, entry: bytes, intents: Iterable[Intent]) -> None:
        """Remember the events of an entry until ``take``."""
        self._events[uid, entry] = frozenset(intent.key for intent in intents)
        if len(self._events) > MAX_WORKS:
            del self._events[next(iter(self._events))]

    def take(self, uid: str, entry: bytes) -> frozenset[EventKey]:
        """Return the keys of the events of an entry, and forget them."""
        return self._events.pop((uid, entry), frozenset())
