"""The part of the store contract about push decisions: everything that decides a push, in one read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Protocol

import msgspec

from gregor.core.items.sync import Cursor, StoredItem, View
from gregor.core.notify.contact import Contact, Preferences
from gregor.core.notify.ledger import PendingWithdrawals

from .devices import PresenceStatus, Registration

NO_LIMIT: Final = 1 << 31
"""More live items, or waiting withdrawals, than a user can have."""


class PushContext(msgspec.Struct, frozen=True):
    """Everything that decides whether a device gets a push for an item, as of one moment.

    Attributes:
        acks: The acknowledged seq of each view of the device.
        item: The item, if the device sees it live.
        counts: For each category of the push registration the number of live items that the device sees. ``None``:
            they cost too much to count.
        cursor: The position of the device's view, within the category filter of the push registration.
    """

    registration: Registration
    presence: PresenceStatus
    acks: Mapping[View, int]
    contact: Contact
    preferences: Preferences
    withdrawals: PendingWithdrawals
    item: StoredItem | None
    counts: Mapping[str, int] | None
    cursor: Cursor


class PushContexts(Protocol):
    """Consistent reads for push decisions (semantics.md L15)."""

    async def read(
        self,
        uid: str,
        device: str,
        channel: str,
        item: str,
        now_us: int,
        *,
        most_counted: int = NO_LIMIT,
        most_waiting: int = NO_LIMIT,
    ) -> PushContext | None:
        """Return the context, or ``None`` if the user does not have the device.

        Due work is committed first, as by any read.

        ``withdrawals`` are those of ``channel``. ``most_counted``: ``counts`` is ``None`` if the user has more live
        items. A store may also omit it if their records are long: more than 1 KiB of JSON, or four dismissals by
        single devices, for each item of this number. A full count holds Redis for up to 5 ms. ``most_waiting``: waiting
        withdrawals are read only if the user has about this many or fewer.
        """
        ...
