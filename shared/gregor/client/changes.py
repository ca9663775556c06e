"""Changes that a device reports, one value at a time: items, external messages, and the end of the connection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

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
