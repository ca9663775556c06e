"""What happens to a device, told one value at a time: changes of its copy, external messages, the end of the line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Item = dict[str, Any]
"""An item as it came: exactly `times`, `for_device`, `category`, `body`; never changed in place."""


@dataclass(frozen=True, slots=True)
class Created:
    """An item entered the copy."""

    id: str
    item: Item


@dataclass(frozen=True, slots=True)
class Dismissed:
    """An item left the copy. `reason` is told where the server made the dismissal: `expired`, `aggregated`, …"""

    id: str
    item: Item
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Reminded:
    """One `remind_at` of an item came due; `at` is that time in Unix seconds."""

    id: str
    item: Item
    at: float


@dataclass(frozen=True, slots=True)
class ExternalReceived:
    """A message of another system: to be handed to the subsystem of that name."""

    system: str
    seq: int
    body: Any


@dataclass(frozen=True, slots=True)
class ExternalGap:
    """External messages were missed for good: every subsystem reloads what it shows (semantics.md L13)."""


@dataclass(frozen=True, slots=True)
class FlushAnnounced:
    """The server starts a new epoch; the full copy comes by itself within `spread_s`. Go on showing this one (L14)."""

    spread_s: float


@dataclass(frozen=True, slots=True)
class Synced:
    """A sync object was applied: `full`, `delta` or `unchanged`. Told after the changes that it made.

    `is_proven` is false where the copy's digest is not the server's: the copy is then fetched anew (L10).
    """

    kind: str
    is_proven: bool = True


@dataclass(frozen=True, slots=True)
class MessageRefused:
    """A message of the outbox was refused for good; its pending overlay is gone. `problem` is the RFC 9457 document."""

    ref: int
    problem: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Overrun:
    """The reader of these changes was too slow and some were dropped: read the whole state again."""


@dataclass(frozen=True, slots=True)
class Stopped:
    """The server closed for good; the device does not reconnect. `code` and `reason` as in `core.close_codes`."""

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
