"""One timing wheel for all that a process has to do later: no task and no timer a connection."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

import structlog

from gregor.clock import Clock

log = structlog.get_logger(__name__)

STEPS_A_SECOND: Final = 10
"""How fine the wheel is, and how often the process wakes for it, whatever the number of connections."""
_ROUNDING_S: Final = 1e-6


class Tickable(Protocol):
    """What can be put on the wheel."""

    def tick(self, now: float) -> None:
        """Its time has come. Must return soon, and not raise."""
        ...


class Timer:
    """A function, as something that ticks."""

    __slots__ = ("_act",)

    def __init__(self, act: Callable[[], object]) -> None:
        self._act = act

    def tick(self, now: float) -> None:
        """Call it."""
        self._act()


class TimerWheel:
    """Buckets of a tenth of a second. Nothing is taken off it: what has ended ignores its tick."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._buckets: dict[int, list[Tickable]] = {}
        self._turned = self._step(clock.monotonic())

    @property
    def now(self) -> float:
        """Seconds of the monotonic clock that the wheel goes by."""
        return self._clock.monotonic()

    def at(self, when: float, item: Tickable) -> None:
        """Let ``item`` tick at ``when`` or up to a step later; at the next turn where that is past."""
        self._buckets.setdefault(max(self._step(when) + 1, self._turned + 1), []).append(item)

    def after(self, delay_s: float, act: Callable[[], object]) -> None:
        """Call ``act`` in ``delay_s`` seconds, or up to a step later."""
        self.at(self.now + delay_s, Timer(act))

    def turn(self) -> None:
        """Let everything tick whose time has come."""
        now = self.now
        last = self._step(now)
        if last - self._turned > len(self._buckets):
            due = sorted(step for step in self._buckets if step <= last)
        else:
            due = [step for step in range(self._turned + 1, last + 1) if step in self._buckets]
        self._turned = max(self._turned, last)
        for step in due:
            for item in self._buckets.pop(step):
                try:
                    item.tick(now)
                except Exception as error:
                    # The fault of one must not stop the clock of all.
                    log.error("Something that was due failed.", exc_info=error)

    async def run(self) -> None:
        """Turn, for as long as the task runs."""
        while True:
            await asyncio.sleep(1 / STEPS_A_SECOND)
            self.turn()

    @staticmethod
    def _step(when: float) -> int:
        return int((when + _ROUNDING_S) * STEPS_A_SECOND)
