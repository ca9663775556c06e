"""PURE. Limits the attempts of a worker while the store cannot be reached, and spreads their retries.

The queue may be on another server, or one shard of a cluster may be away. Each attempt then waits for seconds in a
place that other users need. A receiver whose delivery failed therefore gets turns: one delivery is tried in each, and
the others go back to the queue untried.
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
"""Turns of failing receivers a second; also the attempts a second while nothing succeeds.

Each may wait 2.5 s for its shard, so they take at most half of the places of a worker. During an outage of the whole
store, no more deliveries are put back than are tried again. Most stay in the stream, and are sent at once after it."""
ATTEMPTS_BURST: Final = 25
FIRST_RETRY_S: Final = 1.0
LONGEST_RETRY_S: Final = 600.0
"""Longest time until a retry, beyond the first two seconds."""
TRY_S: Final = 3.0
"""How long the other deliveries of a failing receiver wait for the one that is tried. Its shard may take 2.5 s."""
REMEMBERED_S: Final = 60.0
"""How long after its turn a failing receiver is remembered. Another process may have sent its delivery."""
MAX_RECEIVERS: Final = 20_000
"""Remembered failing receivers, about 7 MB. The oldest is forgotten first: its next delivery is tried."""
FASTER: Final = 0.2
"""Added to the speed of the turns by each success of a failing receiver. Each failure halves the speed, down to 1.

After an outage the turns of thousands are soon over. While another shard is away, its failures keep the turns slow."""

Receiver = tuple[str, str]
"""A user, and its device or webhook. The owner of a push token may be on another shard than its user."""


class _Turn(NamedTuple):
    at_s: float
    is_tried: bool
    """Whether a delivery is being tried. ``at_s`` is then the time from which the next one may be tried."""


class StoreOutage:
    """The failures of the store that the attempts of one worker met. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._failures = 0
        self._attempts = RateLimiter(RETRIES_PER_S, ATTEMPTS_BURST)
        self._row = Turns()
        self._turns: dict[Receiver, _Turn] = {}
        self._speed = 1.0
        self._clock_s = self._read_s = 0.0

    def capacity(self, limit: int, now_s: float) -> int:
        """Return how many of ``limit`` attempts may start now; each one that starts calls ``start``."""
        return limit if self._failures < FAILURES else self._attempts.capacity(limit, now_s)

    def wait_s(self, receiver: Receiver, now_s: float) -> float:
        """Return how long a delivery waits for the next turn of its receiver; 0.0 if it may start now."""
        turn = self._turns.get(receiver)
        wait_s = 0.0 if turn is None else turn.at_s - self._clock(now_s)
        if self._speed > 1.0:
            wait_s = min(wait_s, TRY_S)  # The turn may come much earlier: the shard may be back.
        return wait_s + _jitter_s() if wait_s > 0.0 else 0.0

    def start(self, receiver: Receiver, now_s: float) -> None:
        """Note that an attempt starts. If the receiver is failing, it is the only one for a while."""
        if self._failures >= FAILURES:
            self._attempts.acquire(now_s)
        turn, clock_s = self._turns.pop(receiver, None), self._clock(now_s)
        if turn is not None and clock_s < turn.at_s + REMEMBERED_S:
            self._turns[receiver] = _Turn(clock_s + TRY_S, is_tried=True)

    def end(self, receiver: Receiver, now_s: float) -> None:
        """Note that an attempt could use the store."""
        self._failures = 0
        if self._turns.pop(receiver, None) is not None:
            self._clock(now_s)
            self._speed += FASTER

    def fail(self, error: Unavailable, receiver: Receiver, now_s: float) -> float:
        """Note that an attempt failed. Returns the seconds until the delivery should be tried again."""
        clock_s = self._clock(now_s)
        # Other errors concern one value, or only what needs memory.
        if isinstance(error, Contended | UnreadableValue | StoreFull):
            return self._next_turn_s(clock_s) - clock_s + _jitter_s()
        self._failures += 1
        self._speed = max(1.0, self._speed / 2)
        turn = self._turns.pop(receiver, None)
        if turn is None or turn.is_tried or turn.at_s <= clock_s:
            if len(self._turns) >= MAX_RECEIVERS:
                del self._turns[next(iter(self._turns))]
            turn = _Turn(self._next_turn_s(clock_s), is_tried=False)
        # All attempts that were in flight share the turn, so the backlog of one receiver delays no other.
        self._turns[receiver] = turn
        return turn.at_s - clock_s + _jitter_s()

    def _next_turn_s(self, clock_s: float) -> float:
        return clock_s + FIRST_RETRY_S + self._row.next_s(1 / RETRIES_PER_S, LONGEST_RETRY_S, clock_s)

    def _clock(self, now_s: float) -> float:
        """Return the time of the turns: a clock that runs faster while failing receivers succeed."""
        self._clock_s += (now_s - self._read_s) * self._speed
        self._read_s = now_s
        return self._clock_s


def _jitter_s() -> float:
    """Return a random delay: several processes put back at the same time, and any delivery may be the one tried."""
    return random.uniform(0.0, FIRST_RETRY_S)
