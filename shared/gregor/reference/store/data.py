"""Executable specification: never runs in production. The data of the store in memory, and its announcements."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec

from gregor.core.close_codes import CloseCode
from gregor.core.items.sync import View
from gregor.core.limits import Limits
from gregor.core.notify.contact import NO_CONTACT, NO_PREFERENCES, Contact, Preferences
from gregor.core.notify.ledger import DeliveryRecord
from gregor.core.notify.timeline import Acknowledgement
from gregor.reference.model import NEVER_US, UserState
from gregor.store.contract.access import Ticket
from gregor.store.contract.devices import DeviceSession, Registration
from gregor.store.contract.webhooks import RecordedEvents
from gregor.store.gateways import GATEWAY_LEASE_US

DeliveryKey = tuple[str, str, str, int, str, str]
"""The key of a delivery: ``Intent.key``."""


class Publisher(Protocol):
    """The destination of announcements: ``MemoryPubSub``."""

    def publish(self, channel: bytes | str, payload: bytes, *, sharded: bool = True) -> None:
        """Deliver to the subscribers of the channel."""
        ...


@dataclass(slots=True)
class MemoryLease:
    """A session, the end of its lease, and the time when it was last written."""

    session: DeviceSession
    until_us: int
    seen_us: int


@dataclass(slots=True)
class UserData:
    """The data of one user apart from its state. ``revoked``: device (None: all) to the time, in µs.

    ``last_foreground_us``: the last time in the foreground, by ended leases. ``delayed_messages``: id to delayed
    message. ``agenda``: entries that no commit makes, name to time (``reference.agenda``). ``delivered``: item to the
    time of its newest delivery. ``event_items``: the same of webhook events, for the bound of those that wait.
    ``places``: collapse id to (lease, delivery). ``woken``: device and channel to the times of wake-ups. ``budgets``:
    name to the time at which the bucket is full again. ``folded``: deliveries above the push budget. ``traces``: item
    to the trace of its sampled message.
    """

    registrations: dict[str, Registration] = field(default_factory=dict)
    leases: dict[str, dict[str, MemoryLease]] = field(default_factory=dict)
    first_seen_us: dict[str, int] = field(default_factory=dict)
    last_seen_us: dict[str, int] = field(default_factory=dict)
    acknowledged: dict[View, int] = field(default_factory=dict)
    seen: list[Acknowledgement] = field(default_factory=list)
    last_foreground_us: int | None = None
    revoked: dict[str | None, int] = field(default_factory=dict)
    delayed_messages: dict[str, bytes] = field(default_factory=dict)
    agenda: dict[str, int] = field(default_factory=dict)
    contact: Contact = NO_CONTACT
    preferences: Preferences = NO_PREFERENCES
    deliveries: dict[DeliveryKey, DeliveryRecord] = field(default_factory=dict)
    delivered: dict[str, int] = field(default_factory=dict)
    event_items: dict[str, int] = field(default_factory=dict)
    places: dict[str, tuple[int, DeliveryKey]] = field(default_factory=dict)
    woken: dict[tuple[str, str], tuple[int, ...]] = field(default_factory=dict)
    budgets: dict[str, int] = field(default_factory=dict)
    folded: list[DeliveryKey] = field(default_factory=list)
    traces: dict[str, bytes] = field(default_factory=dict)


def agenda_entries(user: UserState) -> dict[str, int]:
    """Return the agenda entries that come from a user's state: name to time (µs)."""
    expiries = {
        f"x{item_id}": record.item.expires_us
        for item_id, record in user.live.items()
        if record.item.expires_us is not None
    }
    garbage = {"g": user.collect_at_us} if user.collect_at_us != NEVER_US else {}
    return expiries | garbage | user.agenda


class MemoryData:
    """All dictionaries. ``dead``: dead letters, path to time (``ledger.delivery_path``).

    ``forgotten``: traces of deleted users.

    No method awaits: everything between two awaits is atomic.
    """

    def __init__(self, limits: Limits, feed: Publisher | None, namespace: str) -> None:
        self.recorded_events = RecordedEvents()
        self.limits = limits
        self.users: dict[str, UserState] = {}
        self.owners: dict[str, UserData] = {}
        self.push_holders: dict[str, tuple[str, str]] = {}
        self.dead: dict[str, int] = {}
        self.forgotten: dict[str, int] = {}
        self.due: dict[str, int] = {}
        self.tickets: dict[str, tuple[Ticket, int]] = {}
        self.gateways: dict[str, int] = {}
        self.generation = 0
        self.reset_number = 0
        self.spread_s = 0
        self._feed = feed
        self._namespace = namespace

    def is_alive(self, gateway: str, now_us: int) -> bool:
        """Return whether a gateway renewed its lease in time."""
        return self.gateways.get(gateway, 0) > now_us - GATEWAY_LEASE_US

    def channel_of(self, uid: str) -> str:
        """Return the channel of a user."""
        return f"{self._namespace}:user:{uid}"

    @property
    def reset_channel(self) -> str:
        """The channel of all users."""
        return f"{self._namespace}:flush"

    @property
    def categories_channel(self) -> str:
        """The channel of new categories."""
        return f"{self._namespace}:categories"

    @property
    def webhooks_channel(self) -> str:
        """The channel of changed webhooks."""
        return f"{self._namespace}:webhooks"

    def announce(self, uid: str, payload: bytes) -> None:
        """Publish to the gateways with connections of a user."""
        if self._feed is not None:
            self._feed.publish(self.channel_of(uid), payload)

    def announce_to_all(self, payload: bytes) -> None:
        """Publish to every gateway."""
        if self._feed is not None:
            self._feed.publish(self.reset_channel, payload, sharded=False)

    def announce_categories(self, version: int) -> None:
        """Publish the version of new categories."""
        if self._feed is not None:
            self._feed.publish(self.categories_channel, b"%d" % version, sharded=False)

    def announce_webhooks(self, version: int) -> None:
        """Publish the version of changed webhooks."""
        if self._feed is not None:
            self._feed.publish(self.webhooks_channel, b"%d" % version, sharded=False)

    def control(self, uid: str, document: Mapping[str, Any]) -> None:
        """Publish a control document to the gateways of a user."""
        self.announce(uid, b"K" + msgspec.json.encode(document))

    def close_device(self, uid: str, device: str) -> None:
        """Publish that the connections of a device that was forgotten are to be closed."""
        self.control(uid, {"close": {"device": device, "code": CloseCode.STATE_INVALIDATED}})

    def owner(self, uid: str) -> UserData:
        """Return the data of a user, created if needed."""
        return self.owners.setdefault(uid, UserData())

    def agenda(self, uid: str) -> dict[str, int]:
        """Return all entries of a user's agenda: name to time (µs)."""
        user = self.users.get(uid)
        return ({} if user is None else agenda_entries(user)) | self.owner(uid).agenda

    def note(self, uid: str, at_us: Iterable[int]) -> None:
        """Record new work of a user: it is due at the first of these times, or earlier. It overrides a lease."""
        first_us = min(at_us, default=None)
        if first_us is not None:
            self.due[uid] = min(first_us, self.due.get(uid, first_us))

    def reschedule(
        self, uid: str, now_us: int, user: UserState | None = None, held: Mapping[str, int] | None = None
    ) -> None:
        """Set the due time of a user to its first agenda entry, or to ``now_us`` if that is later.

        ``held``: entries with another time.
        """
        entries = self.agenda(uid) | ({} if user is None else agenda_entries(user))
        if entries:
            self.due[uid] = max(now_us, min((held or {}).get(name, at_us) for name, at_us in entries.items()))
        else:
            self.due.pop(uid, None)

    def revoke(self, uid: str, device: str | None, issued_before_us: int) -> None:
        """Revoke tokens; a revocation never becomes weaker."""
        revoked = self.owner(uid).revoked
        revoked[device] = max(issued_before_us, revoked.get(device, issued_before_us))

    def revoked_before(self, uid: str, device: str) -> int | None:
        """Return the time up to which issued tokens of this device are revoked; ``None``: none are."""
        revoked = self.owner(uid).revoked
        return max((revoked[name] for name in (None, device) if name in revoked), default=None)
