"""PURE. Circuit breaker in front of a provider that fails repeatedly or rejects our credentials.

Closed: every send passes. Open: none passes until a deadline. Half-open: one probe passes, and its verdict closes the
breaker or opens it again for longer. Errors caused by one device or one message never open it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from gregor.core.notify.intents import WEBHOOK, WEBPUSH
from gregor_delivery.channels.verdict import Misconfigured, Retry, Unknown, Verdict

FAILURE_THRESHOLD: Final = 10
"""Failures since the last success that open the breaker."""
FIRST_PAUSE_S: Final = 2.0
LONGEST_PAUSE_S: Final = 60.0
STOPPED_S: Final = 60.0
"""Pause between probes of a provider that rejects our credentials."""
THROTTLING_STATUSES: Final = frozenset({"421", "429"})
"""Replies that count as failures of the provider. A single throttled device does not open the breaker, since sends to
other devices succeed in between."""


class Breaker:
    """Circuit breaker of one provider. Times are monotonic seconds.

    `failure_threshold`: consecutive failures that open the breaker; `None`: only rejected credentials open it.
    """

    def __init__(self, failure_threshold: int | None = FAILURE_THRESHOLD) -> None:
        self._threshold = failure_threshold
        self._failures = 0
        self._pause_s = FIRST_PAUSE_S
        self._open_until_s: float | None = None
        self._is_probing = False
        self.is_stopped = False
        """Whether the provider rejected our credentials or configuration at the last attempt."""

    @property
    def is_first_failure(self) -> bool:
        """Whether exactly one send has failed since the last success. False if failures do not open this breaker."""
        return self._threshold is not None and self._failures == 1

    @property
    def is_open(self) -> bool:
        """Whether the provider failed and no probe has succeeded since."""
        return self._open_until_s is not None

    def capacity(self, limit: int, now_s: float) -> int:
        """Return how many of `limit` sends may start now; each one that starts calls `acquire`."""
        if self._open_until_s is None:
            return limit
        return 0 if self._is_probing or now_s < self._open_until_s else min(1, limit)

    def wait_s(self, now_s: float) -> float:
        """Return the seconds until a probe may start; 0 if the breaker is closed or a probe is under way."""
        return 0.0 if self._open_until_s is None else max(0.0, self._open_until_s - now_s)

    def acquire(self) -> Permit:
        """Start a send. The caller must finish the permit with `record` or `release`."""
        is_probe = self.is_open and not self._is_probing
        self._is_probing = self._is_probing or is_probe
        return Permit(partial(self._finish, is_probe))

    def _finish(self, is_probe: bool, verdict: Verdict | None, now_s: float) -> None:
        if is_probe:
            self._is_probing = False
        if verdict is None:
            return
        if isinstance(verdict, Misconfigured):
            self.is_stopped, self._open_until_s = True, now_s + STOPPED_S
        elif is_failure(verdict):
            self._failures += 1
            # Sends that were in flight when the breaker opened fail too: only the probe may extend the pause.
            if is_probe or (self._threshold is not None and not self.is_open and self._failures >= self._threshold):
                asked_s = verdict.after_s if isinstance(verdict, Retry) else None
                self._open_until_s = now_s + max(self._pause_s, min(asked_s or 0.0, LONGEST_PAUSE_S))
                self._pause_s = min(LONGEST_PAUSE_S, 2 * self._pause_s)
        else:
            self._failures, self._pause_s = 0, FIRST_PAUSE_S
            self.is_stopped, self._open_until_s = False, None


def channel_breaker(channel: str) -> Breaker:
    """Return the circuit breaker of a channel. Webhooks and Web Push origins have one each: only rejected credentials
    stop their channel.
    """
    return Breaker(None) if channel in (WEBHOOK, WEBPUSH) else Breaker()


class Permit:
    """Permission for one send. The first call of `record` or `release` counts; later calls have no effect."""

    __slots__ = ("_finish",)

    def __init__(self, finish: Callable[[Verdict | None, float], None]) -> None:
        """`finish` is called once, with the verdict (`None`: nothing was sent) and the time."""
        self._finish: Callable[[Verdict | None, float], None] | None = finish

    def record(self, verdict: Verdict, now_s: float) -> None:
        """Report the provider's verdict to the breaker."""
        self._call(verdict, now_s)

    def release(self) -> None:
        """Give the permit back unused: nothing was sent, so the breaker learns nothing."""
        self._call(None, 0.0)

    def _call(self, verdict: Verdict | None, now_s: float) -> None:
        finish, self._finish = self._finish, None
        if finish is not None:
            finish(verdict, now_s)


def is_failure(verdict: Verdict) -> bool:
    """Return whether the provider itself is unhealthy: unreachable, throttling, answering 5xx, or silent."""
    if isinstance(verdict, Retry):
        return verdict.status is None or verdict.status.startswith("5") or verdict.status in THROTTLING_STATUSES
    return isinstance(verdict, Unknown)
