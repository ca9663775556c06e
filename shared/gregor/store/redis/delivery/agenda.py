"""The agenda in Redis: one sorted set for each user, and the due users of each partition."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Final

from gregor.core.items.sync import LiveItem
from gregor.core.limits import Limits
from gregor.core.messages.model import BY_BACKEND, Sender
from gregor.redis.commands import RedisCommands, Script
from gregor.redis.errors import RedisUnavailable, ReplyError
from gregor.redis.reads import call_each_node
from gregor.store.contract.agenda import (
    MOST_TRACES,
    TRACES_KEPT_S,
    CompletedWork,
    DueWork,
    WorkKind,
    acked,
    claimed,
    settled,
    too_many_delayed,
)
from gregor.store.contract.devices import revoked_token
from gregor.store.documents import check_document
from gregor.store.redis import scripts
from gregor.store.redis.errors import result_of, result_or_raise, results_of, results_of_reached
from gregor.store.redis.keys import Keys
from gregor.store.redis.replication import Incarnation
from gregor.store.redis.users.record_codec import (
    HEAD,
    LiveRecord,
    decode_gone,
    decode_head,
    decode_live,
    group_of,
    packed_group,
    record_kind,
)

_NOT_EXECUTED: Final = ("MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN", "READONLY", "LOADING", "MASTERDOWN", "NOSCRIPT")
"""Error codes of a server that did not execute a script.

It does not own the user, is a replica, is loading, or lacks the script.
"""
_KINDS: Final = {kind.value.encode(): kind for kind in WorkKind} | {b"m": WorkKind.FORGET, b"e": WorkKind.FORGET}


class RedisItemGroups:
    """``ItemGroups`` of records, which are decoded when their group is read: 2,000 of them take 14 ms."""

    def __init__(self, seq: int) -> None:
        self.seq = seq
        self._records: defaultdict[tuple[int, bytes], list[tuple[bytes, int, bytes]]] = defaultdict(list)

    def add(self, item_id: bytes, seq: int, raw: bytes | None) -> None:
        """Add a record, unless its item left after its name was read."""
        if raw is not None and record_kind(raw) == b"L":
            self._records[packed_group(raw)].append((item_id, seq, raw))

    def of(self, category: str, for_device: str | None) -> list[LiveItem]:
        """See ``ItemGroups.of``."""
        items = [live_item(*each) for each in self._records.get(group_of(category, for_device), ())]
        return sorted(items, key=lambda item: (item.created_us, item.id))


class RedisAgenda:
    """``Agenda`` over one Redis-protocol server."""

    def __init__(self, connection: RedisCommands, keys: Keys, limits: Limits, *, allow_oom: bool = True) -> None:
        flags = "allow-oom" if allow_oom else ""
        self._connection = connection
        self._keys = keys
        self._limits = limits
        dues = (keys.due(partition) for partition in range(keys.partition_count))
        self._firsts = tuple(("ZRANGE", due, 0, 0, "WITHSCORES") for due in dues)
        self._claim = scripts.load("agenda/claim_users", flags=flags)
        self._work = scripts.load("codec", "agenda/due_work", flags=flags)
        self._keep_trace = scripts.load("agenda/keep_trace")
        self._settle = scripts.load("codec", "agenda/complete", flags=flags)
        self._delay = scripts.load("agenda/delay_message")
        self._replace_delayed = scripts.load("users/replace_field", flags=flags)
        self._delayed_sizes = scripts.load("agenda/delayed_sizes")
        self._cancel = scripts.load("agenda/cancel_delayed", flags=flags)

    @property
    def all_scripts(self) -> tuple[Script, ...]:
        """The scripts of this part, for ``RedisStore.prepare``."""
        delayed = (self._delay, self._replace_delayed, self._delayed_sizes, self._cancel)
        return (self._claim, self._work, self._keep_trace, self._settle, *delayed)

    # ---- the scheduler's cycle

    @property
    def partition_count(self) -> int:
        """See ``Agenda.partition_count``."""
        return self._keys.partition_count

    async def next_due_times(self) -> dict[int, int | None]:
        """See ``Agenda.next_due_times``. Plain reads: a server needs 0.3 to 0.5 µs for each, less than in a script."""
        replies = await call_each_node(self._connection, self._firsts)
        reached = results_of_reached(replies)
        return {partition: int(float(first[1])) if first else None for partition, first in reached.items()}

    async def known_users(self, partitions: Sequence[int]) -> dict[int, list[str]]:
        """See ``Agenda.known_users``."""
        reads = [("ZRANGE", self._keys.due(partition), 0, -1) for partition in partitions]
        reached = results_of_reached(await call_each_node(self._connection, reads))
        return {partitions[place]: sorted(uid.decode() for uid in uids) for place, uids in reached.items()}

    async def claim(self, partition: int, now_us: int, lease_until_us: int, most: int) -> list[str]:
        """See ``Agenda.claim``."""
        arguments = (str(now_us), str(lease_until_us), str(most))
        claimed = await result_of(self._connection.evalsha(self._claim, (self._keys.due(partition),), arguments))
        return [uid.decode() for uid in claimed]

    async def due_work(self, uid: str, now_us: int, most: int, skip: int = 0) -> list[DueWork]:
        """See ``Agenda.due_work``."""
        keys = self._keys.of_user(uid)
        names = (keys.agenda, keys.state, keys.live, keys.traces)
        raw = await result_of(self._connection.evalsha(self._work, names, (str(now_us), str(most), str(skip))))
        return [decode_work(*raw[i : i + 5]) for i in range(0, len(raw), 5)]

    async def keep_trace(self, uid: str, items: Sequence[str], trace: bytes) -> None:
        """See ``Agenda.keep_trace``."""
        arguments: list[bytes | str] = [trace, str(TRACES_KEPT_S), str(MOST_TRACES), *items]
        await result_of(self._connection.evalsha(self._keep_trace, (self._keys.of_user(uid).traces,), arguments))

    def server_of(self, uid: str) -> object:
        """See ``Agenda.server_of``."""
        [group] = self._connection.group_by_node((self._keys.of_user(uid).agenda,))
        # Without a known server, reading the due work waits for a connection. A new object equals no later result.
        return object() if group.node is None else Incarnation.of(group.node)

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
        """See ``Agenda.complete``."""
        keys = self._keys.of_user(uid)
        names = (keys.agenda, keys.due, keys.later, keys.state)
        arguments: list[bytes | str] = [uid, str(lease_until_us), str(retry_us), str(len(postponed)), str(now_us)]
        arguments += (work.entry for work in postponed)
        removals: list[bytes | str] = []
        for each in done:
            removals += (each.work.entry, str(each.work.at_us), _text(each.seq), _text(each.again_us))
        if server is not None and removals:
            if await self._complete_on(server, names, [*arguments, *removals]):
                return
            removals = []
        await result_of(self._connection.evalsha(self._settle, names, [*arguments, *removals]))

    async def _complete_on(self, server: object, names: Sequence[str], arguments: Sequence[bytes | str]) -> bool:
        """Complete the work over the connection of this incarnation. Returns whether its server executed it.

        A former primary that keeps its connections answers with the address of the promoted one.
        """
        if not isinstance(server, Incarnation) or Incarnation.of(server.node) != server:
            return False
        try:
            await server.node.call_on_connection("EVALSHA", self._settle.sha, len(names), *names, *arguments)
        except RedisUnavailable:
            return False
        except ReplyError as error:
            if error.code not in _NOT_EXECUTED:
                result_or_raise(error)
            return False
        return True

    # ---- items for mails and aggregation

    async def live_item(self, uid: str, item: str) -> LiveItem | None:
        """See ``Agenda.live_item``."""
        keys = self._keys.of_user(uid)
        raw = await result_of(self._connection.call("HGET", keys.state, item))
        if raw is None or record_kind(raw) != b"L":
            return None
        found = live_item(item.encode(), 0, raw)
        seq = await result_of(self._connection.call("ZSCORE", keys.live, f"{item}\0{found.category}"))
        return None if seq is None else replace(found, seq=int(seq))

    async def mailable(
        self, uid: str, item: str, is_wanted: Callable[[str], bool], most: int
    ) -> list[tuple[LiveItem, int | None]]:
        """See ``Agenda.mailable``."""
        keys = self._keys.of_user(uid)
        scored = await result_of(self._connection.call("ZRANGE", keys.live, 0, -1, "WITHSCORES"))
        named = [(*scored[i].split(b"\0"), int(scored[i + 1])) for i in range(0, len(scored), 2)]
        wanted = [(item_id, seq) for item_id, category, seq in named if is_wanted(category.decode())]
        first = item.encode()
        # The item that the mail is about comes first, then the newest.
        wanted.sort(key=lambda each: (each[0] == first, each[1]), reverse=True)
        if not wanted:
            return []
        ids = [item_id for item_id, _ in wanted[:most]]
        records, timers = await results_of(
            (
                self._connection.call("HMGET", keys.state, *ids),
                self._connection.call("ZMSCORE", keys.agenda, *(b"q" + item_id for item_id in ids)),
            )
        )
        return [
            (live_item(item_id, seq, raw), None if timer is None else int(float(timer)))
            for (item_id, seq), raw, timer in zip(wanted, records, timers, strict=False)
            if raw is not None and record_kind(raw) == b"L"
        ]

    async def category_items(self, uid: str, categories: Collection[str]) -> RedisItemGroups:
        """See ``Agenda.category_items``."""
        keys = self._keys.of_user(uid)
        raw_head, scored = await results_of(
            (
                self._connection.call("HGET", keys.state, HEAD),
                self._connection.call("ZRANGE", keys.live, 0, -1, "WITHSCORES"),
            )
        )
        wanted = {category.encode() for category in categories}
        named = [(*member.split(b"\0"), seq) for member, seq in zip(scored[::2], scored[1::2], strict=True)]
        found = [(item_id, seq) for item_id, category, seq in named if category in wanted]
        groups = RedisItemGroups(decode_head(raw_head).seq if raw_head else 0)
        if found:
            records = await result_of(self._connection.call("HMGET", keys.state, *(item_id for item_id, _ in found)))
            for (item_id, seq), raw in zip(found, records, strict=True):
                groups.add(item_id, int(seq), raw)
        return groups

    # ---- delayed messages

    async def delay(
        self, uid: str, message_id: str, document: bytes, not_before_us: int, sender: Sender = BY_BACKEND
    ) -> bytes:
        """See ``Agenda.delay``."""
        keys = self._keys.of_user(uid)
        arguments = (
            message_id,
            document,
            str(not_before_us),
            uid,
            str(self._limits.delayed),
            str(self._limits.delayed_bytes),
            sender.device,
            str(sender.issued_us),
        )
        names = (keys.later, keys.agenda, keys.due, keys.revoked)
        kept = await result_of(self._connection.evalsha(self._delay, names, arguments))
        if kept is None:
            raise revoked_token()
        if not kept:
            raise too_many_delayed(self._limits)
        return bytes(check_document(kept, "delayed message"))

    async def delayed(self, uid: str, message_id: str) -> bytes | None:
        """See ``Agenda.delayed``."""
        kept = await result_of(self._connection.call("HGET", self._keys.of_user(uid).later, message_id))
        return None if kept is None else bytes(check_document(kept, "delayed message"))

    async def list_delayed(self, uid: str, message_ids: Sequence[str] | None = None) -> list[bytes]:
        """See ``Agenda.list_delayed``."""
        later = self._keys.of_user(uid).later
        read = ("HVALS", later) if message_ids is None else ("HMGET", later, *message_ids)
        kept = await result_of(self._connection.call(*read))
        return [bytes(check_document(document, "delayed message")) for document in kept if document is not None]

    async def count_delayed(self, uid: str) -> int:
        """See ``Agenda.count_delayed``."""
        return int(await result_of(self._connection.call("HLEN", self._keys.of_user(uid).later)))

    async def delayed_bytes(self, uid: str, message_id: str | None = None) -> int:
        """See ``Agenda.delayed_bytes``."""
        if message_id is None:
            return sum((await self.delayed_sizes(uid)).values())
        return int(await result_of(self._connection.call("HSTRLEN", self._keys.of_user(uid).later, message_id)))

    async def delayed_sizes(self, uid: str) -> dict[str, int]:
        """See ``Agenda.delayed_sizes``."""
        raw = await result_of(self._connection.evalsha(self._delayed_sizes, (self._keys.of_user(uid).later,), ()))
        return {raw[i].decode(): int(raw[i + 1]) for i in range(0, len(raw), 2)}

    async def claim_delayed(self, uid: str, message_id: str, document: bytes) -> bool:
        """See ``Agenda.claim_delayed``."""
        return await self.replace_delayed(uid, message_id, document, claimed(document))

    async def replace_delayed(self, uid: str, message_id: str, expected: bytes, document: bytes) -> bool:
        """See ``Agenda.replace_delayed``."""
        arguments, later = (message_id, expected, document), self._keys.of_user(uid).later
        return bool(await result_of(self._connection.evalsha(self._replace_delayed, (later,), arguments)))

    async def cancel_delayed(self, uid: str, message_id: str, document: bytes | None = None) -> bool:
        """See ``Agenda.cancel_delayed``."""
        keys, arguments = self._keys.of_user(uid), (message_id, document or b"")
        return bool(await result_of(self._connection.evalsha(self._cancel, (keys.later, keys.agenda), arguments)))


# ---- decoding of entries


def decode_work(entry: bytes, score: bytes, record: bytes, seq: bytes, trace: bytes) -> DueWork:
    """Return one entry from the reply of the script ``due_work``."""
    kind, at_us = _KINDS[entry[:1]], int(float(score))
    if kind in (WorkKind.FORGET, WorkKind.DEVICES):
        return DueWork(kind, "", at_us, entry)
    if kind is WorkKind.LEFT:
        return _left(entry, at_us, record)
    if kind is WorkKind.HIDDEN:
        return _hidden(entry, at_us, record, seq)
    if kind is WorkKind.ACKED:
        return acked(entry, at_us)
    if kind is WorkKind.SETTLED:
        return settled(entry, at_us)
    name, *rest = entry[1:].split(b"\0") if kind is WorkKind.FOLLOW else [entry[1:]]
    item = live_item(name, int(seq), record) if record else None
    n, cause = 0, item.seq if item else 0
    if kind is WorkKind.FOLLOW:
        n, cause = int(rest[0]), int(rest[1])
    elif kind is WorkKind.REMIND and item is not None and at_us in item.remind_at_us:
        n, cause = item.remind_at_us.index(at_us), 0
    return DueWork(kind, name.decode(), at_us, entry, item, n, cause, trace=trace)


def live_item(item_id: bytes, seq: int, record: bytes) -> LiveItem:
    """Return a live record in the form that the scheduler uses."""
    live = decode_live(item_id.decode(), seq, record)
    return _item(live)


def _left(entry: bytes, at_us: int, record: bytes) -> DueWork:
    name = entry[1:].decode()
    if not record:
        return DueWork(WorkKind.LEFT, name, at_us, entry)
    departed = decode_gone(name, record)
    gone = departed.gone
    return DueWork(WorkKind.LEFT, name, at_us, entry, _item(departed.live), 0, gone.seq, gone)


def _hidden(entry: bytes, at_us: int, record: bytes, seq: bytes) -> DueWork:
    name, device = entry[1:].decode().split("\0")
    if not record:
        return DueWork(WorkKind.HIDDEN, name, at_us, entry)
    live = decode_live(name, int(seq), record) if record_kind(record) == b"L" else decode_gone(name, record).live
    gone = live.hidings.get(device)
    if gone is None:
        return DueWork(WorkKind.HIDDEN, name, at_us, entry)
    return DueWork(WorkKind.HIDDEN, name, at_us, entry, _item(live), 0, gone.seq, gone)


def _item(live: LiveRecord) -> LiveItem:
    return LiveItem(
        live.id,
        live.item.category,
        live.item.device or None,
        live.item.created_us,
        live.seq,
        live.item.expires_us,
        live.item.remind_at_us,
        live.item.json(),
        frozenset(live.hidings),
    )


def _text(number: int | None) -> str:
    return "" if number is None else str(number)
