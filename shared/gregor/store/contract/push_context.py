"""What a store promises of the moment of a push; a part of ``contract.Store``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import msgspec

from gregor.core.items.sync import Cursor, StoredItem, View
from gregor.core.notify.contact import Contact, Preferences
from gregor.core.notify.ledger import PendingWithdrawals

from .devices import PresenceStatus, Registration


class PushContext(msgspec.Struct, frozen=True):
    """All that decides whether a device is told of an item, as of one moment.

    ``item``: where the device sees it live. ``counts``: category → live items of it that the device sees. ``cursor``:
    the position of the device's view.
    """

    registration: Registration
    presence: PresenceStatus
    acks: Mapping[View, int]
    contact: Contact
    preferences: Preferences
    withdrawals: PendingWithdrawals
    item: StoredItem | None
    counts: Mapping[str, int]
    cursor: Cursor


class PushContexts(Protocol):
    """The state as one device has it, with all around it, read in one step (semantics.md L15)."""

    async def read(self, uid: str, device: str, channel: str, item: str, now_us: int) -> PushContext | None:
        """``None`` where the user has no such device. What is due is committed first, as by any read.

        ``withdrawals`` are those of ``channel``.
        """
        ...
