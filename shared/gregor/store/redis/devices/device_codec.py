"""The JSON of stored registrations and session leases: encoding and decoding. Pure.

The scripts find the first members by a pattern (``lua/devices/lease_codec.lua``): their order is part of the format.
Of a lease, these are the members up to ``connection``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from gregor.core.category_filter import unpack_category_filter
from gregor.core.ids import Prefixes
from gregor.core.items.sync import View
from gregor.core.notify.timeline import Acknowledgement
from gregor.store.contract.devices import DeviceSession, PresenceStatus, PushRegistrar, Registration
from gregor.store.documents import decode_document
from gregor.store.gateways import LiveGateways

FOREGROUND_FIELD: Final = b"front"
"""A field beside the leases: until when a connection without a category filter was in the foreground (µs)."""


class StoredRegistration(msgspec.Struct):
    """A registered device as it is stored.

    ``last_seen_us`` is 0 for one never seen; leases are newer if there are any.
    """

    first_seen_us: int
    last_seen_us: int
    platform: str | None = None
    push: dict[str, Any] | None = None
    locale: str | None = None
    push_since_us: int = 0
    registrar: PushRegistrar | None = None

    @property
    def registration(self) -> Registration:
        """The registration for callers of the store."""
        return Registration(self.platform, self.push, self.locale, self.push_since_us, self.registrar)


class SessionLease(msgspec.Struct):
    """A connection that is open until ``lease_until_us``, and as long as its gateway is alive.

    ``seen_us``: when it was last written.
    """

    lease_until_us: int
    seen_us: int
    opened_us: int
    connection: str
    gateway: str
    session: str
    foreground: bool = False
    category_filter: Prefixes = msgspec.field(default=None, name="cats")
    systems: Prefixes = None
    issued_us: int = 0

    def is_open(self, now_us: int, gateways: LiveGateways) -> bool:
        """Return whether the session is open."""
        return self.lease_until_us > now_us or gateways.is_live(self.gateway)

    def last_us(self, gateways: LiveGateways) -> int:
        """Return until when a session that is over is known to have been open."""
        return max(self.seen_us, gateways.alive_us(self.gateway))

    @property
    def open(self) -> DeviceSession:
        """The session for callers of the store."""
        return DeviceSession(
            self.session,
            self.connection,
            self.gateway,
            self.opened_us,
            self.foreground,
            self.category_filter,
            self.systems,
            self.issued_us,
        )


_KNOWN: Final = msgspec.json.Decoder(StoredRegistration)
_TIMES: Final = re.compile(rb'\A\{"first_seen_us":\d+,"last_seen_us":\d+')
_LEASE: Final = msgspec.json.Decoder(SessionLease)


# ---- JSON of registrations and leases


def decode_registration(raw: bytes) -> StoredRegistration:
    """Return a registration from its JSON. Raises ``UnreadableValue``."""
    return decode_document(_KNOWN, raw, "registration")


def decode_lease(raw: bytes) -> SessionLease | None:
    """Return a lease from its JSON; ``None`` if it lacks a member or is damaged: the scripts remove it as expired.

    Raises ``UnreadableValue`` if it has a later format.
    """
    try:
        return decode_document(_LEASE, raw, "session")
    except (msgspec.DecodeError, UnicodeDecodeError):
        if raw.startswith(b"{"):
            return None
        raise


def encode_registration(registration: Registration) -> bytes:
    """Return the JSON of a registration after its times, with the comma before it."""
    push = None if registration.push is None else dict(registration.push)
    members: dict[str, Any] = {"platform": registration.platform, "push": push, "locale": registration.locale}
    if registration.push_since_us:
        members["push_since_us"] = registration.push_since_us
    # Older releases ignore this member, so it needs no new format.
    if push is not None and registration.registrar is not None:
        members["registrar"] = registration.registrar
    return b"," + msgspec.json.encode(members)[1:]


def registration_part(raw: bytes) -> bytes:
    """Return the part of a stored JSON that ``encode_registration`` made."""
    return _TIMES.sub(b"", raw, 1)


def encode_lease(session: DeviceSession, seen_us: int, until_us: int) -> bytes:
    """Return the JSON of a session's lease."""
    return msgspec.json.encode(
        SessionLease(
            until_us,
            seen_us,
            session.opened_us,
            session.connection,
            session.gateway,
            session.session,
            session.foreground,
            session.category_filter,
            session.systems,
            session.issued_us,
        )
    )


def push_token(push: Mapping[str, Any] | None) -> str | None:
    """Return the identity of a push registration: provider, and token or Web Push endpoint.

    ``None`` without a token.
    """
    if not push:
        return None
    provider, token = push.get("provider"), push.get("token")
    text = str(token.get("endpoint") if isinstance(token, Mapping) else token)
    # APNs tokens are hex numbers: upper and lower case mean the same device.
    return f"{provider}:{text.lower() if provider == 'apns' else text}"


# ---- presence


def presence_of(
    known: Iterable[StoredRegistration], leases: Iterable[SessionLease], now_us: int, gateways: LiveGateways
) -> PresenceStatus:
    """Return the presence that follows from leases and, if no lease is active, from the stored registrations."""
    seen_us, is_online, filters = 0, False, list[Prefixes]()
    for lease in leases:
        if lease.is_open(now_us, gateways):
            is_online = True
            if lease.foreground:
                filters.append(lease.category_filter)
        seen_us = max(seen_us, lease.last_us(gateways))
    if is_online:
        return PresenceStatus(True, bool(filters), now_us, tuple(filters))
    seen_us = max([seen_us, *(device.last_seen_us for device in known)])
    return PresenceStatus(last_seen_us=seen_us or None)


def longest_offline(
    known: Mapping[str, StoredRegistration],
    leases: Mapping[str, Iterable[SessionLease]],
    now_us: int,
    gateways: LiveGateways,
) -> str | None:
    """Return the device to remove for a new one: offline longest, those without push first. ``None``: all are online.

    A device that was never seen counts from its registration, because it may be about to connect.
    """
    offline = []
    for device, kept in known.items():
        presence = presence_of([kept], leases.get(device, ()), now_us, gateways)
        if not presence.online:
            offline.append((kept.push is not None, presence.last_seen_us or kept.first_seen_us, device))
    return min(offline)[2] if offline else None


def foreground_until(
    leases: Iterable[SessionLease], told_us: Iterable[int], now_us: int, gateways: LiveGateways
) -> int | None:
    """Return when a connection without a category filter was last in the foreground; now if one is; ``None``: never.

    A session whose gateway died counts as long as the gateway is known to have lived.
    """
    moments = [
        now_us if lease.is_open(now_us, gateways) else lease.last_us(gateways)
        for lease in leases
        if lease.foreground and lease.category_filter is None
    ]
    return max([*moments, *told_us], default=None)


# ---- names of fields


def split_field(field: bytes) -> tuple[str, str]:
    """Return device and second part of a field's name: a session, or the category filter of a view."""
    device, _, name = field.decode().partition("\0")
    return device, name


def decode_acknowledged(device: bytes, raw: bytes) -> list[tuple[View, int]]:
    """Return the acknowledged views of a device with their seq, as the script stored them."""
    pairs = (line.split(" ", 1) for line in raw.decode().splitlines())
    return [(View(device.decode(), unpack_category_filter(text)), int(seq)) for seq, text in pairs]


def decode_acknowledgement(raw: bytes) -> Acknowledgement:
    """Return an acknowledgement as the script stored it: from, to, when, and the field of its view."""
    since, until, at_us, field = raw.split(b" ", 3)
    device, category_filter = split_field(field)
    return Acknowledgement(View(device, unpack_category_filter(category_filter)), int(since), int(until), int(at_us))


def field_pairs(reply: Sequence[bytes]) -> zip[tuple[bytes, bytes]]:
    """Return the fields and values of a hash."""
    return zip(reply[::2], reply[1::2], strict=True)


def leases_of(reply: Sequence[bytes]) -> dict[str, list[SessionLease]]:
    """Return the leases of each device in a user's presence, expired ones too."""
    leases: dict[str, list[SessionLease]] = {}
    for field, raw in field_pairs(reply):
        if field != FOREGROUND_FIELD and (lease := decode_lease(raw)) is not None:
            leases.setdefault(split_field(field)[0], []).append(lease)
    return leases


def every_lease(reply: Sequence[bytes]) -> list[SessionLease]:
    """Return all leases in a user's presence."""
    return [lease for held in leases_of(reply).values() for lease in held]
