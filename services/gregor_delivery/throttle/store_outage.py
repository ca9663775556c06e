"""PURE. Limits the attempts of a worker while the store cannot be reached, and spreads their retries.

The queue may be on another server, or one shard of a cluster may be away. Each attempt then waits for seconds in a
place that other users need. A user whose delivery failed therefore gets turns: one delivery is tried in each, and the
others go back to the queue untried.
"""

from __future__ import annotations

import random
from typing import Final, NamedTuple

from gregor.core.rate_limit import RateLimiter
from gregor.store.contract.store import Contended, Unavailable, UnreadableValue
from gregor.store.redis.errors import StoreFull

from .turns import Turns

FAILURES: Final = 20
"""Failures in a row after which the attempts are limited. With one shard of three away, others succeed in between."""
RETRIES_PER_S: Final = 50
"""Turns of failing users a second; also the attempts a second while nothing succeeds.

Each may wait 2.5 s for its shard, so they take at most half of the places of a worker. During an outage of the whole
store, no more deliveries are put back than are tried again. Most stay in the stream, and are sent at once after it."""
ATTEMPTS_BURST: Final = 25
FIRST_RETRY_S: Final = 1.0
LONGEST_RETRY_S: Final = 600.0
"""Longest time until a retry, beyond the first two seconds."""
TRY_S: Final = 3.0
"""How long the other deliveries of a failing user wait for the one that is tried. It may wait 2.5 s for its shard."""
REMEMBERED_S: Final = 60.0
"""How long after its turn a failing user is remembered. Another process may have sent its delivery."""
MAX_USERS: Final = 10_000
"""Remembered failing users. The oldest is forgotten first: its next delivery is tried."""


class _Turn(NamedTuple):
    at_s: float
    is_tried: bool
    """Whether a delivery is being tried. ``at_s`` is then the time from which the next one may be tried."""


class StoreOutage:
    """The failures of the store that the attempts of one worker met. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._failures = 0
        self._attempts = RateLimiter(RETRIES_PER_S, ATTEMPTS_BURST)
        self._turns = Turns()
        self._users: dict[str, _Turn] = {}

    def capacity(self, limit: int, now_s: float) -> int:
        """Return how many of ``limit`` attempts may start now; each one that starts calls ``start``."""
        return limit if self._failures < FAILURES else self._attempts.capacity(limit, now_s)

    def wait_s(self, uid: str, now_s: float) -> float:
        """Return how long a delivery waits for the next turn of its user; 0.0 if it may start now."""
        turn = self._users.get(uid)
        return 0.0 if turn is None or turn.at_s <= now_s else turn.at_s - now_s + _jitter_s()

    def start(self, uid: str, now_s: float) -> None:
        """Note that an attempt starts. If the user is failing, it is the only one for a while."""
        if self._failures >= FAILURES:
            self._attempts.acquire(now_s)
        turn = self._users.pop(uid, None)
        if turn is not None and now_s < turn.at_s + REMEMBERED_S:
            self._users[uid] = _Turn(now_s + TRY_S, is_tried=True)

    def end(self, uid: str) -> None:
        """Note that an attempt could use the store."""
        self._failures = 0
        self._users.pop(uid, None)

    def fail(self, error: Unavailable, uid: str, now_s: float) -> float:
        """Note that an attempt failed. Returns the seconds until the delivery should be tried again."""
        # Other errors concern one value, or only what needs memory.
        if isinstance(error, Contended | UnreadableValue | StoreFull):
            return self._next_turn_s(now_s) + _jitter_s()
        self._failures += 1
        turn = self._users.pop(uid, None)
        if turn is None or turn.is_tried or turn.at_s <= now_s:
            if len(self._users) >= MAX_USERS:
                del self._users[next(iter(self._users))]
            turn = _Turn(now_s + self._next_turn_s(now_s), is_tried=False)
        # All attempts that were in flight share the turn, so the backlog of one user delays no other user.
        self._users[uid] = turn
        return turn.at_s - now_s + _jitter_s()

    def _next_turn_s(self, now_s: float) -> float:
        return FIRST_RETRY_S + self._turns.next_s(1 / RETRIES_PER_S, LONGEST_RETRY_S, now_s)


def _jitter_s() -> float:
    """Return a random delay: several processes put back at the same time, and any delivery may be the one tried."""
    return random.uniform(0.0, FIRST_RETRY_S)
