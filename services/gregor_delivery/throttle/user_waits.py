"""PURE. When deliveries of each user last waited for other deliveries of the user. The ledger does not record this."""

from __future__ import annotations

from typing import Final

MAX_USERS: Final = 4_096
"""Most users that are remembered. Only users with many deliveries wait for themselves."""


class UserWaits:
    """The time of the last such wait of each user in this process, in monotonic seconds."""

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
