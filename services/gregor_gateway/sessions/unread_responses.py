"""Counts the unread responses of each device."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager


class UnreadResponses:
    """Counts responses of ended streams and polls that stay in memory until their client has read them.

    ``holder``: the device, or the service key of an observer.
    """

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str]] = Counter()

    def count(self, uid: str, holder: str) -> int:
        """Return how many responses of a holder are unread."""
        return self._counts[uid, holder]

    @contextmanager
    def counting(self, uid: str, holder: str) -> Iterator[None]:
        """Count a response inside the context."""
        key = uid, holder
        self._counts[key] += 1
        try:
            yield
        finally:
            self._counts[key] -= 1
            if not self._counts[key]:
                del self._counts[key]
