"""Changes that a device reports, one value at a time, and their fan-out to all readers of the device."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from typing import Any
from weakref import WeakSet

Item = dict[str, Any]
"""An item as received, with exactly `times`, `for_device`, `category` and `body`; never changed in place."""


@dataclass(frozen=True, slots=True)
class Created:
    """An item was added to the copy."""

    id: str
    item: Item


@dataclass(frozen=True, slots=True)
class Dismissed:
    """An item was removed from the copy. `reason` is set if the server dismissed it: `expired`, `aggregated`, …"""

    id: str
    item: Item
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Reminded:
    """One reminder of an item fired; `at` is its `remind_at` in Unix seconds."""

    id: str
    item: Item
    at: float


@dataclass(frozen=True, slots=True)
class ExternalReceived:
    """A message of another system, for the subsystem of that name."""

    system: str
    seq: int
    body: Any


@dataclass(frozen=True, slots=True)
class ExternalGap:
    """External messages were lost for this device: every subsystem reloads its data (docs/semantics.md L13)."""


@dataclass(frozen=True, slots=True)
class FlushAnnounced:
    """The server starts a new epoch; a full copy follows within `spread_s` seconds. Keep showing this one (L14)."""

    spread_s: float


@dataclass(frozen=True, slots=True)
class Synced:
    """A sync object was applied: `full`, `delta` or `unchanged`. It follows the changes that it made.

    `is_proven` is false if the digest of the copy differs from the server's; the device then fetches a full copy (L10).
    """

    kind: str
    is_proven: bool = True


@dataclass(frozen=True, slots=True)
class MessageRefused:
    """The server refused a message for good; `state` no longer shows its effect. `problem` is an RFC 9457 document."""

    ref: int
    problem: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Overrun:
    """The reader was too slow and its pending changes were dropped: read the whole `state` again."""


@dataclass(frozen=True, slots=True)
class Stopped:
    """The server closed for good; the device does not reconnect. Close codes: websocket.md, "Closes"."""

    code: int
    reason: str


Change = (
    Created
    | Dismissed
    | Reminded
    | ExternalReceived
    | ExternalGap
    | FlushAnnounced
    | Synced
    | MessageRefused
    | Overrun
    | Stopped
)

# Readers, with a bounded queue for each.

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
