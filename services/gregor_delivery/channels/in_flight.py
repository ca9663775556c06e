"""Drain: wait until no operation is in flight."""

from __future__ import annotations

import asyncio
from types import TracebackType


class InFlight:
    """Counts the operations that run inside of `with`; `drain` waits until there are none."""

    __slots__ = ("_count", "_is_idle")

    def __init__(self) -> None:
        self._count = 0
        self._is_idle = asyncio.Event()
        self._is_idle.set()

    def __enter__(self) -> None:
        self.enter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.leave()

    def enter(self) -> None:
        """Count an operation that starts."""
        self._count += 1
        self._is_idle.clear()

    def leave(self) -> None:
        """Count an operation that ends."""
        self._count -= 1
        if not self._count:
            self._is_idle.set()

    async def drain(self) -> None:
        """Wait until no operation is in flight."""
        await self._is_idle.wait()
