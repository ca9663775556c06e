"""Pacing of handshakes: a storm of reconnects must not delay the frames of the devices that are connected.

A connection takes 1 ms of CPU until its first sync object. Without a limit, the requests and hellos of 4,000 devices
that arrive together are answered in one iteration of the event loop, and all other devices wait for more than a second
(docs/performance.md, benchmark `storm`). Requests of streams and polls take turns too.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

import structlog

log = structlog.get_logger(__name__)

STEPS_A_TURN: Final = 8
"""Steps in one iteration of the event loop: with the work that follows from them, it takes about 8 ms."""


class HandshakePacer:
    """Runs the steps of handshakes in the order of their arrival, some in each iteration of the event loop."""

    __slots__ = ("_taken", "_waiting")

    def __init__(self) -> None:
        self._taken = 0
        self._waiting: deque[Callable[[], object]] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def run(self, step: Callable[[], object]) -> bool:
        """Run a step, now or in a later iteration. Returns whether it has run."""
        if not self._taken:
            asyncio.get_running_loop().call_soon(self._next_turn)
        is_now = self._taken < STEPS_A_TURN and not self._waiting
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
        steps = [self._waiting.popleft() for _ in range(min(STEPS_A_TURN, len(self._waiting)))]
        self._taken = len(steps)
        if steps:
            asyncio.get_running_loop().call_soon(self._next_turn)
        for step in steps:
            try:
                step()
            except Exception as error:
                # One failing handshake must not stop the others.
                log.error("handshake.failed", exc_info=error)
