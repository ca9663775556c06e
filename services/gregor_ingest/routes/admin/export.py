"""The export of a user: all that is stored of it, as lines of JSON, read page by page."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any, Final

import msgspec

from gregor.core.items.sync import Removal, View, cursor_text
from gregor.core.messages.delayed import decode_delayed_text
from gregor.core.messages.encode import without_body
from gregor.core.notify.contact import contact_document, preferences_document
from gregor.store import exported
from gregor.store.contract.agenda import WorkKind
from gregor.store.contract.store import Store
from gregor.store.exported import StoredEntry
from gregor_ingest.routes.delivery.deliveries import delivery_members
from gregor_ingest.schemas import export as lines
from gregor_ingest.schemas.device import device_response
from gregor_ingest.schemas.fields import json_time, json_time_or_null
from gregor_ingest.schemas.responses import GoneResponse

CHUNK_BYTES: Final = 32_768
"""Lines are sent together up to this size: a chunk for each line would cost more than the line."""

_encode: Final = msgspec.json.Encoder().encode
_WORK: Final = {kind.value: kind.name.lower() for kind in WorkKind} | {"m": "forget", "e": "forget"}


async def export_chunks(store: Store, uid: str, now_us: int) -> AsyncIterator[bytes]:
    """Yield the lines of a user's export in chunks. At any time only one page of the user is in memory."""
    counts: Counter[str] = Counter()
    chunk = bytearray()
    async for line in _lines(store, uid, now_us):
        counts[str(line.__struct_config__.tag)] += 1
        chunk += _encode(line) + b"\n"
        if len(chunk) >= CHUNK_BYTES:
            yield bytes(chunk)
            chunk.clear()
            # A client that reads fast does not make the response wait: other requests run between two chunks.
            await asyncio.sleep(0)
    yield bytes(chunk) + _encode(lines.ExportEndResponse(counts=dict(counts))) + b"\n"


async def _lines(store: Store, uid: str, now_us: int) -> AsyncIterator[msgspec.Struct]:
    yield lines.ExportBeginResponse(version=lines.FORMAT_VERSION, uid=uid, at=json_time(now_us))
    [position] = await store.users.heads([uid])
    if position is not None:
        yield lines.ExportPositionResponse(cursor=cursor_text(position.epoch, View(), position.seq))
    for part in (_contact_lines, _device_lines, _acknowledgement_lines, _delayed_lines):
        async for line in part(store, uid, now_us):
            yield line
    async for entry in store.users.stored(uid):
        yield _line(entry)


async def _contact_lines(store: Store, uid: str, _now_us: int) -> AsyncIterator[msgspec.Struct]:
    contact = await store.contacts.contact(uid)
    if document := contact_document(contact):
        yield lines.ExportContactResponse(contact=document)
    if preferences := preferences_document(await store.contacts.preferences(uid)):
        yield lines.ExportPreferencesResponse(preferences=preferences)
    suppression = await store.suppressions.suppression(contact.email) if contact.email else None
    if suppression is not None:
        since = json_time(suppression.since_us)
        yield lines.ExportSuppressionResponse(email=suppression.email, reason=suppression.reason, since=since)


async def _device_lines(store: Store, uid: str, now_us: int) -> AsyncIterator[msgspec.Struct]:
    for name, (registration, presence) in (await store.devices.list_devices(uid, now_us)).items():
        shown = msgspec.structs.asdict(device_response(registration, presence))
        since = json_time_or_null(registration.push_since_us or None)
        yield lines.ExportDeviceResponse(device=name, push_since=since, **shown)
    [presence] = await store.devices.presence([uid], now_us)
    foreground_us = await store.devices.foreground_until(uid, now_us)
    if presence.last_seen_us is not None or foreground_us is not None:
        yield lines.ExportPresenceResponse(
            online=presence.online,
            foreground=presence.foreground,
            last_seen=json_time_or_null(presence.last_seen_us),
            last_foreground=json_time_or_null(foreground_us),
        )


async def _acknowledgement_lines(store: Store, uid: str, _now_us: int) -> AsyncIterator[msgspec.Struct]:
    for view, seq in (await store.devices.acknowledged(uid)).items():
        yield lines.ExportAcknowledgedResponse(
            device=view.device, category_prefix=_listed(view.category_filter), seq=seq
        )
    for each in await store.devices.acknowledgements(uid):
        yield lines.ExportAcknowledgementResponse(
            device=each.view.device,
            category_prefix=_listed(each.view.category_filter),
            after=each.since,
            seq=each.until,
            at=json_time(each.at_us),
        )


async def _delayed_lines(store: Store, uid: str, _now_us: int) -> AsyncIterator[msgspec.Struct]:
    for raw in await store.agenda.list_delayed(uid):
        delayed = decode_delayed_text(raw)
        yield lines.ExportDelayedMessageResponse(
            message=delayed.json,
            device=delayed.device or None,
            key=delayed.key_ids[-1] if delayed.key_ids else None,
            keys=list(delayed.key_ids),
            accepted=json_time_or_null(delayed.accepted_us or None),
        )


# --- Entries of the store


def _line(entry: StoredEntry) -> msgspec.Struct:
    """Return the line of a stored entry."""
    match entry:
        case exported.StoredItemEntry():
            return _item_line(entry)
        case exported.LedgerEntry():
            return _delivery_line(entry)
        case exported.AgendaEntry():
            of = " ".join(part for part in entry.name[1:].split("\0") if part)
            return lines.ExportWorkResponse(work=_WORK[entry.name[0]], of=of, at=json_time(entry.at_us))
        case exported.ExternalEntry():
            return lines.ExportExternalResponse(
                system=entry.external.system,
                seq=entry.external.seq,
                at=json_time(entry.at_us),
                body=msgspec.Raw(entry.external.body),
            )
        case exported.StoredTombstone() | exported.RememberedInterval() | exported.RememberedMessageId():
            return _dismissal_line(entry)
    return _device_line(entry)


def _dismissal_line(
    entry: exported.StoredTombstone | exported.RememberedInterval | exported.RememberedMessageId,
) -> msgspec.Struct:
    sender = entry.device or None
    match entry:
        case exported.StoredTombstone():
            at, limits = json_time(entry.at_us), _listed(entry.category_filter)
            return lines.ExportTombstoneResponse(id=entry.id, device=sender, at=at, category_prefix=limits)
        case exported.RememberedMessageId():
            return lines.ExportMessageIdResponse(id=entry.id, system=entry.system, device=sender)
    return lines.ExportIntervalResponse(
        category=entry.category,
        is_prefix=entry.is_prefix,
        device=sender,
        begin=json_time(entry.begin_us),
        end=json_time(entry.end_us),
        at=json_time(entry.at_us),
        skip=list(entry.skip),
    )


def _device_line(
    entry: exported.FirstSeen
    | exported.SessionEntry
    | exported.RevocationEntry
    | exported.RemovedDevice
    | exported.TicketCount,
) -> msgspec.Struct:
    match entry:
        case exported.FirstSeen():
            return lines.ExportFirstSeenResponse(device=entry.device, at=json_time(entry.at_us))
        case exported.RevocationEntry():
            issued_before = json_time(entry.issued_before_us)
            return lines.ExportRevocationResponse(device=entry.device, issued_before=issued_before)
        case exported.RemovedDevice():
            return lines.ExportRemovedDeviceResponse(device=entry.device, seq=entry.seq)
        case exported.TicketCount():
            return lines.ExportTicketsResponse(count=entry.count)
    session = entry.session
    return lines.ExportSessionResponse(
        device=entry.device,
        session=session.session,
        connection=session.connection,
        opened=json_time(session.opened_us),
        foreground=session.foreground,
        category_prefix=_listed(session.category_filter),
        systems=_listed(session.systems),
    )


def _item_line(entry: exported.StoredItemEntry) -> msgspec.Struct:
    item = without_body(entry.json) if entry.is_trimmed else entry.json
    gone = None if entry.gone is None else _gone(entry.gone)
    hidden = {device: _gone(each) for device, each in entry.hidings.items()}
    return lines.ExportItemResponse(id=entry.id, item=msgspec.Raw(item), seq=entry.seq, gone=gone, hidden=hidden)


def _delivery_line(entry: exported.LedgerEntry) -> msgspec.Struct:
    history = entry.record.history
    waits = (
        lines.ExportWaitResponse(at=json_time(each.at_us), reason=each.reason, until=json_time(each.until_us))
        for each in history.waits
    )
    members: dict[str, Any] = delivery_members(entry.record)
    return lines.ExportDeliveryResponse(
        **members,
        planned=json_time(history.planned_us),
        ended=json_time_or_null(history.since_us),
        waits=list(waits),
        replays=[json_time(each.at_us) for each in history.replays],
        mail=history.mail,
        event=history.event or None,
        dead_letter=json_time_or_null(entry.dead_letter_us),
    )


def _gone(removal: Removal) -> GoneResponse:
    at, reason = json_time(removal.at_us), removal.reason.wire_name
    return GoneResponse(at=at, reason=reason, device=removal.device, seq=removal.seq)


def _listed(prefixes: tuple[str, ...] | None) -> list[str] | None:
    return None if prefixes is None else list(prefixes)
