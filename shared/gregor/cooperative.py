"""Long loops that yield to the event loop: thousands of timers or connections must not delay one request."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
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
