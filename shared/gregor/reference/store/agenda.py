"""The agenda in memory: the same entries, leases and times as the scripts of the Redis store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from zlib import crc32

from gregor.core.items.sync import LiveItem
from gregor.reference import agenda
from gregor.reference.agenda import MAIL
from gregor.reference.model import ItemRecord
from gregor.store.contract.agenda import CompletedWork, DueWork, WorkKind, acked, settled, too_many_delayed
from gregor.store.redis.keys import PARTITIONS

from .data import MemoryData


class MemoryAgenda:
    """``agenda.Agenda`` over dictionaries."""

    def __init__(self, shelf: MemoryData) -> None:
        self._shelf = shelf

    async def next_due_times(self) -> list[int | None]:
        """As ``Agenda`` says."""
        firsts: list[int | None] = [None] * PARTITIONS
        for uid, at_us in self._shelf.due.items():
            known_us = firsts[_partition(uid)]
            firsts[_partition(uid)] = at_us if known_us is None else min(at_us, known_us)
        return firsts

    async def claim(self, partition: int, now_us: int, lease_until_us: int, most: int) -> list[str]:
        """As ``Agenda`` says."""
        due = self._shelf.due
        ready = sorted((at_us, uid) for uid, at_us in due.items() if at_us <= now_us and _partition(uid) == partition)
        claimed = [uid for _, uid in ready[:most]]
        due.update(dict.fromkeys(claimed, lease_until_us))
        return claimed

    async def due_work(self, uid: str, now_us: int, most: int, skip: int = 0) -> list[DueWork]:
        """As ``Agenda`` says."""
        due = [(at_us, name.encode()) for name, at_us in self._shelf.agenda(uid).items() if at_us <= now_us]
        return [self._work(uid, entry, at_us) for at_us, entry in sorted(due)[skip : skip + most]]

    async def complete(
        self,
        uid: str,
        lease_until_us: int,
        done: Sequence[CompletedWork],
        postponed: Sequence[DueWork] = (),
        retry_us: int = 0,
    ) -> None:
        """As ``Agenda`` says."""
        is_ours = self._shelf.due.get(uid) == lease_until_us
        entries = self._shelf.agenda(uid)
        for each in done:
            name = each.work.entry.decode()
            if entries.get(name) != each.work.at_us:
                continue
            again_us = each.again_us
            if each.seq is not None and each.seq == self._seq(uid):
                again_us = None
            self._move(uid, name, again_us)
            if again_us is not None and not is_ours:
                self._shelf.note(uid, [again_us])
        if is_ours:
            self._shelf.reschedule(uid, held={work.entry.decode(): retry_us for work in postponed})

    async def category_items(self, uid: str, category: str, for_device: str | None) -> tuple[int, list[LiveItem]]:
        """As ``Agenda`` says."""
        user = self._shelf.users.get(uid)
        records = [] if user is None else user.live.values()
        found = [live_item(record) for record in records if record.item.category == category]
        mine = [item for item in found if item.for_device == for_device]
        return self._seq(uid), sorted(mine, key=lambda item: (item.created_us, item.id))

    async def mailable(
        self, uid: str, item: str, is_wanted: Callable[[str], bool], most: int
    ) -> list[tuple[LiveItem, int | None]]:
        """As ``Agenda`` says."""
        user = self._shelf.users.get(uid)
        records = [] if user is None else [each for each in user.live.values() if is_wanted(each.item.category)]
        records.sort(key=lambda record: (record.item.id == item, record.seq), reverse=True)
        timers = self._shelf.agenda(uid)
        return [(live_item(record), timers.get(MAIL + record.item.id)) for record in records[:most]]

    async def delay(self, uid: str, message_id: str, document: bytes, not_before_us: int) -> bytes:
        """As ``Agenda`` says."""
        owner = self._shelf.owner(uid)
        if message_id not in owner.later:
            if len(owner.later) >= self._shelf.limits.delayed:
                raise too_many_delayed(self._shelf.limits)
            owner.later[message_id] = document
            owner.agenda["d" + message_id] = not_before_us
            self._shelf.note(uid, [not_before_us])
        return owner.later[message_id]

    async def delayed(self, uid: str, message_id: str) -> bytes | None:
        """As ``Agenda`` says."""
        return self._shelf.owner(uid).later.get(message_id)

    async def cancel_delayed(self, uid: str, message_id: str) -> bool:
        """As ``Agenda`` says."""
        owner = self._shelf.owner(uid)
        owner.agenda.pop("d" + message_id, None)
        return owner.later.pop(message_id, None) is not None

    def _work(self, uid: str, entry: bytes, at_us: int) -> DueWork:
        kind, name = WorkKind(chr(entry[0])), entry[1:].decode()
        if kind is WorkKind.LEFT:
            return self._left(uid, name, entry, at_us)
        if kind is WorkKind.HIDDEN:
            return self._hidden(uid, name, entry, at_us)
        if kind is WorkKind.ACKED:
            return acked(entry, at_us)
        if kind is WorkKind.SETTLED:
            return settled(entry, at_us)
        item_id, *rest = name.split("\0") if kind is WorkKind.FOLLOW else [name]
        user = self._shelf.users.get(uid)
        record = user.live.get(item_id) if user is not None and chr(entry[0]) in "rpqn" else None
        item = live_item(record) if record is not None else None
        n, cause = 0, item.seq if item else 0
        if kind is WorkKind.FOLLOW:
            n, cause = int(rest[0]), int(rest[1])
        elif kind is WorkKind.REMIND and item is not None and at_us in item.remind_at_us:
            n, cause = item.remind_at_us.index(at_us), 0
        return DueWork(kind, item_id, at_us, entry, item, n, cause)

    def _left(self, uid: str, name: str, entry: bytes, at_us: int) -> DueWork:
        user = self._shelf.users.get(uid)
        record = user.gone.get(name) if user is not None else None
        if record is None or record.gone is None:
            return DueWork(WorkKind.LEFT, name, at_us, entry)
        return DueWork(WorkKind.LEFT, name, at_us, entry, live_item(record), 0, record.gone.seq, record.gone)

    def _hidden(self, uid: str, name: str, entry: bytes, at_us: int) -> DueWork:
        item_id, device = name.split("\0")
        user = self._shelf.users.get(uid)
        record = user.record(item_id) if user is not None else None
        gone = record.hidings.get(device) if record is not None else None
        if record is None or gone is None:
            return DueWork(WorkKind.HIDDEN, item_id, at_us, entry)
        return DueWork(WorkKind.HIDDEN, item_id, at_us, entry, live_item(record), 0, gone.seq, gone)

    def _seq(self, uid: str) -> int:
        user = self._shelf.users.get(uid)
        return 0 if user is None else user.seq

    def _move(self, uid: str, name: str, at_us: int | None) -> None:
        user, owner = self._shelf.users.get(uid), self._shelf.owner(uid)
        if name == "g":
            # What is to be forgotten is told by the state; only its time can be put off.
            if user is not None and at_us is not None:
                user.collect_at_us = at_us
        elif name in owner.agenda:
            agenda.apply(owner.agenda, {name: at_us})
            if at_us is None and name[0] == "d":
                owner.later.pop(name[1:], None)
        elif user is not None:
            agenda.apply(user.agenda, {name: at_us})


def live_item(record: ItemRecord) -> LiveItem:
    """A live record as those who act at a time need it."""
    item = record.item
    return LiveItem(
        item.id,
        item.category,
        item.for_device,
        item.created_us,
        record.seq,
        item.expires_us,
        item.remind_at_us,
        item.json,
        frozenset(record.hidings),
    )


def _partition(uid: str) -> int:
    return crc32(uid.encode()) % PARTITIONS
