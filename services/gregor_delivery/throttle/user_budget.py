"""PURE. Budget of messages of each user: the notifications of one user do not use up a relay.

A message above the budget waits, and the next one covers everything that waits.
"""

from __future__ import annotations

from functools import partial
from typing import Final

from gregor.core.limits import SECOND_US
from gregor.core.rate_limit import take
from gregor_delivery.channels.verdict import Refused, Sent, Unknown, Verdict

from .breaker import Permit

HOUR_S: Final = 3_600
MAX_USERS: Final = 65_536
"""Remembered users. The user whose last message is the oldest is forgotten first."""


class UserBudget:
    """Token bucket of each user in this process. `per_hour`: messages an hour, and at once; `None` for no bound."""

    def __init__(self, per_hour: int | None) -> None:
        self._per_hour = per_hour
        self._full_at_us: dict[str, int] = {}

    def wait_us(self, uid: str, now_us: int) -> int:
        """Return the time until the user may get a message; 0 if it may be sent now."""
        return round(self._taken(uid, now_us)[1] * SECOND_US)

    def permit(self, uid: str, now_us: int) -> Permit:
        """Return a permit that takes from the budget if its message is sent."""
        return Permit(partial(self._finish, uid, now_us))

    @property
    def remembered(self) -> int:
        """Number of remembered users."""
        return len(self._full_at_us)

    def _finish(self, uid: str, now_us: int, verdict: Verdict | None, _: float) -> None:
        # A relay that cannot be reached or rejects our login has not seen the message.
        if self._per_hour is None or not isinstance(verdict, Sent | Unknown | Refused):
            return
        full_at_us = self._taken(uid, now_us)[0]
        self._full_at_us.pop(uid, None)
        if len(self._full_at_us) >= MAX_USERS:
            del self._full_at_us[next(iter(self._full_at_us))]
        self._full_at_us[uid] = full_at_us

    def _taken(self, uid: str, now_us: int) -> tuple[int, float]:
        """Return the bucket after one message, and the seconds until there is a token for it."""
        if self._per_hour is None:
            return 0, 0.0
        return take(self._full_at_us.get(uid, 0), self._per_hour / HOUR_S, self._per_hour, 1, now_us)
