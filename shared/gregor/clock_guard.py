"""Keeps a process with a wrong clock from executing timers early, and from dating deliveries wrongly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import structlog

from gregor.clock import Clock
from gregor.store.connections import ServerTime

_log = structlog.get_logger(__name__)

MAX_OFFSET_S: Final = 5.0
"""Hosts with time synchronisation differ by less than 0.1 s. The alert ``GregorClockOff`` comes at 1 s."""


class ClockGuard:
    """Compares the clock of this process with that of Redis before each claim.

    Args:
        server_time: The last reading of the clock of Redis; ``None`` before the first one.
        shift_s: The setting ``CLOCK_OFFSET``, which shifts the clocks of all services on purpose.
    """

    def __init__(self, server_time: Callable[[], ServerTime | None], clock: Clock, shift_s: float = 0.0) -> None:
        self._server_time = server_time
        self._clock = clock
        self._shift_s = shift_s
        self._may_claim = False
        self._has_refused = False

    def may_claim(self) -> bool:
        """Return whether the clock is right, and this process may claim work."""
        reading = self._server_time()
        if reading is None:
            return False
        # The reading ages by the monotonic clock, so a step of the wall clock counts at once.
        offset_s = reading.offset_s(self._clock.now_us(), self._clock.monotonic()) + self._shift_s
        if abs(offset_s) - reading.error_s > MAX_OFFSET_S:
            self._may_claim = False
            self._log_refusal(offset_s)
        elif abs(offset_s) + reading.error_s <= MAX_OFFSET_S:
            # Between the two, the reply was too slow to decide: the last decision stays.
            self._may_claim = True
            if self._has_refused:
                self._has_refused = False
                _log.info("process.clock_right", offset_s=round(offset_s, 3))
        return self._may_claim

    def _log_refusal(self, offset_s: float) -> None:
        if not self._has_refused:
            self._has_refused = True
            effect = "no timers, jobs or deliveries are claimed until the clocks agree"
            _log.error("process.clock_off", redis_minus_own_s=round(offset_s, 3), limit_s=MAX_OFFSET_S, effect=effect)
