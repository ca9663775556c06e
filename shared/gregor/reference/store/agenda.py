"""Executable specification: never runs in production. The agenda: same entries, leases and times as the Lua scripts."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from gregor.config.values import DEFAULT_PARTITIONS
from gregor.core.items.sync import LiveItem
from gregor.core.messages.model import BY_BACKEND, Sender
from gregor.reference import agenda
from gregor.reference.agenda import MAIL
from gregor.reference.model import ItemRecord
from gregor.store.contract.agenda import (
    CLAIMED,
    MOST_TRACES,
    CompletedWork,
    DueWork,
    WorkKind,
    acked,
    claimed,
    settled,
    too_many_delayed,
)
from gregor.store.contract.devices import revoked_token
from gregor.store.redis.partitions import partitions_of

from .data import MemoryData

_PARTITIONS = partitions_of(DEFAULT_PARTITIONS)


@dataclass(frozen=True)
class MemoryItemGroups:
    """``contract.ItemGroups`` in memory."""

    seq: int
    items: Sequence[LiveItem]

    def of(self, category: str, for_device: str | None) -> list[LiveItem]:
        """See ``contract.ItemGroups.of``."""
        mine = [each for each in self.items if (each.category, each.for_device) == (category, for_device)]
        return sorted(mine, key=lambda item: (item.created_us, item.id))


class MemoryAgenda:
    """``contract.Agenda`` in memory."""

    def __init__(self, data: MemoryData) -> None:
        self._data = data
        self.server = 0
        """Tests increment it: another server has the same state."""

    @property
    def partition_count(self) -> int:
        """See ``contract.Agenda.partition_count``."""
        return _PARTITIONS.count

    async def next_due_times(self) -> dict[int, int | None]:
        """See ``contract.Agenda.next_due_times``."""
        firsts: dict[int, int | None] = dict.fromkeys(range(_PARTITIONS.count))
        for uid, at_us in self._data.due.items():
            known_us = firsts[_partition(uid)]
            firsts[_partition(uid)] = at_us if known_us is None else min(at_us, known_us)
        return firsts

    async def known_users(self, partitions: Sequence[int]) -> dict[int, list[str]]:
        """See ``contract.Agenda.known_users``."""
        users: dict[int, list[str]] = {partition: [] for partition in partitions}
        for uid in sorted(self._data.due):
            if (partition := _partition(uid)) in users:
                users[partition].append(uid)
        return users

    async def claim(self, partition: int, now_us: int, lease_until_us: int, most: int) -> list[str]:
        """See ``contract.Agenda.claim``."""
        due = self._data.due
        ready = sorted((at_us, uid) for uid, at_us in due.items() if at_us <= now_us and _partition(uid) == partition)
        claimed = [uid for _, uid in ready[:most]]
        due.update(dict.fromkeys(claimed, lease_until_us))
        return claimed

    async def due_work(self, uid: str, now_us: int, most: int, skip: int = 0) -> list[DueWork]:
        """See ``contract.Agenda.due_work``."""
        due = [(at_us, name.encode()) for name, at_us in self._data.agenda(uid).items() if at_us <= now_us]
        return [self._work(uid, entry, at_us) for at_us, entry in sorted(due)[skip : skip + most]]

    async def keep_trace(self, uid: str, items: Sequence[str], trace: bytes) -> None:
        """See ``contract.Agenda.keep_trace``. They stay longer than a day."""
        traces = self._data.owner(uid).traces
        if len(traces) + len(items) > MOST_TRACES:
            traces.clear()
        traces.update(dict.fromkeys(items, trace))

    def server_of(self, uid: str) -> object:
        """See ``contract.Agenda.server_of``."""
        return self.server

    async def complete(
        self,
        uid: str,
        lease_until_us: int,
        done: Sequence[CompletedWork],
        postponed: Sequence[DueWork] = (),
        retry_us: int = 0,
        now_us: int = 0,
        server: object = None,
    ) -> None:
        """See ``contract.Agenda.complete``."""
        if server is not None and server != self.server_of(uid):
            done = ()
        is_ours = self._data.due.get(uid) == lease_until_us
        entries = self._data.agenda(uid)
        for each in done:
            name = each.work.entry.decode()
            if entries.get(name) != each.work.at_us or self._is_unclaimed(uid, name):
                continue
            again_us = each.again_us
            if each.seq is not None and each.seq == self._seq(uid):
                again_us = None
            self._move(uid, name, again_us)
            if again_us is not None and not is_ours:
                self._data.note(uid, [again_us])
        if is_ours:
            self._data.reschedule(uid, now_us, held={work.entry.decode(): retry_us for work in postponed})

    async def category_items(self, uid: str, categories: Collection[str]) -> MemoryItemGroups:
        """See ``contract.Agenda.category_items``."""
        user = self._data.users.get(uid)
        records = [] if user is None else user.live.values()
        found = [live_item(record) for record in records if record.item.category in categories]
        return MemoryItemGroups(self._seq(uid), found)

    async def live_item(self, uid: str, item: str) -> LiveItem | None:
        """See ``contract.Agenda.live_item``."""
        user = self._data.users.get(uid)
        record = None if user is None else user.live.get(item)
        return None if record is None else live_item(record)

    async def mailable(
        self, uid: str, item: str, is_wanted: Callable[[str], bool], most: int
    ) -> list[tuple[LiveItem, int | None]]:
        """See ``contract.Agenda.mailable``."""
        user = self._data.users.get(uid)
        records = [] if user is None else [each for each in user.live.values() if is_wanted(each.item.category)]
        records.sort(key=lambda record: (record.item.id == item, record.seq), reverse=True)
        timers = self._data.agenda(uid)
        return [(live_item(record), timers.get(MAIL + record.item.id)) for record in records[:most]]

    async def delay(
        self, uid: str, message_id: str, document: bytes, not_before_us: int, sender: Sender = BY_BACKEND
    ) -> bytes:
        """See ``contract.Agenda.delay``."""
        if 0 < sender.issued_us <= (self._data.revoked_before(uid, sender.device) or 0):
            raise revoked_token()
        owner = self._data.owner(uid)
        if message_id not in owner.delayed_messages:
            limits, size = self._data.limits, sum(map(len, owner.delayed_messages.values())) + len(document)
            if len(owner.delayed_messages) >= limits.delayed or size > limits.delayed_bytes:
                raise too_many_delayed(self._data.limits)
            owner.delayed_messages[message_id] = document
            owner.agenda["d" + message_id] = not_before_us
            self._data.note(uid, [not_before_us])
        return owner.delayed_messages[message_id]

    async def delayed(self, uid: str, message_id: str) -> bytes | None:
        """See ``contract.Agenda.delayed``."""
        return self._data.owner(uid).delayed_messages.get(message_id)

    async def list_delayed(self, uid: str, message_ids: Sequence[str] | None = None) -> list[bytes]:
        """See ``contract.Agenda.list_delayed``."""
        delayed = self._data.owner(uid).delayed_messages
        return [delayed[name] for name in (delayed if message_ids is None else message_ids) if name in delayed]

    async def count_delayed(self, uid: str) -> int:
        """See ``contract.Agenda.count_delayed``."""
        return len(self._data.owner(uid).delayed_messages)

    async def delayed_bytes(self, uid: str, message_id: str | None = None) -> int:
        """See ``contract.Agenda.delayed_bytes``."""
        delayed = self._data.owner(uid).delayed_messages
        return sum(len(document) for name, document in delayed.items() if message_id in (None, name))

    async def delayed_sizes(self, uid: str) -> dict[str, int]:
        """See ``contract.Agenda.delayed_sizes``."""
        return {name: len(document) for name, document in self._data.owner(uid).delayed_messages.items()}

    async def claim_delayed(self, uid: str, message_id: str, document: bytes) -> bool:
        """See ``contract.Agenda.claim_delayed``."""
        return await self.replace_delayed(uid, message_id, document, claimed(document))

    async def replace_delayed(self, uid: str, message_id: str, expected: bytes, document: bytes) -> bool:
        """See ``contract.Agenda.replace_delayed``."""
        delayed = self._data.owner(uid).delayed_messages
        if delayed.get(message_id) != expected:
            return False
        delayed[message_id] = document
        return True

    async def cancel_delayed(self, uid: str, message_id: str, document: bytes | None = None) -> bool:
        """See ``contract.Agenda.cancel_delayed``."""
        owner = self._data.owner(uid)
        stored = owner.delayed_messages.get(message_id)
        if stored is None or (stored.startswith(CLAIMED) if document is None else stored != document):
            return False
        del owner.agenda["d" + message_id], owner.delayed_messages[message_id]
        return True

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
        user = self._data.users.get(uid)
        record = user.live.get(item_id) if user is not None and chr(entry[0]) in "rpqn" else None
        item = live_item(record) if record is not None else None
        n, cause = 0, item.seq if item else 0
        if kind is WorkKind.FOLLOW:
            n, cause = int(rest[0]), int(rest[1])
        elif kind is WorkKind.REMIND and item is not None and at_us in item.remind_at_us:
            n, cause = item.remind_at_us.index(at_us), 0
        trace = b"" if item is None else self._data.owner(uid).traces.get(item_id, b"")
        return DueWork(kind, item_id, at_us, entry, item, n, cause, trace=trace)

    def _left(self, uid: str, name: str, entry: bytes, at_us: int) -> DueWork:
        user = self._data.users.get(uid)
        record = user.gone.get(name) if user is not None else None
        if record is None or record.gone is None:
            return DueWork(WorkKind.LEFT, name, at_us, entry)
        return DueWork(WorkKind.LEFT, name, at_us, entry, live_item(record), 0, record.gone.seq, record.gone)

    def _hidden(self, uid: str, name: str, entry: bytes, at_us: int) -> DueWork:
        item_id, device = name.split("\0")
        user = self._data.users.get(uid)
        record = user.record(item_id) if user is not None else None
        gone = record.hidings.get(device) if record is not None else None
        if record is None or gone is None:
            return DueWork(WorkKind.HIDDEN, item_id, at_us, entry)
        return DueWork(WorkKind.HIDDEN, item_id, at_us, entry, live_item(record), 0, gone.seq, gone)

    def _seq(self, uid: str) -> int:
        user = self._data.users.get(uid)
        return 0 if user is None else user.seq

    def _is_unclaimed(self, uid: str, name: str) -> bool:
        """Return whether an entry is that of a delayed message which was sent again after it was read."""
        return name[0] == "d" and not self._data.owner(uid).delayed_messages.get(name[1:], CLAIMED).startswith(CLAIMED)

    def _move(self, uid: str, name: str, at_us: int | None) -> None:
        user, owner = self._data.users.get(uid), self._data.owner(uid)
        if name == "g":
            # The state decides when garbage is collected; only the time of the next check can be moved.
            if user is not None and at_us is not None:
                user.collect_at_us = at_us
        elif name in owner.agenda:
            agenda.apply_changes(owner.agenda, {name: at_us})
            if at_us is None and name[0] == "d":
                owner.delayed_messages.pop(name[1:], None)
        elif user is not None:
            agenda.apply_changes(user.agenda, {name: at_us})


def live_item(record: ItemRecord) -> LiveItem:
    """Return a live record for scheduled work."""
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
    return _PARTITIONS.of_user(uid)
