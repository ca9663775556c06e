"""Registrations, presence, acknowledgements and revocations in Redis.

Whatever must be consistent for one user is one script. Owners of push tokens need several steps: see ``push_tokens``.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import msgspec

from gregor.core.category_filter import pack_category_filter
from gregor.core.close_codes import CloseCode
from gregor.core.errors import Problem
from gregor.core.ids import BACKEND, Prefixes
from gregor.core.items.sync import View
from gregor.core.limits import CLOCK_LEEWAY_US, DAY_US, SECOND_US, Limits
from gregor.core.messages.model import Commit, Receipt, RemovalReason, Sender
from gregor.core.notify.acknowledged_views import MAX_VIEW_PREFIXES, MAX_VIEWS, compact_view
from gregor.core.notify.escalation import Audience
from gregor.core.notify.timeline import (
    ACKNOWLEDGED_ITEMS,
    ACKNOWLEDGEMENT_COST,
    MAX_ACKNOWLEDGEMENTS,
    MAX_DUE_BEFORE_ACKNOWLEDGEMENT,
    Acknowledgement,
)
from gregor.core.rate_limit import step_us
from gregor.redis.commands import RedisCommands, Script
from gregor.redis.connection import Argument
from gregor.redis.reads import call_each_node
from gregor.store.audience import audience_of
from gregor.store.contract.devices import Charge, DeviceSession, PresenceStatus, Registration
from gregor.store.contract.store import Contended, Unavailable
from gregor.store.contract.webhooks import RecordedEvents
from gregor.store.gateways import NO_GATEWAY, LiveGateways
from gregor.store.redis import scripts
from gregor.store.redis.errors import result_of, results_of, results_of_reached
from gregor.store.redis.keys import Keys

from .device_codec import (
    FOREGROUND_FIELD,
    SessionLease,
    StoredRegistration,
    decode_acknowledged,
    decode_acknowledgement,
    decode_lease,
    decode_registration,
    encode_lease,
    encode_registration,
    every_lease,
    field_pairs,
    foreground_until,
    leases_of,
    longest_offline,
    presence_of,
    push_token,
    registration_part,
)
from .push_tokens import RedisPushTokens

TOKEN_LIFE_US: Final = 30 * DAY_US
"""How far in the future the ``exp`` of a device token may be, by default."""

_LEEWAY_US: Final = 60 * SECOND_US
"""Clock leeway of tokens, twice: for their ``exp`` limit, and for their expiry."""

_MAX_ATTEMPTS: Final = 8
"""Attempts of an optimistic update before it fails as contended."""

_BATCH_SIZE: Final = 1_000
"""Commands issued before their replies are awaited."""

_READ_AT_ONCE: Final = 512
"""Registrations and leases of several users that are read together. Those of one user may be 13 MB."""

_PRESENCE_READS: Final = ("HVALS", "HGETALL")
"""The reads of the registrations of a user, and of its leases."""

_UNKNOWN_DEVICE: Final = b"-"  # as the expected registration: the device must be unknown
_NO_REGISTRATION: Final = encode_registration(Registration())


class RedisDevices:
    """``Devices`` over one Redis-protocol server.

    Args:
        commit: ``Users.commit``.
        token_life_us: How long a revocation must be kept.
        allow_oom: Whether the server supports script flags (fakeredis does not). Devices must be able to connect and
            dismiss even at ``maxmemory``.
    """

    def __init__(
        self,
        connection: RedisCommands,
        keys: Keys,
        limits: Limits,
        gateways: LiveGateways,
        commit: Callable[[str, Commit], Awaitable[Receipt]],
        *,
        recorded_events: RecordedEvents,
        token_life_us: int = TOKEN_LIFE_US,
        allow_oom: bool = True,
    ) -> None:
        self._connection = connection
        self._recorded_events = recorded_events
        self._keys = keys
        self._limits = limits
        self._gateways = gateways
        self._commit = commit
        self._token_lifetime_us = token_life_us + _LEEWAY_US
        flags = "allow-oom" if allow_oom else ""
        self._register = scripts.load("devices/lease_codec", "devices/register")
        # The first join of a device adds a few bytes, at most once for each device of a user.
        self._register_small = scripts.load("devices/lease_codec", "devices/register", flags=flags)
        self._push_tokens = RedisPushTokens(connection, keys, allow_oom=allow_oom)
        self._read_device = scripts.load("devices/device_fields", "devices/read_device")
        self._open_session = scripts.load(
            "devices/lease_codec", "devices/device_fields", "devices/open_session", flags=flags
        )
        self._renew_session = scripts.load("devices/lease_codec", "devices/renew_session", flags=flags)
        self._close_session = scripts.load("devices/lease_codec", "devices/close_session", flags=flags)
        self._remove_device = scripts.load("devices/remove_device", flags=flags)
        self._acknowledge = scripts.load("codec", "devices/acknowledge", flags=flags)
        self._revoke = scripts.load("devices/revoke", flags=flags)

    @property
    def all_scripts(self) -> tuple[Script, ...]:
        """The scripts of this part, for ``RedisStore.prepare``."""
        presence = (self._open_session, self._renew_session, self._close_session, self._acknowledge)
        return (
            self._register,
            self._register_small,
            self._read_device,
            *self._push_tokens.all_scripts,
            *presence,
            self._remove_device,
            self._revoke,
        )

    # ---- registrations

    async def put_device(
        self, uid: str, device: str, registration: Registration, now_us: int, charge: Charge | None = None
    ) -> None:
        """See ``Devices.put_device``. Repeatable."""
        await self._put(uid, device, registration, now_us, b"", charge)

    async def change_device(
        self,
        uid: str,
        device: str,
        change: Callable[[Registration | None], Registration],
        now_us: int,
        charge: Charge | None = None,
    ) -> None:
        """See ``Devices.change_device``."""
        for _ in range(_MAX_ATTEMPTS):
            raw = await self._call("HGET", self._keys.of_user(uid).devices, device)
            registration = change(None if raw is None else decode_registration(raw).registration)
            expected = _UNKNOWN_DEVICE if raw is None else registration_part(raw)
            if await self._put(uid, device, registration, now_us, expected, charge):
                return
        raise Contended(f"device {device} was changed concurrently {_MAX_ATTEMPTS} times in a row; try again")

    async def _put(
        self, uid: str, device: str, registration: Registration, now_us: int, expected: bytes, charge: Charge | None
    ) -> bool:
        """Compare-and-set: register if the stored registration equals ``expected`` (empty: unconditionally).

        Returns success.
        """
        registration = replace(registration, push_since_us=0 if registration.push is None else now_us)
        issued_us = registration.registrar.issued_us if registration.registrar is not None else None
        encoded = encode_registration(registration)
        what, before, _ = await self._admit(uid, device, now_us, encoded, "1", expected, charge, issued_us)
        if what == b"revoked":
            raise Problem("unauthorised", "The device token that registered the push token is revoked.")
        if what == b"changed":
            return False
        # The new owner is set first: a crash here leaves a token that only the new device may use.
        await self._push_tokens.claim(uid, device, registration)
        if before is not None and push_token(before.push) != push_token(registration.push):
            await self._push_tokens.release(uid, device, before.registration)
        return True

    async def ensure_device(self, uid: str, device: str, now_us: int, charge: Charge | None = None) -> str | None:
        """See ``Devices.ensure_device``."""
        if await self._call("HEXISTS", self._keys.of_user(uid).devices, device):
            return None  # the usual case
        *_, displaced = await self._admit(uid, device, now_us, _NO_REGISTRATION, "", b"", charge)
        return displaced

    async def list_devices(self, uid: str, now_us: int) -> dict[str, tuple[Registration, PresenceStatus]]:
        """See ``Devices.list_devices``."""
        known, leases = await self._read(uid)
        return {
            device: (kept.registration, presence_of([kept], leases.get(device, ()), now_us, self._gateways))
            for device, kept in sorted(known.items())
        }

    async def device(self, uid: str, device: str, now_us: int) -> tuple[Registration, PresenceStatus] | None:
        """See ``Devices.device``."""
        keys = self._keys.of_user(uid)
        reply = await self._run(self._read_device, (keys.devices, keys.presence), (device,))
        if not reply:
            return None
        raw, fields = reply
        known = decode_registration(raw)
        return known.registration, presence_of([known], leases_of(fields).get(device, ()), now_us, self._gateways)

    async def registration(self, uid: str, device: str) -> Registration | None:
        """See ``Devices.registration``."""
        raw = await self._call("HGET", self._keys.of_user(uid).devices, device)
        return None if raw is None else decode_registration(raw).registration

    async def owns_push_token(self, uid: str, device: str, registration: Registration) -> bool:
        """See ``Devices.owns_push_token``."""
        return await self._push_tokens.owns(uid, device, registration)

    async def remove_push(self, uid: str, device: str, registration: Registration) -> bool:
        """See ``Devices.remove_push``."""
        return await self._push_tokens.remove(uid, device, registration)

    async def remove_pushes(self, uid: str, registrations: Mapping[str, bytes]) -> None:
        """Remove the push tokens of registrations that the deletion of a user found: device → JSON."""
        for device, raw in registrations.items():
            await self.remove_push(uid, device, decode_registration(raw).registration)

    async def forget_device(
        self, uid: str, device: str, now_us: int, epoch_seed: bytes, category_filter: Prefixes = None
    ) -> int:
        """See ``Devices.forget_device``. The commit deletes the registration in the same step as the items."""
        keys = self._keys.of_user(uid)
        raw = await self._call("HGET", keys.devices, device)
        if raw is not None:
            # The commit keeps a registration with a push token: it was stored after this one was removed.
            registration = decode_registration(raw).registration
            await self._push_tokens.remove(uid, device, registration)
        # The items and the registration go in one commit, which publishes a close before its announcement. Sessions
        # follow, with a second close: a connection may have opened between both, and closing twice is harmless.
        reason, caller = RemovalReason.DISPLACED, Sender(BACKEND, category_filter)
        receipt = await self._commit(uid, Commit(now_us, epoch_seed, caller, reason=reason, forget_device=device))
        message = _control_message({"close": {"device": device, "code": CloseCode.STATE_INVALIDATED}})
        await self._run(self._remove_device, (keys.presence, keys.acks), (device, keys.channel, message))
        return receipt.extra_weight

    async def forget_inactive(self, uid: str, now_us: int) -> int | None:
        """See ``Devices.forget_inactive``."""
        known, leases = await self._read(uid)
        check_times = []
        for device, kept in known.items():
            presence = presence_of([kept], leases.get(device, ()), now_us, self._gateways)
            inactive_us = (presence.last_seen_us or kept.first_seen_us) + self._limits.retention_us
            if kept.push is None and inactive_us <= now_us:
                await self.forget_device(uid, device, now_us, secrets.token_bytes(3))
            else:
                check_times.append(
                    max(inactive_us, now_us + self._limits.retention_us) if kept.push is not None else inactive_us
                )
        return min(check_times, default=None)

    async def disconnect_user(self, uid: str, now_us: int) -> None:
        """Revoke all tokens and close all connections: the first step of deleting a user. Repeatable.

        The caller deletes what is stored of the devices.
        """
        await self._revoke_and_publish(
            uid, None, now_us + CLOCK_LEEWAY_US, now_us, {"close": {"device": None, "code": CloseCode.REVOKED}}
        )

    async def _admit(
        self,
        uid: str,
        device: str,
        now_us: int,
        encoded: bytes,
        replaces: str,
        expected: bytes,
        charge: Charge | None,
        issued_us: int | None = None,
    ) -> tuple[bytes, StoredRegistration | None, str | None]:
        """Register, after making room if necessary.

        Returns the result, the registration before, and the removed device.
        """
        displaced: str | None = None
        keys = self._keys.of_user(uid)
        check_us = now_us + self._limits.retention_us
        issued = "" if issued_us is None else issued_us
        arguments = (device, now_us, self._limits.devices, encoded, replaces, uid, check_us, expected, issued)
        script = self._register_small if encoded == _NO_REGISTRATION else self._register
        for _ in range(_MAX_ATTEMPTS):
            what, *before = await self._run(script, (keys.devices, keys.agenda, keys.due, keys.revoked), arguments)
            if what != b"full":
                return what, decode_registration(before[0]) if before else None, displaced
            if charge is not None:
                await charge()
            displaced = await self._displace(uid, now_us)
        raise Contended("too many devices of this user register concurrently; try again")

    async def _displace(self, uid: str, now_us: int) -> str:
        """Remove the device that was offline longest. Raises ``too_many_devices`` if all are online."""
        device = longest_offline(*await self._read(uid), now_us, self._gateways)
        if device is None:
            raise Problem(
                "too_many_devices",
                "The user has the maximum number of devices, and all are online; disconnect one.",
            )
        await self.forget_device(uid, device, now_us, secrets.token_bytes(3))
        return device

    # ---- presence

    async def open_session(
        self, uid: str, device: str, session: DeviceSession, now_us: int, lease_us: int
    ) -> list[tuple[DeviceSession, int]]:
        """See ``Devices.open_session``."""
        keys = self._keys.of_user(uid)
        lease = encode_lease(session, now_us, now_us + lease_us)
        bounds = (self._limits.connections, self._presence_ms(lease_us))
        arguments = (device, session.session, lease, now_us, *bounds, self._gateways.names)
        displaced = await self._run(self._open_session, (keys.presence, keys.devices), (*arguments, ""))
        if displaced and displaced[0] == b"?":
            ends = self._gateways.ends_of(name.decode() for name in displaced[1:])
            displaced = await self._run(self._open_session, (keys.presence, keys.devices), (*arguments, ends))
        gone = [found.open for raw in displaced if (found := decode_lease(raw)) is not None]
        return [
            (old, CloseCode.REPLACED if old.session == session.session else CloseCode.TOO_MANY_CONNECTIONS)
            for old in gone
        ]

    async def renew_sessions(
        self,
        entries: Sequence[tuple[str, str, DeviceSession]],
        now_us: int,
        lease_us: int,
        *,
        only_open: bool = False,
    ) -> None:
        """See ``Devices.renew_sessions``."""
        lifetime_ms = self._presence_ms(lease_us)
        for start in range(0, len(entries), _BATCH_SIZE):
            await results_of(
                self._connection.evalsha(
                    self._renew_session,
                    (self._keys.of_user(uid).presence,),
                    (
                        _field(device, session.session),
                        encode_lease(session, now_us, now_us + lease_us),
                        now_us,
                        lifetime_ms,
                        self._gateways.names,
                        int(only_open),
                    ),
                )
                for uid, device, session in entries[start : start + _BATCH_SIZE]
            )

    async def close_session(self, uid: str, device: str, session: DeviceSession, now_us: int) -> None:
        """See ``Devices.close_session``."""
        keys = self._keys.of_user(uid)
        lease = encode_lease(session, now_us, now_us)
        arguments = (device, session.session, lease, now_us, self._gateways.names, self._presence_ms(0))
        await self._run(self._close_session, (keys.presence, keys.devices), arguments)

    async def count_sessions(self, uid: str) -> int:
        """See ``Devices.count_sessions``."""
        return int(await self._call("HLEN", self._keys.of_user(uid).presence))

    async def session(self, uid: str, device: str, session: str, now_us: int) -> DeviceSession | None:
        """See ``Devices.session``."""
        raw = await self._call("HGET", self._keys.of_user(uid).presence, _field(device, session))
        if raw is None:
            return None
        lease = decode_lease(raw)
        return lease.open if lease is not None and lease.is_open(now_us, self._gateways) else None

    async def presence(self, uids: Sequence[str], now_us: int) -> list[PresenceStatus]:
        """See ``Devices.presence``."""
        replies = await results_of(self._connection.call(*read) for read in self._presence_reads(uids))
        return [self._presence_of(*each, now_us) for each in zip(replies[::2], replies[1::2], strict=True)]

    async def reachable_presence(self, uids: Sequence[str], now_us: int) -> dict[str, PresenceStatus]:
        """See ``Devices.reachable_presence``."""
        lengths = await self._reached(list(dict.fromkeys(uids)), ("HLEN", "HLEN"))
        found: dict[str, PresenceStatus] = {}
        failure: Unavailable | None = None
        for group in _groups({uid: sum(counts) for uid, counts in lengths.items()}):
            try:
                reached = await self._reached(group, is_part=True)
            except Unavailable as error:
                failure = error
            else:
                found |= {uid: self._presence_of(*replies, now_us) for uid, replies in reached.items()}
        if failure is not None and not found:
            try:
                raise failure
            finally:
                del failure  # as in ``result_or_raise``
        return found

    async def _reached(
        self, uids: Sequence[str], names: tuple[str, str] = _PRESENCE_READS, *, is_part: bool = False
    ) -> dict[str, tuple[Any, Any]]:
        """Return the two replies of each user whose server is reachable. Raises ``Unavailable`` if none is."""
        reads = self._presence_reads(uids, names)
        reached = results_of_reached(await call_each_node(self._connection, reads, is_part=is_part))
        places = range(0, len(reads), 2)
        pairs = {uid: (reached.get(at), reached.get(at + 1)) for uid, at in zip(uids, places, strict=True)}
        return {uid: pair for uid, pair in pairs.items() if None not in pair}

    def _presence_reads(self, uids: Sequence[str], names: tuple[str, str] = _PRESENCE_READS) -> list[tuple[str, str]]:
        """Return two reads for each user: of the registrations, and of the leases."""
        of_devices, of_presence = names
        keys = map(self._keys.of_user, uids)
        return [read for of in keys for read in ((of_devices, of.devices), (of_presence, of.presence))]

    def _presence_of(self, known: Sequence[bytes], fields: Any, now_us: int) -> PresenceStatus:
        return presence_of(map(decode_registration, known), every_lease(fields), now_us, self._gateways)

    async def foreground_until(self, uid: str, now_us: int) -> int | None:
        """See ``Devices.foreground_until``."""
        fields = await self._call("HGETALL", self._keys.of_user(uid).presence)
        message = [int(raw) for field, raw in field_pairs(fields) if field == FOREGROUND_FIELD]
        return foreground_until(every_lease(fields), message, now_us, self._gateways)

    async def audience(self, uid: str, now_us: int) -> Audience:
        """See ``Devices.audience``."""
        keys, gateways = self._keys.of_user(uid), self._gateways
        replies = await results_of(
            self._connection.call("HGETALL", key) for key in (keys.devices, keys.presence, keys.acks)
        )
        registrations, fields, acks = replies
        leases = leases_of(fields)
        devices: dict[str, tuple[Registration, PresenceStatus]] = {}
        for name, raw in field_pairs(registrations):
            device, stored = name.decode(), decode_registration(raw)
            devices[device] = stored.registration, presence_of([stored], leases.get(device, ()), now_us, gateways)
        last_us = [int(raw) for field, raw in field_pairs(fields) if field == FOREGROUND_FIELD]
        every = [lease for held in leases.values() for lease in held]
        foreground_us = foreground_until(every, last_us, now_us, gateways)
        stored_bytes = sum(len(part) for reply in replies for part in reply)
        return audience_of(devices, _acknowledged(acks), foreground_us, stored_bytes)

    def _presence_ms(self, lease_us: int) -> int:
        """Return the TTL of presence in ms. An expired lease still shows when the device was last seen."""
        return -(-max(self._limits.retention_us, lease_us) // 1_000)

    # ---- acknowledgements, revocations, controls

    async def acknowledge(self, uid: str, view: View, seq: int, now_us: int) -> None:
        """See ``Devices.acknowledge``."""
        keys = self._keys.of_user(uid)
        webhook_keys: tuple[str, ...] = ()
        if self._recorded_events.acknowledgements:
            webhook_keys = (keys.agenda, keys.due, keys.live, keys.acknowledged_items)
        step = step_us(ACKNOWLEDGED_ITEMS.rate)
        bucket = (step, ACKNOWLEDGED_ITEMS.burst * step, ACKNOWLEDGEMENT_COST)
        category_filter = pack_category_filter(compact_view(view).category_filter)
        bounds = (MAX_VIEWS, self._limits.devices, now_us, MAX_ACKNOWLEDGEMENTS, self._limits.retention_us // 1_000)
        webhook_bounds = (uid, MAX_DUE_BEFORE_ACKNOWLEDGEMENT, *bucket)
        arguments = (view.device, category_filter, seq, *bounds, *webhook_bounds, MAX_VIEW_PREFIXES)
        await self._run(self._acknowledge, (keys.acks, keys.seen, keys.state, *webhook_keys), arguments)

    async def acknowledgements(self, uid: str) -> list[Acknowledgement]:
        """See ``Devices.acknowledgements``."""
        return [decode_acknowledgement(raw) for raw in await self._call("LRANGE", self._keys.of_user(uid).seen, 0, -1)]

    async def acknowledged(self, uid: str) -> dict[View, int]:
        """See ``Devices.acknowledged``."""
        return _acknowledged(await self._call("HGETALL", self._keys.of_user(uid).acks))

    async def revoke(self, uid: str, device: str | None, issued_before_us: int, now_us: int) -> None:
        """See ``Devices.revoke``. Repeatable."""
        message = {"revoke": {"device": device, "issued_before_us": issued_before_us}}
        await self._revoke_and_publish(uid, device, issued_before_us, now_us, message)
        # The script of a registration reads the revocation. A token registered before it is found here.
        for attempt in range(_MAX_ATTEMPTS):
            known, leases = await self._read(uid)
            if attempt == 0:
                await self._close_parked(uid, device, issued_before_us, now_us, leases)
            covered = [
                (name, kept.registration)
                for name, kept in known.items()
                if device in (None, name) and kept.registration.is_push_revoked(issued_before_us)
            ]
            if not covered:
                return
            for name, registration in covered:
                await self.remove_push(uid, name, registration)
        raise Contended("devices of this user register concurrently; try again")

    async def _close_parked(
        self,
        uid: str,
        device: str | None,
        issued_before_us: int,
        now_us: int,
        leases: Mapping[str, Sequence[SessionLease]],
    ) -> None:
        """Close the sessions of revoked tokens that no gateway holds. Gateways close the others."""
        for name, held in leases.items():
            for session in (lease.open for lease in held):
                is_covered = device in (None, name) and session.issued_us <= issued_before_us
                if is_covered and session.gateway == NO_GATEWAY:
                    await self.close_session(uid, name, session, now_us)

    async def _revoke_and_publish(
        self, uid: str, device: str | None, issued_before_us: int, now_us: int, message: Mapping[str, Any]
    ) -> None:
        """Revoke tokens and publish that to the gateways in one step."""
        keys = self._keys.of_user(uid)
        lifetime_ms = (max(issued_before_us - now_us, 0) + self._token_lifetime_us) // 1_000
        times = (issued_before_us, now_us - self._token_lifetime_us, lifetime_ms)
        await self._run(self._revoke, (keys.revoked,), (device or "", *times, keys.channel, _control_message(message)))

    async def revoked_before(self, uid: str, device: str) -> int | None:
        """See ``Devices.revoked_before``."""
        moments = await self._call("HMGET", self._keys.of_user(uid).revoked, device, "")
        return max((int(moment) for moment in moments if moment is not None), default=None)

    async def publish_control(self, uid: str, document: Mapping[str, Any]) -> None:
        """See ``Devices.publish_control``."""
        await self._call("SPUBLISH", self._keys.of_user(uid).channel, _control_message(document))

    async def _read(self, uid: str) -> tuple[dict[str, StoredRegistration], dict[str, list[SessionLease]]]:
        """Return all registrations, and the leases of each device, expired ones too."""
        keys = self._keys.of_user(uid)
        known, fields = await results_of(self._connection.call("HGETALL", key) for key in (keys.devices, keys.presence))
        return {device.decode(): decode_registration(raw) for device, raw in field_pairs(known)}, leases_of(fields)

    async def _call(self, *command: Argument) -> Any:
        return await result_of(self._connection.call(*command))

    async def _run(self, script: Script, keys: Sequence[Argument], arguments: Sequence[Argument]) -> Any:
        return await result_of(self._connection.evalsha(script, keys, arguments))


def _control_message(document: Mapping[str, Any]) -> bytes:
    """Return a control message as it is published on a user's channel (`core.items.announcement`)."""
    return b"K" + msgspec.json.encode(document)


def _acknowledged(fields: Sequence[bytes]) -> dict[View, int]:
    return {view: seq for device, raw in field_pairs(fields) for view, seq in decode_acknowledged(device, raw)}


def _groups(lengths: Mapping[str, int]) -> Iterator[list[str]]:
    """Yield the users in groups with ``_READ_AT_ONCE`` entries at most. A user with more is a group."""
    group, total = list[str](), 0
    for uid, length in lengths.items():
        if group and total + length > _READ_AT_ONCE:
            yield group
            group, total = [], 0
        group.append(uid)
        total += length
    if group:
        yield group


def _field(device: str, name: str) -> str:
    return f"{device}\0{name}"
