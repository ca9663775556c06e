"""Executable specification: never runs in production. Devices: sessions, presence, acknowledgements, revocations."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from gregor.core.category_filter import pack_category_filter
from gregor.core.close_codes import CloseCode
from gregor.core.errors import Problem
from gregor.core.ids import BACKEND, Prefixes
from gregor.core.items.sync import View
from gregor.core.messages.model import Commit, RemovalReason, Sender
from gregor.core.notify.acknowledged_views import compact_view, displaced_views, unreported
from gregor.core.notify.escalation import Audience
from gregor.core.notify.timeline import (
    ACKNOWLEDGED_ITEMS,
    ACKNOWLEDGEMENT_COST,
    MAX_ACKNOWLEDGEMENTS,
    MAX_DUE_BEFORE_ACKNOWLEDGEMENT,
    Acknowledgement,
)
from gregor.core.rate_limit import take
from gregor.store.audience import audience_of
from gregor.store.contract.devices import Charge, DeviceSession, PresenceStatus, Registration
from gregor.store.gateways import NO_GATEWAY

from .data import MemoryData, MemoryLease
from .users import MemoryUsers


class MemoryDevices:
    """``contract.Devices`` in memory."""

    def __init__(self, data: MemoryData, users: MemoryUsers) -> None:
        self._data = data
        self._users = users

    async def put_device(
        self, uid: str, device: str, registration: Registration, now_us: int, charge: Charge | None = None
    ) -> None:
        """See ``contract.Devices.put_device``."""
        before_us = await self.revoked_before(uid, device)
        registrar = registration.registrar
        if before_us is not None and registrar is not None and registration.is_push_revoked(before_us):
            raise Problem("unauthorised", "The device token that registered the push token is revoked.")
        await self._charge(uid, device, charge)
        self._admit(uid, device, now_us)
        self._release_push(uid, device)
        token = _token(registration)
        if token is not None:
            holder = self._data.push_holders.get(token)
            if holder is not None:
                registrations = self._data.owner(holder[0]).registrations
                registrations[holder[1]] = replace(registrations[holder[1]], push=None, registrar=None)
            self._data.push_holders[token] = (uid, device)
        self._data.owner(uid).registrations[device] = replace(registration, push_since_us=now_us if token else 0)

    async def change_device(
        self,
        uid: str,
        device: str,
        change: Callable[[Registration | None], Registration],
        now_us: int,
        charge: Charge | None = None,
    ) -> None:
        """See ``contract.Devices.change_device``."""
        await self._charge(uid, device, charge)
        # No await between the read and the write: atomic.
        await self.put_device(uid, device, change(self._data.owner(uid).registrations.get(device)), now_us)

    async def ensure_device(self, uid: str, device: str, now_us: int, charge: Charge | None = None) -> str | None:
        """See ``contract.Devices.ensure_device``."""
        await self._charge(uid, device, charge)
        displaced = self._admit(uid, device, now_us)
        self._data.owner(uid).registrations.setdefault(device, Registration())
        return displaced

    async def list_devices(self, uid: str, now_us: int) -> dict[str, tuple[Registration, PresenceStatus]]:
        """See ``contract.Devices.list_devices``."""
        registrations = sorted(self._data.owner(uid).registrations.items())
        return {device: (kept, self._presence(uid, device, now_us)) for device, kept in registrations}

    async def device(self, uid: str, device: str, now_us: int) -> tuple[Registration, PresenceStatus] | None:
        """See ``contract.Devices.device``."""
        kept = self._data.owner(uid).registrations.get(device)
        return None if kept is None else (kept, self._presence(uid, device, now_us))

    async def registration(self, uid: str, device: str) -> Registration | None:
        """See ``contract.Devices.registration``."""
        return self._data.owner(uid).registrations.get(device)

    async def owns_push_token(self, uid: str, device: str, registration: Registration) -> bool:
        """See ``contract.Devices.owns_push_token``."""
        token = _token(registration)
        return token is not None and self._data.push_holders.get(token) == (uid, device)

    async def remove_push(self, uid: str, device: str, registration: Registration) -> bool:
        """See ``contract.Devices.remove_push``."""
        kept = self._data.owner(uid).registrations.get(device)
        if kept is None or registration.push is None or kept != registration:
            return False
        if kept.push_since_us != registration.push_since_us:
            return False
        self._release_push(uid, device)
        self._data.owner(uid).registrations[device] = Registration(kept.platform, None, kept.locale)
        return True

    async def forget_device(
        self, uid: str, device: str, now_us: int, epoch_seed: bytes, category_filter: Prefixes = None
    ) -> int:
        """See ``contract.Devices.forget_device``."""
        self._forget(uid, device, now_us, epoch_seed, category_filter)
        return 0

    async def forget_inactive(self, uid: str, now_us: int) -> int | None:
        """See ``contract.Devices.forget_inactive``."""
        owner, retention_us, looks = self._data.owner(uid), self._data.limits.retention_us, []
        for device, kept in sorted(owner.registrations.items()):
            seen_us = self._presence(uid, device, now_us).last_seen_us or owner.first_seen_us[device]
            if kept.push is None and seen_us + retention_us <= now_us:
                self._forget(uid, device, now_us, secrets.token_bytes(3))
            else:
                looks.append(max(seen_us, now_us if kept.push is not None else 0) + retention_us)
        return min(looks, default=None)

    async def open_session(
        self, uid: str, device: str, session: DeviceSession, now_us: int, lease_us: int
    ) -> list[tuple[DeviceSession, int]]:
        """See ``contract.Devices.open_session``."""
        live = self._leases(uid, device, now_us)
        displaced: list[tuple[DeviceSession, int]] = []
        old = live.pop(session.session, None)
        if old is not None:
            self._record_foreground(uid, old, now_us)
            if old.session.connection != session.connection:
                displaced.append((old.session, CloseCode.REPLACED))
        oldest_first = sorted((lease.session for lease in live.values()), key=lambda s: (s.opened_us, s.session))
        for over in oldest_first[: max(0, len(oldest_first) + 1 - self._data.limits.connections)]:
            displaced.append((over, CloseCode.TOO_MANY_CONNECTIONS))
            self._record_foreground(uid, live.pop(over.session), now_us)
        live[session.session] = MemoryLease(session, now_us + lease_us, now_us)
        self._see(uid, device, now_us)
        return displaced

    async def renew_sessions(
        self,
        entries: Sequence[tuple[str, str, DeviceSession]],
        now_us: int,
        lease_us: int,
        *,
        only_open: bool = False,
    ) -> None:
        """See ``contract.Devices.renew_sessions``."""
        for uid, device, session in entries:
            live = self._leases(uid, device, now_us)
            held = live.get(session.session)
            is_own = held is not None and held.session.connection == session.connection
            if is_own if only_open else held is None or is_own or held.session.opened_us < session.opened_us:
                if held is not None and not session.foreground:
                    self._record_foreground(uid, held, now_us)
                lease = MemoryLease(session, now_us + lease_us, now_us)
                if only_open and held is not None:
                    kept = replace(session, gateway=held.session.gateway)
                    lease = MemoryLease(kept, max(now_us + lease_us, held.until_us), now_us)
                live[session.session] = lease
                self._see(uid, device, now_us)

    async def close_session(self, uid: str, device: str, session: DeviceSession, now_us: int) -> None:
        """See ``contract.Devices.close_session``."""
        live = self._leases(uid, device, now_us)
        held = live.get(session.session)
        if held is not None and held.session.connection == session.connection:
            self._record_foreground(uid, live.pop(session.session), now_us)
            self._see(uid, device, now_us)

    async def count_sessions(self, uid: str) -> int:
        """See ``contract.Devices.count_sessions``."""
        return sum(map(len, self._data.owner(uid).leases.values()))

    async def session(self, uid: str, device: str, session: str, now_us: int) -> DeviceSession | None:
        """See ``contract.Devices.session``."""
        held = self._leases(uid, device, now_us).get(session)
        return held.session if held is not None else None

    async def presence(self, uids: Sequence[str], now_us: int) -> list[PresenceStatus]:
        """See ``contract.Devices.presence``."""
        return [self._presence_of_all(uid, now_us) for uid in uids]

    async def reachable_presence(self, uids: Sequence[str], now_us: int) -> dict[str, PresenceStatus]:
        """See ``contract.Devices.reachable_presence``: every user is reachable."""
        return {uid: self._presence_of_all(uid, now_us) for uid in uids}

    async def foreground_until(self, uid: str, now_us: int) -> int | None:
        """See ``contract.Devices.foreground_until``."""
        owner = self._data.owner(uid)
        leases = [lease for device in list(owner.leases) for lease in self._leases(uid, device, now_us).values()]
        is_front = any(lease.session.foreground and lease.session.category_filter is None for lease in leases)
        return now_us if is_front else owner.last_foreground_us

    async def audience(self, uid: str, now_us: int) -> Audience:
        """See ``contract.Devices.audience``."""
        foreground_us = await self.foreground_until(uid, now_us)
        leases = [lease for held in self._data.owner(uid).leases.values() for lease in held.values()]
        filters = [each for lease in leases for each in (lease.session.category_filter, lease.session.systems)]
        stored_bytes = sum(len(pack_category_filter(each)) for each in filters)
        devices, acks = await self.list_devices(uid, now_us), await self.acknowledged(uid)
        return audience_of(devices, acks, foreground_us, stored_bytes)

    async def acknowledge(self, uid: str, view: View, seq: int, now_us: int) -> None:
        """See ``contract.Devices.acknowledge``."""
        if (user := self._data.users.get(uid)) is None or seq > user.seq:
            return
        owner, view = self._data.owner(uid), compact_view(view)
        before = owner.acknowledged.get(view, 0)
        if view in owner.acknowledged and seq <= before:
            return
        new = None
        if self._data.recorded_events.acknowledgements:
            due = sum(at_us <= now_us for at_us in self._data.agenda(uid).values())
            if due >= MAX_DUE_BEFORE_ACKNOWLEDGEMENT or not self._has_items(uid, now_us):
                return
            new = self._unreported(uid, view, seq)
            if new and not self._take_items(uid, new[1], seq, now_us):
                return
        owner.acknowledged.pop(view, None)
        self._make_room_for_view(owner.acknowledged, view)
        owner.acknowledged[view] = seq
        owner.seen = [*owner.seen, Acknowledgement(view, before, seq, now_us)][-MAX_ACKNOWLEDGEMENTS:]
        if new is not None:
            prefixes, since = new
            owner.agenda[f"k{view.device}\0{pack_category_filter(prefixes)}\0{since}\0{seq}"] = now_us
            self._data.note(uid, [now_us])

    def _unreported(self, uid: str, view: View, seq: int) -> tuple[Prefixes, int] | None:
        """Return what is new in an acknowledgement of a view."""
        known = self._data.owner(uid).acknowledged.items()
        of_device = {each.category_filter: at for each, at in known if each.device == view.device}
        return unreported(view.category_filter, seq, of_device)

    def _has_items(self, uid: str, now_us: int) -> bool:
        """Return whether the bucket of acknowledged items holds the cost of an acknowledgement without items."""
        name, rate, burst = ACKNOWLEDGED_ITEMS.name, ACKNOWLEDGED_ITEMS.rate, ACKNOWLEDGED_ITEMS.burst
        full_at_us = self._data.owner(uid).budgets.get(name, 0)
        return not take(full_at_us, rate, burst, ACKNOWLEDGEMENT_COST, now_us)[1]

    def _take_items(self, uid: str, since: int, seq: int, now_us: int) -> bool:
        """Take the live items that were created in a range from the bucket of acknowledged items."""
        user, budgets = self._data.users.get(uid), self._data.owner(uid).budgets
        live = [] if user is None else [record for record in user.live.values() if since < record.seq <= seq]
        name, rate, burst = ACKNOWLEDGED_ITEMS.name, ACKNOWLEDGED_ITEMS.rate, ACKNOWLEDGED_ITEMS.burst
        count = min(len(live) + ACKNOWLEDGEMENT_COST, burst)
        budgets[name], wait_s = take(budgets.get(name, 0), rate, burst, count, now_us)
        return not wait_s

    def _make_room_for_view(self, acknowledged: dict[View, int], new: View) -> None:
        """Remove views of the device that were acknowledged the longest ago, or the device with the lowest seq."""
        highest = {view.device: 0 for view in acknowledged}
        for view, seq in acknowledged.items():
            highest[view.device] = max(seq, highest[view.device])
        if new.device in highest:
            views = [view for view in acknowledged if view.device == new.device]
            removed = views[: displaced_views([view.category_filter for view in views], new.category_filter)]
        elif len(highest) >= self._data.limits.devices:
            lowest = min(highest, key=lambda each: highest[each])
            removed = [view for view in acknowledged if view.device == lowest]
        else:
            removed = []
        for view in removed:
            del acknowledged[view]

    async def acknowledged(self, uid: str) -> dict[View, int]:
        """See ``contract.Devices.acknowledged``."""
        return dict(self._data.owner(uid).acknowledged)

    async def acknowledgements(self, uid: str) -> list[Acknowledgement]:
        """See ``contract.Devices.acknowledgements``."""
        return list(self._data.owner(uid).seen)

    async def revoke(self, uid: str, device: str | None, issued_before_us: int, now_us: int) -> None:
        """See ``contract.Devices.revoke``."""
        self._data.revoke(uid, device, issued_before_us)
        for name, kept in list(self._data.owner(uid).registrations.items()):
            if device in (None, name) and kept.is_push_revoked(issued_before_us):
                await self.remove_push(uid, name, kept)
        self._data.control(uid, {"revoke": {"device": device, "issued_before_us": issued_before_us}})
        for name in list(self._data.owner(uid).leases):
            for session in [lease.session for lease in self._leases(uid, name, now_us).values()]:
                is_covered = device in (None, name) and session.issued_us <= issued_before_us
                if is_covered and session.gateway == NO_GATEWAY:
                    await self.close_session(uid, name, session, now_us)

    async def revoked_before(self, uid: str, device: str) -> int | None:
        """See ``contract.Devices.revoked_before``."""
        return self._data.revoked_before(uid, device)

    async def publish_control(self, uid: str, document: Mapping[str, Any]) -> None:
        """See ``contract.Devices.publish_control``."""
        self._data.control(uid, document)

    def _is_full(self, uid: str, device: str) -> bool:
        """Return whether a registration of this device needs the place of another one."""
        registrations = self._data.owner(uid).registrations
        return device not in registrations and len(registrations) >= self._data.limits.devices

    async def _charge(self, uid: str, device: str, charge: Charge | None) -> None:
        if charge is not None and self._is_full(uid, device):
            await charge()

    def _admit(self, uid: str, device: str, now_us: int) -> str | None:
        """Make room for an unknown device. Returns the device that was evicted, or None."""
        owner = self._data.owner(uid)
        if device in owner.registrations:
            return None
        displaced = None
        if self._is_full(uid, device):
            offline = [
                (kept.push is not None, presence.last_seen_us or owner.first_seen_us[name], name)
                for name, kept in owner.registrations.items()
                if not (presence := self._presence(uid, name, now_us)).online
            ]
            if not offline:
                raise Problem("too_many_devices", "The user has as many devices as allowed, and all are online.")
            *_, displaced = min(offline)
            self._forget(uid, displaced, now_us, secrets.token_bytes(3))
        owner.first_seen_us[device] = now_us
        if "v" not in owner.agenda:
            owner.agenda["v"] = now_us + self._data.limits.retention_us
            self._data.note(uid, [owner.agenda["v"]])
        return displaced

    def _forget(self, uid: str, device: str, now_us: int, epoch_seed: bytes, category_filter: Prefixes = None) -> None:
        caller = Sender(BACKEND, category_filter)
        commit = Commit(now_us, epoch_seed, caller, reason=RemovalReason.DISPLACED, forget_device=device)
        self._users.commit_now(uid, commit)
        self._release_push(uid, device)
        owner = self._data.owner(uid)
        for kept in (owner.registrations, owner.leases, owner.first_seen_us, owner.last_seen_us):
            kept.pop(device, None)
        owner.acknowledged = {key: seq for key, seq in owner.acknowledged.items() if key.device != device}
        self._data.close_device(uid, device)

    def _release_push(self, uid: str, device: str) -> None:
        kept = self._data.owner(uid).registrations.get(device)
        token = _token(kept) if kept is not None else None
        if token is not None:
            self._data.push_holders.pop(token, None)

    def _leases(self, uid: str, device: str, now_us: int) -> dict[str, MemoryLease]:
        """Return the open sessions of a device, after dropping those whose own lease and gateway are over."""
        leases = self._data.owner(uid).leases.setdefault(device, {})
        for name in [name for name, lease in leases.items() if not self._is_open(lease, now_us)]:
            lapsed = leases.pop(name)
            last_us = max(lapsed.seen_us, self._data.gateways.get(lapsed.session.gateway, 0))
            self._record_foreground(uid, lapsed, last_us)
            self._see(uid, device, last_us)
        return leases

    def _is_open(self, lease: MemoryLease, now_us: int) -> bool:
        return lease.until_us > now_us or self._data.is_alive(lease.session.gateway, now_us)

    def _record_foreground(self, uid: str, lease: MemoryLease, at_us: int) -> None:
        """Record that a connection without a category filter left the foreground at ``at_us``, if it was in it."""
        owner = self._data.owner(uid)
        if lease.session.foreground and lease.session.category_filter is None:
            owner.last_foreground_us = max(at_us, owner.last_foreground_us or 0)

    def _see(self, uid: str, device: str, now_us: int) -> None:
        seen = self._data.owner(uid).last_seen_us
        seen[device] = max(now_us, seen.get(device, 0))

    def _presence(self, uid: str, device: str, now_us: int) -> PresenceStatus:
        sessions = [lease.session for lease in self._leases(uid, device, now_us).values()]
        last_seen_us = now_us if sessions else self._data.owner(uid).last_seen_us.get(device)
        filters = tuple(session.category_filter for session in sessions if session.foreground)
        return PresenceStatus(bool(sessions), bool(filters), last_seen_us, filters)

    def _presence_of_all(self, uid: str, now_us: int) -> PresenceStatus:
        owner = self._data.owner(uid)
        every = [self._presence(uid, device, now_us) for device in owner.last_seen_us]
        seen = [presence.last_seen_us for presence in every if presence.last_seen_us is not None]
        is_online, is_foreground = any(p.online for p in every), any(p.foreground for p in every)
        return PresenceStatus(is_online, is_foreground, now_us if is_online else max(seen, default=None))


def _token(registration: Registration) -> str | None:
    """Return what identifies a push registration: its provider, and its token or Web Push endpoint."""
    push = registration.push
    if not push:
        return None
    provider, token = push.get("provider"), push.get("token")
    text = str(token["endpoint"] if isinstance(token, Mapping) else token)
    return f"{provider}:{text.lower() if provider == 'apns' else text}"


class MemoryGateways:
    """``contract.Gateways`` in memory: every process knows each renewal at once."""

    def __init__(self, data: MemoryData) -> None:
        self._data = data

    @property
    def live_count(self) -> int:
        """See ``contract.Gateways.live_count``."""
        read_us = max(self._data.gateways.values(), default=0)
        return sum(self._data.is_alive(gateway, read_us) for gateway in self._data.gateways)

    async def renew(self, gateway: str, now_us: int) -> bool:
        """See ``contract.Gateways.renew``."""
        is_alive = self._data.is_alive(gateway, now_us)
        self._data.gateways[gateway] = now_us
        return is_alive

    async def refresh(self, now_us: int) -> None:
        """See ``contract.Gateways.refresh``."""
