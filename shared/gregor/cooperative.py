"""Sharing the event loop: long loops that yield to others, and a limit for the tasks of one key."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Final, TypeVar
from weakref import WeakValueDictionary

SLICE_S: Final = 0.0005
"""How long a loop runs before other callbacks of the event loop get their turn."""
MAX_CLOSED: Final = 8
"""Sockets that a loop closes before it yields. The loop's next turn does the work, at about 60 µs for each."""
_Item = TypeVar("_Item")


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
