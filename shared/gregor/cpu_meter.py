"""CPU time of one request: a meter drives its coroutines, and adds up the CPU time of their steps.

Other requests run while one waits, so the time between its steps does not count. Threads, and tasks whose coroutine is
not ``metered``, do not count either. The store adds what a read cost Redis, if that is known afterwards (``spend``).
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from contextvars import ContextVar
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class CpuMeter:
    """The CPU time of one request so far. ``now_ns``: see ``Clock.cpu_ns``.

    ``commit_ns``: the time of Redis for its commits, which is not in ``used_ns``.
    """

    __slots__ = ("commit_ns", "now_ns", "used_ns")

    def __init__(self, now_ns: Callable[[], int]) -> None:
        self.now_ns = now_ns
        self.used_ns = self.commit_ns = 0

    async def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine, and count its steps and those of the ``metered`` coroutines below it."""
        token = _current.set(self)
        try:
            return await _MeteredCoroutine(self, coroutine)
        finally:
            _current.reset(token)


_current: ContextVar[CpuMeter] = ContextVar("cpu_meter")


def metered(coroutine: Coroutine[Any, Any, T]) -> Coroutine[Any, Any, T]:
    """Return a coroutine for another task, as of ``asyncio.gather``, whose steps count for the running request."""
    meter = _current.get(None)
    return coroutine if meter is None else _MeteredCoroutine(meter, coroutine)


def spend(cost_ns: int) -> None:
    """Add the cost of another process to the running request, if it is measured."""
    meter = _current.get(None)
    if meter is not None:
        meter.used_ns += cost_ns


def spend_commit(cost_ns: int) -> None:
    """Add the time of Redis for a commit to the running request, if it is measured."""
    meter = _current.get(None)
    if meter is not None:
        meter.commit_ns += cost_ns


class _MeteredCoroutine(Coroutine[Any, Any, T], Generic[T]):
    __slots__ = ("_coroutine", "_meter")

    def __init__(self, meter: CpuMeter, coroutine: Coroutine[Any, Any, T]) -> None:
        self._meter = meter
        self._coroutine = coroutine

    def send(self, value: Any) -> Any:
        meter = self._meter
        began_ns = meter.now_ns()
        try:
            return self._coroutine.send(value)
        finally:
            meter.used_ns += meter.now_ns() - began_ns

    def throw(self, *error: Any) -> Any:
        meter = self._meter
        began_ns = meter.now_ns()
        try:
            return self._coroutine.throw(*error)
        finally:
            meter.used_ns += meter.now_ns() - began_ns

    def close(self) -> None:
        self._coroutine.close()

    # An iterator too, as `await` and tasks need it.
    def __await__(self) -> Generator[Any, Any, T]:
        return self

    def __iter__(self) -> _MeteredCoroutine[T]:
        return self

    def __next__(self) -> Any:
        # The same as ``send(None)``: almost every step comes here, and a call more would cost a tenth.
        meter = self._meter
        began_ns = meter.now_ns()
        try:
            return self._coroutine.send(None)
        finally:
            meter.used_ns += meter.now_ns() - began_ns
