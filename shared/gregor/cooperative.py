"""Sharing the event loop: long loops that yield to others, and turns for the tasks of one owner."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Final, TypeVar

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


class Turns:
    """Lets at most ``most`` tasks of one owner run at a time. Further ones wait in their order."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._running: dict[str, int] = {}
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}

    @asynccontextmanager
    async def turn(self, owner: str) -> AsyncIterator[None]:
        """Wait for a turn of the owner; it ends with the block."""
        running = self._running.get(owner, 0)
        if running < self._most:
            self._running[owner] = running + 1
        else:
            await self._wait(owner)
        try:
            yield
        finally:
            self._end(owner)

    async def _wait(self, owner: str) -> None:
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(owner, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            # The turn may have come in the same step of the event loop.
            if turn.done() and not turn.cancelled():
                self._end(owner)
            raise

    def _end(self, owner: str) -> None:
        waiting = self._waiting.get(owner)
        while waiting:
            turn = waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._waiting.pop(owner, None)
        if self._running[owner] == 1:
            del self._running[owner]
        else:
            self._running[owner] -= 1
