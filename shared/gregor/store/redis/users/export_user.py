"""Reading all that is stored of a user from Redis, in pages; see ``contract.Users.stored``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

from gregor.core.category_filter import unpack_category_filter
from gregor.core.notify.ledger import delivery_path
from gregor.redis.commands import RedisCommands
from gregor.redis.connection import Argument
from gregor.store.exported import (
    PAGE,
    AgendaEntry,
    ExternalEntry,
    FirstSeen,
    LedgerEntry,
    RememberedMessageId,
    RemovedDevice,
    RevocationEntry,
    SessionEntry,
    StoredEntry,
    StoredItemEntry,
    StoredTombstone,
    TicketCount,
)
from gregor.store.redis.delivery.ledger_entries import deliveries_of_item
from gregor.store.redis.devices.device_codec import decode_registration, field_pairs, leases_of
from gregor.store.redis.errors import result_of, results_of
from gregor.store.redis.keys import Keys

from .record_codec import (
    GoneRecord,
    LiveRecord,
    decode_external,
    decode_gone,
    decode_intervals,
    decode_live,
    decode_tombstones,
    record_kind,
)

_REMOVED_DEVICE: Final = b".f:"


class RedisUserExport:
    """Reads all that is stored of a user.

    Scans return each entry that is stored all the time at least once; one that changes meanwhile may come twice.
    """

    def __init__(self, connection: RedisCommands, keys: Keys) -> None:
        self._connection = connection
        self._keys = keys

    async def stored(self, uid: str) -> AsyncIterator[StoredEntry]:
        """See ``Users.stored``."""
        keys = self._keys.of_user(uid)
        async for page in self._scan("HSCAN", keys.state):
            for entry in await self._state_entries(keys.live, page):
                yield entry
        async for page in self._scan("HSCAN", keys.intervals):
            for field, raw in page:
                for interval in decode_intervals(field, raw):
                    yield interval
        async for external in self._externals(keys.external):
            yield external
        async for page in self._scan("ZSCAN", keys.agenda):
            for name, score in page:
                yield AgendaEntry(name.decode(), int(float(score)))
        async for page in self._scan("ZSCAN", keys.delivered):
            for entry in await self._deliveries(uid, [item.decode() for item, _ in page]):
                yield entry
        for entry in await self._access(uid):
            yield entry

    async def _scan(self, command: str, key: str) -> AsyncIterator[list[tuple[bytes, bytes]]]:
        """Yield the pairs of a hash or sorted set in pages. A small one comes in one page."""
        cursor: Any = b"0"
        while True:
            cursor, flat = await self._call(command, key, cursor, "COUNT", PAGE)
            pairs = list(field_pairs(flat))
            for start in range(0, len(pairs), PAGE):
                yield pairs[start : start + PAGE]
            if int(cursor) == 0:
                return

    async def _state_entries(self, live_key: str, page: Sequence[tuple[bytes, bytes]]) -> list[StoredEntry]:
        """Return the entries of a page of the state. The seq of a live item is the score in the log."""
        entries: list[StoredEntry] = []
        live: list[LiveRecord] = []
        for field, raw in page:
            if field.startswith(b"."):
                if field.startswith(_REMOVED_DEVICE):
                    entries.append(RemovedDevice(field.removeprefix(_REMOVED_DEVICE).decode(), int(raw)))
            elif field.startswith(b"\0"):
                entries.append(RememberedMessageId(*field[1:].decode().split("\0")))
            elif (kind := record_kind(raw)) == b"L":
                live.append(decode_live(field.decode(), 0, raw))
            elif kind == b"G":
                entries.append(_item(decode_gone(field.decode(), raw)))
            else:
                entries += (
                    StoredTombstone(field.decode(), device, at_us, unpack_category_filter(limits))
                    for at_us, device, limits in decode_tombstones(raw)
                )
        if live:
            names = (f"{record.id}\0{record.item.category}" for record in live)
            for record, seq in zip(live, await self._call("ZMSCORE", live_key, *names), strict=True):
                record.seq = int(float(seq or 0))
                entries.append(_item(record))
        return entries

    async def _externals(self, key: str) -> AsyncIterator[ExternalEntry]:
        after = "-inf"
        while page := await self._call("ZRANGEBYSCORE", key, after, "+inf", "LIMIT", 0, PAGE):
            for raw in page:
                external, at_us = decode_external(raw)
                yield ExternalEntry(external, at_us)
            after = f"({external.seq}"

    async def _deliveries(self, uid: str, items: Sequence[str]) -> list[LedgerEntry]:
        raws = await results_of(self._connection.call("HGETALL", self._keys.deliveries(uid, item)) for item in items)
        records = [each for item, raw in zip(items, raws, strict=True) for each in deliveries_of_item(uid, item, raw)]
        if not records:
            return []
        paths = (delivery_path(record.intent) for record in records)
        times = await self._call("ZMSCORE", self._keys.of_user(uid).dead, *paths)
        return [
            LedgerEntry(record, None if at_us is None else int(float(at_us)))
            for record, at_us in zip(records, times, strict=True)
        ]

    async def _access(self, uid: str) -> list[StoredEntry]:
        """Return the times of devices, sessions, revocations, and the number of tickets: small hashes."""
        keys = self._keys.of_user(uid)
        reads = [self._connection.call("HGETALL", key) for key in (keys.devices, keys.presence, keys.revoked)]
        devices, presence, revoked, tickets = await results_of([*reads, self._connection.call("HLEN", keys.tickets)])
        seen = (FirstSeen(name.decode(), decode_registration(raw).first_seen_us) for name, raw in field_pairs(devices))
        sessions = (SessionEntry(device, each.open) for device, held in leases_of(presence).items() for each in held)
        revocations = (RevocationEntry(name.decode() or None, int(at)) for name, at in field_pairs(revoked))
        return [*seen, *sessions, *revocations, *([TicketCount(int(tickets))] if tickets else ())]

    async def _call(self, *command: Argument) -> Any:
        return await result_of(self._connection.call(*command))


def _item(record: LiveRecord | GoneRecord) -> StoredItemEntry:
    live, gone = record.live, record.gone if isinstance(record, GoneRecord) else None
    is_trimmed = gone is not None and not live.item.body
    return StoredItemEntry(live.id, live.seq, live.item.json(), gone, live.hidings, is_trimmed)
