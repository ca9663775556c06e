"""The part of the store contract about a user's devices: registrations, sessions, presence, acknowledgements."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from gregor.core.ids import Prefixes
from gregor.core.items.sync import View
from gregor.core.notify.timeline import Acknowledgement


@dataclass(frozen=True, slots=True)
class Registration:
    """A device as its user's list shows it. ``push`` is the push registration as sent, or ``None``.

    ``push_since_us``: when it was registered last; the store sets it, and it makes no registration another.
    """

    platform: str | None = None
    push: Mapping[str, Any] | None = None
    locale: str | None = None
    push_since_us: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class PresenceStatus:
    """Whether someone is there. ``last_seen_us`` is ``None`` where never seen; for one online it is now."""

    online: bool = False
    foreground: bool = False
    last_seen_us: int | None = None


@dataclass(frozen=True, slots=True)
class DeviceSession:
    """One connection of a device, as all gateways know it: which gateway holds it, and what it sees.

    ``session`` is the name the client gave (or a fresh one); ``connection`` is unique to the connection. A session is
    there until it is opened elsewhere, closed, or its lease runs out.
    """

    session: str
    connection: str
    gateway: str
    opened_us: int
    foreground: bool = False
    category_filter: Prefixes = None
    systems: Prefixes = None


class Devices(Protocol):
    """Registrations, presence, acknowledgements and revocations of a user's devices."""

    async def put_device(self, uid: str, device: str, registration: Registration, now_us: int) -> None:
        """Register, or replace. A push token that another device holds is taken from it. ``too_many_devices``."""
        ...

    async def change_device(
        self, uid: str, device: str, change: Callable[[Registration | None], Registration], now_us: int
    ) -> None:
        """Register ``change`` of what is registered (``None``: the device is not known); no other registration comes
        between. ``change`` may be called again, and may raise: then nothing is changed. Raises as ``put_device`` does.
        """
        ...

    async def ensure_device(self, uid: str, device: str, now_us: int) -> str | None:
        """Make a device known (a connection does). Past the bound the one longest offline is forgotten, those without
        push first, and returned; ``too_many_devices`` if all are online."""
        ...

    async def devices(self, uid: str, now_us: int) -> dict[str, tuple[Registration, PresenceStatus]]:
        """All known devices, by name."""
        ...

    async def device(self, uid: str, device: str, now_us: int) -> tuple[Registration, PresenceStatus] | None:
        """One known device, or ``None``."""
        ...

    async def owns_push_token(self, uid: str, device: str, registration: Registration) -> bool:
        """Whether the push token of this registration is (still) this device's own: whoever sends looks here first."""
        ...

    async def remove_push(self, uid: str, device: str, registration: Registration) -> bool:
        """Take the push off a device whose registration is still as given: its provider says that it is dead."""
        ...

    async def forget_device(self, uid: str, device: str, now_us: int, epoch_seed: bytes) -> None:
        """End its own items and its hidings, void its cursors, close its connections (L8). Repeatable."""
        ...

    async def forget_inactive(self, uid: str, now_us: int) -> int | None:
        """Forget the devices without push that nobody saw for the retention. When to look again (µs); ``None``: no
        device is left. Repeatable."""
        ...

    async def open_session(
        self, uid: str, device: str, session: DeviceSession, now_us: int, lease_us: int
    ) -> list[tuple[DeviceSession, int]]:
        """A connection is there for ``lease_us``. Returns what it displaces, each with its close code: the connection
        of the same session (4504), and the oldest past the bound of a device's connections (4505). The caller tells
        their gateways (``control``)."""
        ...

    async def renew_sessions(
        self, entries: Sequence[tuple[str, str, DeviceSession]], now_us: int, lease_us: int
    ) -> None:
        """Heartbeats of one gateway: each (uid, device, session) is there for ``lease_us`` more, as given."""
        ...

    async def close_session(self, uid: str, device: str, session: DeviceSession, now_us: int) -> None:
        """The connection is gone; does nothing where a newer connection holds the session. Sets ``last_seen``."""
        ...

    async def session(self, uid: str, device: str, session: str, now_us: int) -> DeviceSession | None:
        """The live session of that name, wherever it is held."""
        ...

    async def presence(self, uids: Sequence[str], now_us: int) -> list[PresenceStatus]:
        """The OR over each user's devices."""
        ...

    async def foreground_until(self, uid: str, now_us: int) -> int | None:
        """Until when one of the user's connections was in the foreground (µs): now where one is; ``None``: never."""
        ...

    async def acknowledge(self, uid: str, view: View, seq: int, now_us: int) -> None:
        """This view showed its user everything up to ``seq``. Never goes down."""
        ...

    async def acknowledgements(self, uid: str) -> list[Acknowledgement]:
        """When views showed what: the newest ``MOST_ACKNOWLEDGEMENTS`` of a user that raised anything, oldest first."""
        ...

    async def acknowledged(self, uid: str) -> dict[View, int]:
        """View to acknowledged seq."""
        ...

    async def revoke(self, uid: str, device: str | None, issued_before_us: int, now_us: int) -> None:
        """Void tokens issued at or before that moment, of one device or all; closes their connections at once."""
        ...

    async def revoked_before(self, uid: str, device: str) -> int | None:
        """Tokens of this device issued at or before this moment (µs) are void; ``None``: none are."""
        ...

    async def publish_control(self, uid: str, document: Mapping[str, Any]) -> None:
        """Tell every gateway that holds a connection of ``uid`` (closes, frames for a session held elsewhere)."""
        ...
