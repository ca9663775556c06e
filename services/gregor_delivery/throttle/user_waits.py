"""PURE. The last waits of users for their own earlier deliveries, which the ledger does not record."""

from __future__ import annotations

from typing import Final

MAX_USERS: Final = 4_096
"""Remembered users. Only users with many deliveries wait like this."""


class UserWaits:
    """When each user last had to wait in this process. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._last_s: dict[str, float] = {}

    def add(self, uid: str, now_s: float) -> None:
        """Remember that a delivery waits for other deliveries of its user."""
        self._last_s.pop(uid, None)
        self._last_s[uid] = now_s
        if len(self._last_s) > MAX_USERS:
            del self._last_s[next(iter(self._last_s))]

    def has_waited(self, uid: str, since_s: float) -> bool:
        """Return whether a delivery of this user has waited since this time."""
        last_s = self._last_s.get(uid)
        return last_s is not None and last_s >= since_s
