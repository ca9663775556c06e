"""A timer wheel for all timers of a process: connections need no task and no timer of the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Final, Protocol

import structlog

from gregor.clock import Clock
from gregor.cooperative import for_each

log = structlog.get_logger(__name__)

STEPS_PER_SECOND: Final = 10
"""Resolution of the wheel, and wake-ups of the process a second, whatever the number of connections."""
_ROUNDING_S: Final = 1e-6


class Tickable(Protocol):
    """An object that can be scheduled."""

    def tick(self, now: float) -> bool | None:
        """Handle the time. Must not block or raise. Returns true if it closed a socket."""
        ...


class Timer:
    """A function that is called once."""

    __slots__ = ("_act",)

    def __init__(self, act: Callable[[], object]) -> None:
        self._act = act

    def tick(self, now: float) -> None:
        """Call the function."""
        self._act()


class DetachableTimer:
    """Ticks an object until it is detached. Afterwards only this small timer stays on the wheel, until it is due."""

    __slots__ = ("target",)

    def __init__(self, target: Tickable) -> None:
        self.target: Tickable | None = target

    def tick(self, now: float) -> bool | None:
        """See ``Tickable.tick``."""
        return self.target.tick(now) if self.target is not None else None


class TimerWheel:
    """Buckets of a tenth of a second. Timers cannot be cancelled; an object that has ended ignores its tick."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._buckets: dict[int, list[Tickable]] = {}
        self._turned = self._step(clock.monotonic())

    @property
    def now(self) -> float:
        """Seconds of the monotonic clock."""
        return self._clock.monotonic()

    def at(self, when: float, item: Tickable) -> None:
        """Call ``item.tick`` at ``when`` or up to a step later; in the next step if ``when`` has passed."""
        self._buckets.setdefault(max(self._step(when) + 1, self._turned + 1), []).append(item)

    def after(self, delay_s: float, act: Callable[[], object]) -> None:
        """Call ``act`` after ``delay_s`` seconds or up to a step later."""
        self.at(self.now + delay_s, Timer(act))

    def turn(self) -> None:
        """Run all timers that are due."""
        now = self.now
        for item in self._take_due(now):
            _tick(item, now)

    async def run(self) -> None:
        """Run due timers until the task is cancelled. Many timers of one moment yield to other callbacks."""
        while True:
            await asyncio.sleep(1 / STEPS_PER_SECOND)
            now = self.now
            await for_each(self._take_due(now), partial(_tick, now=now))

    def _take_due(self, now: float) -> list[Tickable]:
        """Remove the timers that are due from the wheel, and return them in order."""
        last = self._step(now)
        # After a long sleep of the process, sort the buckets instead of visiting every step.
        if last - self._turned > len(self._buckets):
            due = sorted(step for step in self._buckets if step <= last)
        else:
            due = [step for step in range(self._turned + 1, last + 1) if step in self._buckets]
        self._turned = max(self._turned, last)
        return [item for step in due for item in self._buckets.pop(step)]

    @staticmethod
    def _step(when: float) -> int:
        return int((when + _ROUNDING_S) * STEPS_PER_SECOND)


def _tick(item: Tickable, now: float) -> bool | None:
    try:
        return item.tick(now)
    except Exception as error:
        # One failing timer must not stop the others.
        log.error("timer.failed", exc_info=error)
        return None
