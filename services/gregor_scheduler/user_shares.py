"""PURE. Fair delivery queues: bounds how fast one user fills the streams, which are first in, first out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from typing import Final

from gregor.core.limits import SECOND_US
from gregor.core.notify.intents import Intent
from gregor.core.rate_limit import step_us, take
from gregor.store.contract.agenda import WorkKind

BURST_S: Final = 100.0
"""Deliveries of this time may be published at once."""
MIN_BURST: Final = 64
"""One item may go to 64 devices."""
MAX_BUCKETS: Final = 65_536
"""Remembered buckets. A bucket that is full again is forgotten first: it is the same as an unused one."""
LONGEST_TURN_S: Final = 3_600.0
"""Longest wait of an intent for its turn."""
_TURNS: Final = "turns/"
"""Prefix of the channel in the name of a bucket of turns."""


class UserShares:
    """Token buckets by user and channel. `rate`: deliveries a second; `None` for no bound. Times are seconds."""

    def __init__(self, rate: float | None) -> None:
        self._rate = rate
        self.burst = max(MIN_BURST, int((rate or 0.0) * BURST_S))
        # By user and channel: when the bucket is full again. By user and kind of work: the end of a pause.
        self._full_at_us: dict[tuple[str, str], int] = {}

    @property
    def remembered(self) -> int:
        """Number of remembered buckets."""
        return len(self._full_at_us)

    def split(self, intents: Sequence[Intent], now_s: float) -> tuple[list[Intent], list[Intent]]:
        """Return the intents that may be published now, and those of users above their share.

        The intents of one user and channel pass together or not at all: the scheduler repeats the work as a whole.
        More than a burst of them, for which the bucket is never full enough, pass when the bucket is full.
        """
        passed: list[Intent] = []
        refused: list[Intent] = []
        for (uid, channel), group in groupby(sorted(intents, key=_bucket), key=_bucket):
            batch = list(group)
            (refused if self.take(uid, channel, len(batch), now_s) else passed).extend(batch)
        return passed, refused

    def wait_s(self, uid: str, channel: str, count: int, now_s: float) -> float:
        """Return the seconds until the share of this number of intents can be taken, without taking it."""
        if self._rate is None:
            return 0.0
        full_at_us, now_us = self._full_at_us.get((uid, channel), 0), round(now_s * SECOND_US)
        return take(full_at_us, self._rate, self.burst, min(count, self.burst), now_us)[1]

    def take(self, uid: str, channel: str, count: int, now_s: float) -> float:
        """Take the share of this number of intents. Returns 0.0 if it was taken, else the seconds until it can be."""
        if self._rate is None:
            return 0.0
        now_us = round(now_s * SECOND_US)
        full_at_us = self._full_at_us.get((uid, channel), 0)
        full_at_us, wait_s = take(full_at_us, self._rate, self.burst, min(count, self.burst), now_us)
        self._remember((uid, channel), full_at_us, now_us)
        return wait_s

    def turn_s(self, uid: str, channel: str, count: int, most: int, now_s: float) -> float:
        """Return the seconds until the turn of intents above the share. Turns have the rate of the share.

        ``most``: the maximum number of waiting intents; above it, the oldest are given up.
        """
        if self._rate is None:
            return 0.0
        bucket, now_us, step = (uid, _TURNS + channel), round(now_s * SECOND_US), step_us(self._rate)
        last_us = max(self._full_at_us.get(bucket, 0), now_us) + count * step
        last_us = min(last_us, now_us + most * step, now_us + round(LONGEST_TURN_S * SECOND_US))
        self._remember(bucket, last_us, now_us)
        return (last_us - now_us) / SECOND_US

    def pause(self, kind: WorkKind, refused: Sequence[Intent], now_s: float) -> None:
        """Let the decisions of a user of this kind wait until the share is large enough for refused intents."""
        uid, counts = refused[0].uid, Counter(intent.channel for intent in refused)
        wait_s = max(self.wait_s(uid, channel, count, now_s) for channel, count in counts.items())
        self._remember((uid, kind.name), round((now_s + wait_s) * SECOND_US), round(now_s * SECOND_US))

    def is_paused(self, kind: WorkKind, uid: str, now_s: float) -> bool:
        """Return whether the decisions of a user of this kind wait."""
        return self._full_at_us.get((uid, kind.name), 0) > round(now_s * SECOND_US)

    def _remember(self, bucket: tuple[str, str], full_at_us: int, now_us: int) -> None:
        self._full_at_us.pop(bucket, None)
        if len(self._full_at_us) >= MAX_BUCKETS:
            self._forget(now_us)
        self._full_at_us[bucket] = full_at_us

    def _forget(self, now_us: int) -> None:
        """Forget the full buckets; without one, the bucket unused for longest."""
        kept = {bucket: at_us for bucket, at_us in self._full_at_us.items() if at_us > now_us}
        if len(kept) >= MAX_BUCKETS:
            del kept[next(iter(kept))]
        self._full_at_us = kept


def _bucket(intent: Intent) -> tuple[str, str]:
    return intent.uid, intent.channel
