"""The part of the store contract about devices: registrations, sessions, presence, acknowledgements, revocations."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from gregor.core.errors import Problem
from gregor.core.ids import Prefixes
from gregor.core.items.sync import View
from gregor.core.notify.escalation import Audience
from gregor.core.notify.timeline import Acknowledgement

# ---- values


@dataclass(frozen=True, slots=True)
class PushRegistrar:
    """The caller that registered a push token.

    Attributes:
        category_filter: The categories that the caller may read. The device gets no pushes of others.
        issued_us: When the device token of the caller was issued; ``None`` for a service key.
    """

    category_filter: Prefixes = None
    issued_us: int | None = None


@dataclass(frozen=True, slots=True)
class Registration:
    """A registered device.

    Attributes:
        push: The push registration as the client sent it, or ``None``.
        registrar: The caller that registered the push token; ``None`` if an older release stored the registration.
        push_since_us: When the push token was registered last. The store sets it; it does not count in comparisons.
    """

    platform: str | None = None
    push: Mapping[str, Any] | None = None
    locale: str | None = None
    push_since_us: int = field(default=0, compare=False)
    registrar: PushRegistrar | None = None

    @property
    def push_filter(self) -> Prefixes:
        """The categories whose pushes the device may get; ``None``: all."""
        return None if self.registrar is None else self.registrar.category_filter

    def is_push_revoked(self, issued_before_us: int) -> bool:
        """Return whether a revocation of tokens issued at or before a time covers the registrar of the push token.

        A service key is never covered. An unknown registrar is covered if it registered before that time.
        """
        if self.push is None:
            return False
        issued_us = self.push_since_us if self.registrar is None else self.registrar.issued_us
        return issued_us is not None and issued_us <= issued_before_us


@dataclass(frozen=True, slots=True)
class PresenceStatus:
    """Whether a device or user is online.

    ``last_seen_us`` is now for one that is online, and ``None`` for one never seen. ``foreground_filters``: the
    category filters of the connections of a device that are in the foreground.
    """

    online: bool = False
    foreground: bool = False
    last_seen_us: int | None = None
    foreground_filters: tuple[Prefixes, ...] = field(default=(), compare=False)


@dataclass(frozen=True, slots=True)
class DeviceSession:
    """One connection of a device as all gateways know it: which gateway holds it, and what it may see.

    A session exists until it is opened elsewhere, it is closed, or its lease expires.

    Attributes:
        session: The name that the client chose (or a fresh one).
        connection: Unique for each connection.
        issued_us: When the token of the device was issued; 0 if an earlier release stored the session.
    """

    session: str
    connection: str
    gateway: str
    opened_us: int
    foreground: bool = False
    category_filter: Prefixes = None
    systems: Prefixes = None
    issued_us: int = 0


Charge = Callable[[], Awaitable[None]]
"""Charges the caller for work. Raises ``Problem`` ``rate_limited`` if the caller has too little left."""


# ---- the contract


def revoked_token() -> Problem:
    """Return the problem of a device whose token was revoked after the request was authorized."""
    return Problem("unauthorised", "The device token was revoked. Sign in again for a new token.")


class Devices(Protocol):
    """Registrations, presence, acknowledgements and revocations of a user's devices."""

    async def put_device(
        self, uid: str, device: str, registration: Registration, now_us: int, charge: Charge | None = None
    ) -> None:
        """Register a device or replace its registration. A push token moves here from another device that has it.

        ``charge``: see ``ensure_device``.

        Raises ``Problem`` ``too_many_devices``, and ``unauthorised`` if the token of its registrar is revoked.
        """
        ...

    async def change_device(
        self,
        uid: str,
        device: str,
        change: Callable[[Registration | None], Registration],
        now_us: int,
        charge: Charge | None = None,
    ) -> None:
        """Replace the registration by the result of ``change``, atomically.

        ``change`` gets ``None`` for an unknown device. ``charge``: see ``ensure_device``.

        ``change`` may be called several times. If it raises, nothing is changed. Raises the errors of ``put_device``
        too.
        """
        ...

    async def ensure_device(self, uid: str, device: str, now_us: int, charge: Charge | None = None) -> str | None:
        """Register a device that connects, if it is unknown.

        Returns the device that was removed to make room, or ``None``.

        Beyond the bound, the device that was offline longest is removed, those without push first. Raises ``Problem``
        ``too_many_devices`` if all devices are online.

        ``charge`` is awaited before the search for a device to remove. If it raises, nothing is changed.
        """
        ...

    async def list_devices(self, uid: str, now_us: int) -> dict[str, tuple[Registration, PresenceStatus]]:
        """Return all registered devices with their presence, by name."""
        ...

    async def device(self, uid: str, device: str, now_us: int) -> tuple[Registration, PresenceStatus] | None:
        """Return one device with its presence, or ``None`` if it is unknown."""
        ...

    async def registration(self, uid: str, device: str) -> Registration | None:
        """Return the registration of a device, without reading its sessions; ``None`` if the device is unknown."""
        ...

    async def owns_push_token(self, uid: str, device: str, registration: Registration) -> bool:
        """Return whether this device still owns the push token of the registration. Check this before each push."""
        ...

    async def remove_push(self, uid: str, device: str, registration: Registration) -> bool:
        """Remove the push token of a device if its registration is unchanged. Called if the provider reports the
        token as dead.
        """
        ...

    async def forget_device(
        self, uid: str, device: str, now_us: int, epoch_seed: bytes, category_filter: Prefixes = None
    ) -> int:
        """Remove a device (L8); repeatable. Returns the weight to charge for it (``Receipt.extra_weight``).

        Its own items are dismissed, its hidings deleted, its cursors void, its connections closed. Items and hidings
        outside of ``category_filter`` stay.
        """
        ...

    async def forget_inactive(self, uid: str, now_us: int) -> int | None:
        """Remove the devices without push that were not seen for the retention. Repeatable.

        Returns when to check again (µs), or ``None`` if no device is left.
        """
        ...

    async def open_session(
        self, uid: str, device: str, session: DeviceSession, now_us: int, lease_us: int
    ) -> list[tuple[DeviceSession, int]]:
        """Record a connection for ``lease_us``. Returns the sessions that it displaces, each with its close code.

        Displaced are the connection of the same session (4504), and the oldest beyond the bound of a device (4505). The
        caller notifies their gateways with ``publish_control``.
        """
        ...

    async def renew_sessions(
        self,
        entries: Sequence[tuple[str, str, DeviceSession]],
        now_us: int,
        lease_us: int,
        *,
        only_open: bool = False,
    ) -> None:
        """Renew the leases of one gateway's sessions: each (uid, device, session) for ``lease_us`` from now.

        A session is left alone if another connection holds it, unless that connection was opened earlier.

        ``only_open``: for callers that do not hold the sessions. One that is over, or of another connection, is left
        alone. The others keep their gateway, and a longer lease.
        """
        ...

    async def close_session(self, uid: str, device: str, session: DeviceSession, now_us: int) -> None:
        """Remove the session of a closed connection and set ``last_seen``.

        Does nothing if a newer connection holds the session.
        """
        ...

    async def count_sessions(self, uid: str) -> int:
        """Return how many sessions of a user are stored, or more: those that are over may count."""
        ...

    async def session(self, uid: str, device: str, session: str, now_us: int) -> DeviceSession | None:
        """Return the open session with that name, on any gateway, or ``None``."""
        ...

    async def presence(self, uids: Sequence[str], now_us: int) -> list[PresenceStatus]:
        """Return the presence of each user: online if any of its devices is."""
        ...

    async def reachable_presence(self, uids: Sequence[str], now_us: int) -> Mapping[str, PresenceStatus]:
        """Return the ``presence`` by uid, without users of unreachable servers. Raises ``Unavailable`` if none answers.

        A server that hangs does not delay the answer for the users of the others.
        """
        ...

    async def foreground_until(self, uid: str, now_us: int) -> int | None:
        """Return when the user last had a connection without a category filter in the foreground (µs).

        It is now if there is one, and ``None`` if there never was.
        """
        ...

    async def audience(self, uid: str, now_us: int) -> Audience:
        """Return the devices of a user, their acknowledgements and presence, as of now. Reads each value once.

        It takes Redis 10 ms if a user has much presence: decisions read it by ``gregor.store.audience``.
        """
        ...

    async def acknowledge(self, uid: str, view: View, seq: int, now_us: int) -> None:
        """Record that a view showed its user everything up to ``seq``. The seq never decreases.

        A seq above that of the user is ignored: a failover lost the changes between them.

        A device has at most ``MAX_VIEWS`` acknowledged views, with ``MAX_VIEW_PREFIXES`` prefixes: those that were
        acknowledged the longest ago are removed.
        Of more devices than ``Limits.devices``, the one with the lowest seq is removed. A long category filter is kept
        as hashes (``core.notify.acknowledged_views``).
        """
        ...

    async def acknowledgements(self, uid: str) -> list[Acknowledgement]:
        """Return the newest ``MAX_ACKNOWLEDGEMENTS`` acknowledgements of a user that raised a seq, oldest first."""
        ...

    async def acknowledged(self, uid: str) -> dict[View, int]:
        """Return the acknowledged seq of each view."""
        ...

    async def revoke(self, uid: str, device: str | None, issued_before_us: int, now_us: int) -> None:
        """Revoke tokens issued at or before a time, of one device or all (``None``), and close their connections.

        The push tokens that they registered are removed (``Registration.is_push_revoked``), and their sessions between
        two long polls are closed. Repeatable.
        """
        ...

    async def revoked_before(self, uid: str, device: str) -> int | None:
        """Return the time (µs) up to which issued tokens of this device are revoked; ``None``: none are."""
        ...

    async def publish_control(self, uid: str, document: Mapping[str, Any]) -> None:
        """Publish a control message (close, frame for a session) to every gateway with a connection of this user."""
        ...
