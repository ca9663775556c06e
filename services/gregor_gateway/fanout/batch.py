"""Asking the store about many rooms: so many a call, and one call at a time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from itertools import islice
from typing import TYPE_CHECKING

from gregor_gateway.runtime.background import BackgroundTasks

if TYPE_CHECKING:
    from .hub import UserChannel

Ask = Callable[[dict["UserChannel", bool]], Awaitable[None]]
"""Asks about some rooms; must not raise for what the store does."""


class Batcher:
    """Rooms that wait to be asked about, up to ``at_once`` a call; one that is wanted twice meanwhile is one."""

    def __init__(self, background: BackgroundTasks, at_once: int, ask: Ask) -> None:
        self._background = background
        self._at_once = at_once
        self._ask = ask
        self._wanted: dict[UserChannel, bool] = {}
        self._is_running = False

    def want(self, channel: UserChannel, *, is_sure: bool = False) -> None:
        """Ask about it soon. ``is_sure`` is passed on: whether anybody who wanted it said so."""
        self._wanted[channel] = is_sure or self._wanted.get(channel, False)
        if not self._is_running:
            self._is_running = True
            self._background.start(self._run())

    async def _run(self) -> None:
        try:
            while self._wanted:
                some = list(islice(self._wanted, self._at_once))
                await self._ask({channel: self._wanted.pop(channel) for channel in some})
        finally:
            self._is_running = False
