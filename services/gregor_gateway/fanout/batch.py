"""Batching of store reads: many keys in one call, one call at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from itertools import islice
from typing import Generic, TypeVar

from gregor_gateway.runtime.background import BackgroundTasks

Key = TypeVar("Key", bound=Hashable)


class Batcher(Generic[Key]):
    """A queue of keys that are processed in batches of at most ``batch_size``.

    A key that is added again before its batch starts is processed once. ``process`` gets each key with its flag, and
    must not raise ``Unavailable``. ``pause_s``: time between two batches, in which other work of the machine runs.
    """

    def __init__(
        self,
        background: BackgroundTasks,
        batch_size: int,
        process: Callable[[dict[Key, bool]], Awaitable[None]],
        *,
        pause_s: float = 0.0,
    ) -> None:
        self._background = background
        self._batch_size = batch_size
        self._process = process
        self._pause_s = pause_s
        self._queued: dict[Key, bool] = {}
        self._is_running = False

    def add(self, key: Key, *, flag: bool = False) -> None:
        """Process a key soon. The flag is set if any caller sets it before the batch starts."""
        # A dict is an ordered set here: first added, first processed.
        self._queued[key] = flag or self._queued.get(key, False)
        if not self._is_running:
            self._is_running = True
            self._background.start(self._run())

    async def _run(self) -> None:
        try:
            while self._queued:
                keys = list(islice(self._queued, self._batch_size))
                await self._process({key: self._queued.pop(key) for key in keys})
                if self._queued:
                    await asyncio.sleep(self._pause_s)
        finally:
            self._is_running = False
