"""Hands each change to every reader of `Device.changes`, with a bound for those that do not keep up."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable
from weakref import WeakSet

from .changes import Change, Overrun

MOST_WAITING = 10_000
"""Changes that may wait for one reader; five full copies of the largest state."""


class Reader:
    """One consumer's queue, as an async iterator."""

    def __init__(self) -> None:
        self._waiting: deque[Change] = deque()
        self._something = asyncio.Event()
        self._is_ended = False

    def __aiter__(self) -> AsyncIterator[Change]:
        return self

    async def __anext__(self) -> Change:
        while not self._waiting:
            if self._is_ended:
                raise StopAsyncIteration
            self._something.clear()
            await self._something.wait()
        return self._waiting.popleft()

    def tell(self, changes: Iterable[Change]) -> None:
        """Add to the queue; over the bound one `Overrun` takes the place of all that waits."""
        self._waiting.extend(changes)
        if len(self._waiting) > MOST_WAITING:
            self._waiting.clear()
            self._waiting.append(Overrun())
        self._something.set()

    def end(self) -> None:
        """Nothing more will come; what waits is still read."""
        self._is_ended = True
        self._something.set()


class Readers:
    """All readers of one device."""

    def __init__(self) -> None:
        # Weak: a consumer that leaves its loop drops the iterator, and with it the queue.
        self._readers: WeakSet[Reader] = WeakSet()
        self._is_ended = False

    def subscribe(self) -> Reader:
        """A reader of everything from now on."""
        reader = Reader()
        if self._is_ended:
            reader.end()
        self._readers.add(reader)
        return reader

    def tell(self, changes: Iterable[Change]) -> None:
        """Tell all readers."""
        told = tuple(changes)
        for reader in self._readers:
            reader.tell(told)

    def end(self) -> None:
        """Nothing more will come, for anybody."""
        self._is_ended = True
        for reader in self._readers:
            reader.end()
