"""Sharing the event loop: long loops that yield to others, steps that take turns, a limit for the tasks of one key."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final, TypeVar
from weakref import WeakValueDictionary

SLICE_S: Final = 0.0005
"""How long a loop runs before other callbacks of the event loop get their turn."""
MAX_CLOSED: Final = 8
"""Sockets that a loop closes before it yields. The loop's next turn does the work, at about 60 µs for each."""
CALLERS_A_TURN: Final = 8
"""Callers that continue in one iteration of the event loop if many waited for the same event, such as a failover.

Each takes 0.15 to 0.5 ms until its response. Other requests of the process wait for those of one iteration only.
"""
_Item = TypeVar("_Item")

_log = logging.getLogger(__name__)


async def for_each(
    items: Iterable[_Item], act: Callable[[_Item], bool | None], clock: Callable[[], float] = time.perf_counter
) -> None:
    """Call ``act`` for each item, and yield to the event loop after ``SLICE_S`` or ``MAX_CLOSED`` closed sockets.

    ``items`` must not change meanwhile. ``act`` returns true if it closed a socket. ``clock``: seconds.
    """
    ends, closed = clock() + SLICE_S, 0
    for item in items:
        closed += bool(act(item))
        if closed >= MAX_CLOSED or clock() >= ends:
            await asyncio.sleep(0)
            ends, closed = clock() + SLICE_S, 0


class Pacer:
    """Runs steps in the order of their arrival, ``steps_a_turn`` of them in each iteration of the event loop.

    ``name``: what the log calls the steps.
    """

    __slots__ = ("_name", "_steps_a_turn", "_taken", "_waiting")

    def __init__(self, name: str, steps_a_turn: int) -> None:
        self._name = name
        self._steps_a_turn = steps_a_turn
        self._taken = 0
        self._waiting: deque[Callable[[], object]] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def run(self, step: Callable[[], object]) -> bool:
        """Run a step, now or in a later iteration. Returns whether it has run."""
        if not self._taken:
            asyncio.get_running_loop().call_soon(self._next_turn)
        is_now = self._taken < self._steps_a_turn and not self._waiting
        if is_now:
            self._taken += 1
            step()
        else:
            self._waiting.append(step)
        return is_now

    async def wait_for_turn(self) -> None:
        """Wait until one more step may run. The code after this call counts as that step."""
        ready = asyncio.Event()
        if not self.run(ready.set):
            await ready.wait()

    def _next_turn(self) -> None:
        steps = [self._waiting.popleft() for _ in range(min(self._steps_a_turn, len(self._waiting)))]
        self._taken = len(steps)
        if steps:
            asyncio.get_running_loop().call_soon(self._next_turn)
        for step in steps:
            try:
                step()
            except Exception:
                # One failing step must not stop the others.
                _log.exception("pacer.step_failed steps=%s", self._name)


class KeyedSemaphore:
    """A semaphore for each key, such as a device: at most ``most`` tasks of one key run at a time.

    The others wait in their order. A semaphore that no task uses is not kept.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._semaphores: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    def __len__(self) -> int:
        return len(self._semaphores)

    def of(self, key: str) -> asyncio.Semaphore:
        """Return the semaphore of a key, for ``async with``."""
        semaphore = self._semaphores.get(key)
        if semaphore is None:
            semaphore = self._semaphores[key] = asyncio.Semaphore(self._most)
        return semaphore
