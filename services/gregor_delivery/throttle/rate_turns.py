"""PURE. The rate limit of a channel. Attempts start a little ahead of their tokens, and only sent messages take one.

Each user may use only a part of the free tokens.
"""

from __future__ import annotations

import random
from collections import deque
from typing import Final

from gregor.core.rate_limit import RateLimiter

AHEAD_S: Final = 1.0
"""How far ahead of its token an attempt may start: also the longest wait of a message for its token.

If a user has many deliveries, most attempts send nothing. If each needed a free token, they would delay all others."""
SHARE_OF_USER: Final = 0.5
"""Attempts of one user that have not sent their message yet, for each free token. At least one may start."""
USER_RETRY_S: Final = 1.0
"""Mean pause of a delivery whose user has used up the share. It is random, so these deliveries return one by one."""
_ALL: Final = 1_000_000


class RateTurns:
    """The attempts of one channel in one process. Times are monotonic seconds."""

    def __init__(self, limiter: RateLimiter) -> None:
        self._limiter = limiter
        self._undecided: dict[RateTurn, str] = {}
        """The attempts that may still take a token, each with its user."""
        self._waiting = deque[tuple[float, str]]()
        """The messages that wait for their token: when each is sent, and its user."""

    def capacity(self, limit: int, now_s: float) -> int:
        """Return how many of `limit` attempts may start now. The caller calls `start` for each that it starts."""
        tokens = self._limiter.capacity(limit + len(self._undecided), now_s, AHEAD_S)
        return max(0, tokens - len(self._undecided))

    def wait_s(self, now_s: float) -> float:
        """Return the seconds until another attempt may start, unless one ends before."""
        return self._limiter.wait_s(now_s + AHEAD_S)

    def wait_for_share_s(self, uid: str, now_s: float) -> float:
        """Return the seconds for which a delivery of this user leaves the free tokens to others; 0.0: it may start."""
        while self._waiting and self._waiting[0][0] <= now_s:
            self._waiting.popleft()
        most = max(1.0, SHARE_OF_USER * self.capacity(_ALL, now_s))
        if len(self._undecided) + len(self._waiting) < most:
            return 0.0
        return 0.0 if self.attempts_of(uid) < most else random.uniform(0.5, 1.5) * USER_RETRY_S

    def attempts_of(self, uid: str) -> int:
        """Return how many attempts of this user are under way and have not sent their message yet."""
        return [*self._undecided.values(), *(user for _, user in self._waiting)].count(uid)

    def start(self, uid: str) -> RateTurn:
        """Start an attempt for a user. The caller must call `use` or `give_back` of its turn."""
        turn = RateTurn(self)
        self._undecided[turn] = uid
        return turn

    def _end(self, turn: RateTurn, sends_at_s: float | None) -> float:
        uid = self._undecided.pop(turn)
        if sends_at_s is None:
            return 0.0
        wait_s = self._limiter.wait_s(sends_at_s)
        self._limiter.acquire(sends_at_s)
        if wait_s > 0.0:
            self._waiting.append((sends_at_s + wait_s, uid))
        return wait_s


class RateTurn:
    """The turn of one attempt. The first call of `use` or `give_back` counts."""

    __slots__ = ("_turns",)

    def __init__(self, turns: RateTurns) -> None:
        self._turns: RateTurns | None = turns

    def use(self, now_s: float) -> float:
        """Take a token for a message. Returns the seconds to wait before sending it."""
        return self._end(now_s)

    def give_back(self) -> None:
        """End the attempt without a message."""
        self._end(None)

    def _end(self, sends_at_s: float | None) -> float:
        turns, self._turns = self._turns, None
        return 0.0 if turns is None else turns._end(self, sends_at_s)
