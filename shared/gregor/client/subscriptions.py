"""Fan-out of a device's changes to all its readers, with a bounded queue for each."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable
from weakref import WeakSet

from .changes import Change, Overrun

MAX_PENDING = 10_000
"""Changes that may wait for one reader: five full copies of the largest state."""


class ChangeReader:
    """The queue of one reader, as an async iterator."""

    def __init__(self) -> None:
        self._pending: deque[Change] = deque()
        self._has_changes = asyncio.Event()
        self._is_ended = False

    def __aiter__(self) -> AsyncIterator[Change]:
        return self

    async def __anext__(self) -> Change:
        while not self._pending:
            if self._is_ended:
                raise StopAsyncIteration
            self._has_changes.clear()
            await self._has_changes.wait()
        return self._pending.popleft()

    def take_pending(self) -> list[Change]:
        """Remove and return the changes that wait. The changes of one frame are enqueued together."""
        pending = list(self._pending)
        self._pending.clear()
        return pending

    def publish(self, changes: Iterable[Change]) -> None:
        """Enqueue the changes; if the reader is too slow, one `Overrun` replaces everything that is pending."""
        self._pending.extend(changes)
        if len(self._pending) > MAX_PENDING:
            self._pending.clear()
            self._pending.append(Overrun())
        self._has_changes.set()

    def end(self) -> None:
        """End the iteration after the pending changes."""
        self._is_ended = True
        self._has_changes.set()


class ChangeSubscriptions:
    """All readers of one device."""

    def __init__(self) -> None:
        # Weak: a reader that leaves its loop drops the iterator, and with it the queue.
        self._readers: WeakSet[ChangeReader] = WeakSet()
        self._is_ended = False

    def subscribe(self) -> ChangeReader:
        """Return a reader of all changes from now on."""
        reader = ChangeReader()
        if self._is_ended:
            reader.end()
        self._readers.add(reader)
        return reader

    def publish(self, changes: Iterable[Change]) -> None:
        """Enqueue the changes for all readers."""
        published = tuple(changes)
        for reader in self._readers:
            reader.publish(published)

    def end(self) -> None:
        """End the iteration of all readers, present and future."""
        self._is_ended = True
        for reader in self._readers:
            reader.end()
