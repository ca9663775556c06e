"""Executable specification: never runs in production. Everything that decides a push, in one read.

The view of the device comes from ``queries.state``; see semantics.md, "Where each rule lives".
"""

from __future__ import annotations

from collections import Counter

from gregor.core.ids import is_allowed
from gregor.core.items.sync import View, cursor_for
from gregor.store.contract.push_context import NO_LIMIT, PushContext

from .contacts import MemoryContacts
from .devices import MemoryDevices
from .ledger import MemoryLedger
from .users import MemoryUsers


class MemoryPushContexts:
    """``contract.PushContexts`` over the other parts of the store. No other task runs between its reads."""

    def __init__(
        self, users: MemoryUsers, devices: MemoryDevices, contacts: MemoryContacts, ledger: MemoryLedger
    ) -> None:
        self._users = users
        self._devices = devices
        self._contacts = contacts
        self._ledger = ledger

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
        """See ``contract.PushContexts.read``."""
        known = await self._devices.device(uid, device, now_us)
        if known is None:
            return None
        copy = await self._users.state(uid, View(device), now_us)
        push_filter = known[0].push_filter
        counted = (each.category for each in copy.items if is_allowed(push_filter, each.category))
        live = (await self._users.sizes(uid)).live
        return PushContext(
            *known,
            {view: seq for view, seq in (await self._devices.acknowledged(uid)).items() if view.device == device},
            await self._contacts.contact(uid),
            await self._contacts.preferences(uid),
            await self._ledger.withdrawals(uid, device, channel, most_waiting),
            next((each for each in copy.items if each.id == item), None),
            None if live > most_counted else Counter(counted),
            cursor_for(copy.epoch, View(device, push_filter), copy.seq),
        )
