"""What is kept of a device and of a connection, as JSON: made and read here. PURE.

The scripts find the first members by a pattern (``lua/presence.lua``), so their order here is part of the format.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from gregor.core.ids import Prefixes
from gregor.core.items.sync import View
from gregor.core.notify.timeline import Acknowledgement
from gregor.store.category_filter import unpack_category_filter
from gregor.store.contract.devices import DeviceSession, PresenceStatus, Registration

FOREGROUND_FIELD: Final = b"front"
"""The field of a user's presence that is no lease: until when somebody was in the foreground (µs)."""


class StoredRegistration(msgspec.Struct):
    """A known device. ``last_seen_us`` is 0 for one never seen; while it is online its leases know better."""

    first_seen_us: int
    last_seen_us: int
    platform: str | None = None
    push: dict[str, Any] | None = None
    locale: str | None = None
    push_since_us: int = 0

    @property
    def registration(self) -> Registration:
        """As readers get it."""
        return Registration(self.platform, self.push, self.locale, self.push_since_us)


class SessionLease(msgspec.Struct):
    """A connection that is there until ``lease_until_us``; ``seen_us`` is its last heartbeat."""

    lease_until_us: int
    seen_us: int
    opened_us: int
    connection: str
    session: str
    gateway: str
    foreground: bool = False
    category_filter: Prefixes = msgspec.field(default=None, name="cats")
    systems: Prefixes = None

    @property
    def open(self) -> DeviceSession:
        """As readers get it."""
        return DeviceSession(
            self.session,
            self.connection,
            self.gateway,
            self.opened_us,
            self.foreground,
            self.category_filter,
            self.systems,
        )


_KNOWN: Final = msgspec.json.Decoder(StoredRegistration)
_TIMES: Final = re.compile(rb'\A\{"first_seen_us":\d+,"last_seen_us":\d+')
_LEASE: Final = msgspec.json.Decoder(SessionLease)


def decode_registration(raw: bytes) -> StoredRegistration:
    """A known device from its JSON."""
    return _KNOWN.decode(raw)


def decode_lease(raw: bytes) -> SessionLease:
    """A lease from its JSON."""
    return _LEASE.decode(raw)


def encode_registration(registration: Registration) -> bytes:
    """A device's JSON after its times, with the comma before: what a registration sets."""
    push = None if registration.push is None else dict(registration.push)
    members: dict[str, Any] = {"platform": registration.platform, "push": push, "locale": registration.locale}
    if push is not None and registration.push_since_us:
        members["push_since_us"] = registration.push_since_us
    return b"," + msgspec.json.encode(members)[1:]


def registration_part(raw: bytes) -> bytes:
    """What a registration set in the JSON of a device, as ``encode_registration`` made it."""
    return _TIMES.sub(b"", raw, 1)


def encode_lease(session: DeviceSession, seen_us: int, until_us: int) -> bytes:
    """The JSON of a session's lease."""
    return msgspec.json.encode(
        SessionLease(
            until_us,
            seen_us,
            session.opened_us,
            session.connection,
            session.session,
            session.gateway,
            session.foreground,
            session.category_filter,
            session.systems,
        )
    )


def push_token(push: Mapping[str, Any] | None) -> str | None:
    """What tells push registrations apart: provider, and token or Web Push endpoint. ``None``: there is none."""
    if not push:
        return None
    provider, token = push.get("provider"), push.get("token")
    text = str(token.get("endpoint") if isinstance(token, Mapping) else token)
    # A token of APNs is a number in hex: an app that writes it in capitals means the same device.
    return f"{provider}:{text.lower() if provider == 'apns' else text}"


def presence_of(known: Iterable[StoredRegistration], leases: Iterable[SessionLease], now_us: int) -> PresenceStatus:
    """Whether someone is there by these leases, and when last by these too and by what is kept of the devices."""
    seen_us, is_online, is_foreground = 0, False, False
    for lease in leases:
        if lease.lease_until_us > now_us:
            is_online, is_foreground = True, is_foreground or lease.foreground
        seen_us = max(seen_us, lease.seen_us)
    if is_online:
        return PresenceStatus(True, is_foreground, now_us)
    seen_us = max([seen_us, *(device.last_seen_us for device in known)])
    return PresenceStatus(last_seen_us=seen_us or None)


def longest_offline(
    known: Mapping[str, StoredRegistration], leases: Mapping[str, Iterable[SessionLease]], now_us: int
) -> str | None:
    """The device that gives way to one more: longest offline, those without push first; ``None``: all are online.

    One never seen counts from when it became known: it may be about to connect.
    """
    offline = []
    for device, kept in known.items():
        presence = presence_of([kept], leases.get(device, ()), now_us)
        if not presence.online:
            offline.append((kept.push is not None, presence.last_seen_us or kept.first_seen_us, device))
    return min(offline)[2] if offline else None


def foreground_until(leases: Iterable[SessionLease], told_us: Iterable[int], now_us: int) -> int | None:
    """Until when somebody was in the foreground, by these leases and moments; now where somebody is. ``None``: never.

    A lease that ran out says so for its last heartbeat alone.
    """
    moments = [now_us if lease.lease_until_us > now_us else lease.seen_us for lease in leases if lease.foreground]
    return max([*moments, *told_us], default=None)


def split_field(field: bytes) -> tuple[str, str]:
    """Device and what else a field names: a session, or the limits of a view."""
    device, _, name = field.decode().partition("\0")
    return device, name


def decode_view(field: bytes) -> View:
    """The view that a field of the acknowledgements names."""
    device, category_filter = split_field(field)
    return View(device, unpack_category_filter(category_filter))


def decode_acknowledgement(raw: bytes) -> Acknowledgement:
    """An acknowledgement as the script notes it: from, to, when, and the field of its view."""
    since, until, at_us, field = raw.split(b" ", 3)
    return Acknowledgement(decode_view(field), int(since), int(until), int(at_us))


def field_pairs(reply: Sequence[bytes]) -> zip[tuple[bytes, bytes]]:
    """The fields and values of a hash."""
    return zip(reply[::2], reply[1::2], strict=True)


def leases_of(reply: Sequence[bytes]) -> dict[str, list[SessionLease]]:
    """The leases of each device in a user's presence, lapsed ones too."""
    leases: dict[str, list[SessionLease]] = {}
    for field, raw in field_pairs(reply):
        if field != FOREGROUND_FIELD:
            leases.setdefault(split_field(field)[0], []).append(decode_lease(raw))
    return leases


def every_lease(reply: Sequence[bytes]) -> list[SessionLease]:
    """All leases in a user's presence."""
    return [decode_lease(raw) for field, raw in field_pairs(reply) if field != FOREGROUND_FIELD]
