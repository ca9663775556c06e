"""PURE. Fair delivery queues: bounds how fast one user fills the streams, which are first in, first out."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Final

from gregor.core.limits import SECOND_US
from gregor.core.notify.intents import Intent
from gregor.core.rate_limit import take

BURST_S: Final = 100.0
"""Deliveries of this time may be published at once."""
MIN_BURST: Final = 64
"""One item may go to 64 devices."""
MAX_BUCKETS: Final = 65_536
"""Remembered buckets. A bucket that is full again is forgotten first: it is the same as an unused one."""


class UserShares:
    """Token buckets by user and channel. `rate`: deliveries a second; `None` for no bound. Times are seconds."""

    def __init__(self, rate: float | None) -> None:
        self._rate = rate
        self.burst = max(MIN_BURST, int((rate or 0.0) * BURST_S))
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
        now_us, bucket = round(now_s * SECOND_US), (uid, channel)
        full_at_us = self._full_at_us.pop(bucket, 0)
        if len(self._full_at_us) >= MAX_BUCKETS:
            self._forget(now_us)
        self._full_at_us[bucket], wait_s = take(full_at_us, self._rate, self.burst, min(count, self.burst), now_us)
        return wait_s

    def _forget(self, now_us: int) -> None:
        """Forget the full buckets; without one, the bucket unused for longest."""
        kept = {bucket: at_us for bucket, at_us in self._full_at_us.items() if at_us > now_us}
        if len(kept) >= MAX_BUCKETS:
            del kept[next(iter(kept))]
        self._full_at_us = kept


def _bucket(intent: Intent) -> tuple[str, str]:
    return intent.uid, intent.channel
