"""An event loop whose time moves only when a test says so: timers of minutes run in microseconds, in a fixed order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

_T = TypeVar("_T")


class ManualLoop(asyncio.SelectorEventLoop):
    """A loop for code without sockets. ``settle`` runs what is ready; ``advance`` moves the time."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1_000.0
        self.failures: list[dict[str, Any]] = []
        self.set_exception_handler(lambda _, context: self.failures.append(context))

    def time(self) -> float:
        return self.now

    def inside(self, action: Callable[[], object]) -> None:
        """Run a function in the loop, and everything that follows from it at once."""
        self.call_soon(action)
        self.settle()

    def settle(self) -> None:
        """Run callbacks and tasks until none is ready. Raises if one of them failed."""
        self._settle()
        if self.failures:
            context = self.failures.pop()
            raise AssertionError(str(context)) from context.get("exception")

    def _settle(self) -> None:
        ready: Any = self._ready  # type: ignore[attr-defined]
        while ready:
            self.call_soon(self.stop)
            self.run_forever()
            if len(ready) == 0:
                return

    def advance(self, seconds: float) -> None:
        """Move the time, and run each timer at its own time."""
        until = self.now + seconds
        self.settle()
        while (when := self.next_timer()) is not None and when <= until:
            self.now = max(self.now, when)
            self.call_soon(self.stop)
            self.run_forever()
            self.settle()
        self.now = until

    def complete(self, coroutine: Coroutine[Any, Any, _T], within_s: float = 60.0) -> _T:
        """Run a coroutine, moving the time as far as it needs."""
        task = self.create_task(coroutine)
        until = self.now + within_s
        self.settle()
        while not task.done():
            when = self.next_timer()
            assert when is not None and when <= until, "the coroutine waits for something that never happens"
            self.advance(max(0.0, when - self.now))
        return task.result()

    def next_timer(self) -> float | None:
        """Return the time of the next timer."""
        scheduled: Any = self._scheduled  # type: ignore[attr-defined]
        return min((timer.when() for timer in scheduled if not timer.cancelled()), default=None)
