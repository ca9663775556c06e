"""Entries of a user's export: stored values that no other read returns (``Users.stored``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from gregor.core.ids import Prefixes
from gregor.core.items.sync import Removal, StoredExternal
from gregor.core.notify.ledger import DeliveryRecord

from .contract.devices import DeviceSession

PAGE: Final = 200
"""Entries that one step of an export reads."""


@dataclass(frozen=True, slots=True)
class StoredItemEntry:
    """An item, live or gone, with its hidings by device. ``json``: the item as clients get it.

    ``is_trimmed``: its body is no longer stored.
    """

    id: str
    seq: int
    json: bytes
    gone: Removal | None
    hidings: Mapping[str, Removal]
    is_trimmed: bool


@dataclass(frozen=True, slots=True)
class StoredTombstone:
    """The dismissal of an id that was unknown, by a device or (empty) the backend."""

    id: str
    device: str
    at_us: int
    category_filter: Prefixes


@dataclass(frozen=True, slots=True)
class RememberedInterval:
    """A remembered dismissal of a category or prefix. ``at_us``: its retention begins here."""

    category: str
    is_prefix: bool
    device: str
    begin_us: int
    end_us: int
    at_us: int
    skip: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RememberedMessageId:
    """The id of a message that must not be applied twice, with its sender (empty: the backend) and its system."""

    device: str
    system: str
    id: str


@dataclass(frozen=True, slots=True)
class RemovedDevice:
    """A device that was removed at a seq."""

    device: str
    seq: int


@dataclass(frozen=True, slots=True)
class ExternalEntry:
    """An external message and the time of its acceptance."""

    external: StoredExternal
    at_us: int


@dataclass(frozen=True, slots=True)
class AgendaEntry:
    """An entry of the agenda: its name, as the store has it, and its time."""

    name: str
    at_us: int


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """A delivery. ``dead_letter_us``: since when it is listed as a dead letter; ``None``: it is not."""

    record: DeliveryRecord
    dead_letter_us: int | None


@dataclass(frozen=True, slots=True)
class FirstSeen:
    """When a device was registered first."""

    device: str
    at_us: int


@dataclass(frozen=True, slots=True)
class SessionEntry:
    """A connection of a device, as the gateways know it."""

    device: str
    session: DeviceSession


@dataclass(frozen=True, slots=True)
class RevocationEntry:
    """Tokens of a device (``None``: of all) are revoked if they were issued at or before a time."""

    device: str | None
    issued_before_us: int


@dataclass(frozen=True, slots=True)
class TicketCount:
    """The number of tickets that are noted for the user."""

    count: int


StoredEntry = (
    StoredItemEntry
    | StoredTombstone
    | RememberedInterval
    | RememberedMessageId
    | RemovedDevice
    | ExternalEntry
    | AgendaEntry
    | LedgerEntry
    | FirstSeen
    | SessionEntry
    | RevocationEntry
    | TicketCount
)
