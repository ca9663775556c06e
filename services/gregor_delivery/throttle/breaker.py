"""PURE. When a provider is left alone: it fails again and again, or refuses our credentials. What waits keeps waiting.

Closed: all goes out. Open: nothing does until a moment. Then one goes out alone; how it ends closes or opens it again,
for longer. What a device or a message did wrong never opens it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from gregor_delivery.channels.verdict import Misconfigured, Retry, Unknown, Verdict

FAILURES: Final = 10
"""Failures in a row, among what was begun since the last success, that open it."""
FIRST_S: Final = 2.0
LONGEST_S: Final = 60.0
STOPPED_S: Final = 60.0
"""How long a provider with wrong credentials is left alone before one more is tried."""
OF_THE_PROVIDER: Final = frozenset({"421", "429"})
"""Answers that ask everybody for patience, where they come in a row: one device that is told so has others between."""


class Breaker:
    """Of one provider. Times are monotonic seconds. ``failures``: so many in a row open it; ``None``: nothing does."""

    def __init__(self, failures: int | None = FAILURES) -> None:
        self._most = failures
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
        """How many may go out now, of ``most``; each that does takes its turn by ``began``."""
        if self._open_until_s is None:
            return most
        return 0 if self._is_probing or now_s < self._open_until_s else min(1, most)

    def wait_s(self, now_s: float) -> float:
        """Seconds until one may go out alone; 0 where it is not open, or one is out."""
        return 0.0 if self._open_until_s is None else max(0.0, self._open_until_s - now_s)

    def began(self) -> Permit:
        """One goes out; its turn must be told how it ended."""
        is_probe = self.is_open and not self._is_probing
        self._is_probing = self._is_probing or is_probe
        return Permit(partial(self._end, is_probe))

    def _end(self, is_probe: bool, verdict: Verdict | None, now_s: float) -> None:
        if is_probe:
            self._is_probing = False
        if verdict is None:
            return
        if isinstance(verdict, Misconfigured):
            self.is_stopped, self._open_until_s = True, now_s + STOPPED_S
        elif is_failure(verdict):
            self._failures += 1
            # What was in flight when it opened fails too, and says nothing new.
            if is_probe or (self._most is not None and not self.is_open and self._failures >= self._most):
                asked_s = verdict.after_s if isinstance(verdict, Retry) else None
                self._open_until_s = now_s + max(self._pause_s, min(asked_s or 0.0, LONGEST_S))
                self._pause_s = min(LONGEST_S, 2 * self._pause_s)
        else:
            self._failures, self._pause_s = 0, FIRST_S
            self.is_stopped, self._open_until_s = False, None


class Permit:
    """One that went out. What it tells first holds; the rest is not heard."""

    __slots__ = ("_end",)

    def __init__(self, end: Callable[[Verdict | None, float], None]) -> None:
        """``end`` is told once: the verdict (``None``: it had not to be sent), and when."""
        self._end: Callable[[Verdict | None, float], None] | None = end

    def ended(self, verdict: Verdict, now_s: float) -> None:
        """What the provider made of it."""
        self._tell(verdict, now_s)

    def passed(self) -> None:
        """It had not to be sent after all: it says nothing of the provider."""
        self._tell(None, 0.0)

    def _tell(self, verdict: Verdict | None, now_s: float) -> None:
        end, self._end = self._end, None
        if end is not None:
            end(verdict, now_s)


def is_failure(verdict: Verdict) -> bool:
    """Whether the provider itself is unwell: it was not reached, asks for patience, answered 5xx, or not at all."""
    if isinstance(verdict, Retry):
        return verdict.status is None or verdict.status.startswith("5") or verdict.status in OF_THE_PROVIDER
    return isinstance(verdict, Unknown)
