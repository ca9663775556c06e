"""Due work that failed in this process: when it is retried, with exponential backoff.

A failure that repeats is a fault of the program, which the data of a client may trigger. Without a backoff, each entry
would cost its handler and a log line after every lease, for ever.
"""

from __future__ import annotations

from typing import Final

from gregor.core.backoff import backoff_s, no_jitter
from gregor.core.limits import SECOND_US
from gregor.store.contract.agenda import DueWork

MAX_RETRY_S: Final = 3_600.0
"""The longest time between two attempts."""
MAX_FAILURES: Final = 10_000
"""Failed entries that a process remembers, about 0.3 KB each. A forgotten one is retried with the next claim."""


class FailedWork:
    """The failed entries of all users. A restart forgets them, and the new version tries each again."""

    def __init__(self) -> None:
        # The number of failures, and the time of the next attempt (µs).
        self._failures: dict[tuple[str, bytes, int], tuple[int, int]] = {}

    def __len__(self) -> int:
        return len(self._failures)

    def retry_us(self, uid: str, work: DueWork) -> int:
        """Return when an entry may be tried again (µs); 0 if it has not failed."""
        return self._failures.get((uid, work.entry, work.at_us), (0, 0))[1]

    def add(self, uid: str, work: DueWork, now_us: int, lease_until_us: int) -> int:
        """Record a failure. Returns when the entry is tried again: at the end of the lease, later twice as long."""
        key = uid, work.entry, work.at_us
        count, _ = self._failures.pop(key, (0, 0))
        delay_s = backoff_s(count, (lease_until_us - now_us) / SECOND_US, MAX_RETRY_S, no_jitter)
        retry_us = now_us + round(delay_s * SECOND_US)
        self._failures[key] = count + 1, retry_us
        if len(self._failures) > MAX_FAILURES:
            del self._failures[next(iter(self._failures))]
        return retry_us

    def discard(self, uid: str, work: DueWork) -> None:
        """Forget the failures of an entry that was executed."""
        self._failures.pop((uid, work.entry, work.at_us), None)
