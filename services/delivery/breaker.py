"""PURE. When a provider is left alone: it fails again and again, or refuses our credentials. What waits keeps waiting.

Closed: all goes out. Open: nothing does until a moment. Then one goes out alone; how it ends closes or opens it again,
for longer. What a device or a message did wrong never opens it.
"""

from __future__ import annotations

from typing import Final

from .verdict import Misconfigured, Retry, Unknown, Verdict

FAILURES: Final = 10
"""Failures in a row, among what was begun since the last success, that open it."""
FIRST_S: Final = 2.0
LONGEST_S: Final = 60.0
STOPPED_S: Final = 60.0
"""How long a provider with wrong credentials is left alone before one more is tried."""


class Breaker:
    """Of one provider. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._failures = 0
        self._pause_s = FIRST_S
        self._open_until_s: float | None = None
        self._is_probing = False
        self.is_stopped = False
        """Whether the provider refused our credentials or set-up last."""

    @property
    def is_open(self) -> bool:
        """Whether it failed, and has not proved itself since."""
        return self._open_until_s is not None

    def room(self, most: int, now_s: float) -> int:
        """How many may go out now, of ``most``; each that does must be told of by ``began`` and ``ended``."""
        if self._open_until_s is None:
            return most
        return 0 if self._is_probing or now_s < self._open_until_s else min(1, most)

    def began(self) -> None:
        """One goes out."""
        self._is_probing = self._is_probing or self.is_open

    def passed(self) -> None:
        """One that went out had not to be sent after all: it says nothing of the provider."""
        self._is_probing = False

    def ended(self, verdict: Verdict, now_s: float) -> None:
        """What the provider made of one."""
        was_probing, self._is_probing = self._is_probing, False
        if isinstance(verdict, Misconfigured):
            self.is_stopped, self._open_until_s = True, now_s + STOPPED_S
        elif is_failure(verdict):
            self._failures += 1
            # What was in flight when it opened fails too, and says nothing new.
            if was_probing or (not self.is_open and self._failures >= FAILURES):
                self._open_until_s = now_s + self._pause_s
                self._pause_s = min(LONGEST_S, 2 * self._pause_s)
        else:
            self._failures, self._pause_s = 0, FIRST_S
            self.is_stopped, self._open_until_s = False, None


def is_failure(verdict: Verdict) -> bool:
    """Whether the provider itself is unwell: it was not reached, answered 5xx, or not at all."""
    if isinstance(verdict, Retry):
        return verdict.status is None or verdict.status.startswith("5")
    return isinstance(verdict, Unknown)
