"""The part of the store contract about access: service keys, tickets, terminal closes and rate limits."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TypedDict, Unpack

import msgspec

from gregor.core.ids import Prefixes
from gregor.core.rate_limit import Allowance, Bucket

CLI_ACTOR: Final = "cli"
"""Names the command line as the actor of an audit event, if it wrote to the store itself. An id of a key is longer."""
DONE: Final = "ok"
"""The outcome of an act that was done. Any other outcome is the code of a problem."""
AUDIT_EVENTS: Final = 100_000
"""Events of the audit trail that the store keeps, about 30 MB. The log has all, except those of ``CLI_ACTOR``."""

TICKET_OVERHEAD: Final = 400
"""Bytes that a ticket takes beside its JSON: two keys, a field, and what Redis adds to them."""

KEY_HOLDER: Final = "key/"
"""The beginning of a holder that is a service key. No name of a device has a slash."""

_TICKET: Final = re.compile(r"[A-Za-z0-9_-]{43}")  # secrets.token_urlsafe(32)


@dataclass(frozen=True, slots=True)
class ServiceKey:
    """A backend's API key as it is stored.

    Attributes:
        prefixes: Category prefixes that the key is limited to; ``None``: all.
        systems: Prefixes of external systems that the key is limited to; ``None``: see ``allowed_systems``.
        rate: Messages a second; ``None``: unlimited.
        hashes: SHA-256 of each valid secret and the time when it expires (µs; ``None``: never), the newest first.
        expires_us: When the key stops working; ``None``: never.
        addresses: Networks in CIDR form from which the key may be used; ``None``: all.
    """

    id: str
    scopes: frozenset[str]
    prefixes: Prefixes = None
    rate: float | None = None
    hashes: tuple[tuple[str, int | None], ...] = ()
    created_us: int = 0
    name: str | None = None
    systems: tuple[str, ...] | None = None
    expires_us: int | None = None
    addresses: tuple[str, ...] | None = None

    @property
    def allowed_systems(self) -> Prefixes:
        """The external systems of the key: by default all, and for a key with category prefixes none."""
        return () if self.systems is None and self.prefixes is not None else self.systems


class AuditEvent(msgspec.Struct, kw_only=True, frozen=True):
    """One event of the audit trail.

    Attributes:
        key: Id of the service key that acted, or ``CLI_ACTOR``.
        target: The path parameters, and ids from the body or response.
        client: The address of the client, if known.
    """

    at: msgspec.Raw
    key: str
    act: str
    target: dict[str, str]
    outcome: str
    request_id: str
    client: str | None


@dataclass(frozen=True, slots=True)
class Ticket:
    """The permission that a ticket grants (http.md, "Tickets"): one stream of one user, device and view.

    Attributes:
        claims: Of a device token: ``exp``, ``iat``, ``cats`` and ``systems``, for the stream. Of a service key,
            for an observer: its id (``key``) and ``rate``, the mark of the secret that was used (``secret``), ``cats``
            and ``systems``.
    """

    uid: str
    device: str
    observe: bool
    prefixes: Prefixes
    systems: Prefixes
    claims: Mapping[str, Any] = field(default_factory=dict)

    @property
    def holder(self) -> str:
        """The name by which the tickets of a user are counted: the device, or the service key of an observer."""
        return f"{KEY_HOLDER}{self.claims.get('key')}" if self.observe else self.device


def ticket_name(text: str) -> str:
    """Return the hash by which the store knows a ticket."""
    return hashlib.sha256(text.encode()).hexdigest()


def is_ticket(text: str) -> bool:
    """Return whether a text has the form of a ticket. It may be unknown to the store."""
    return _TICKET.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class TerminalClose:
    """The terminal close of a stream: its close code, and its connection."""

    code: int
    uid: str
    device: str
    connection: str


class KeyLimits(TypedDict, total=False):
    """The optional limits of a new service key, as in ``ServiceKey``."""

    systems: Sequence[str] | None
    expires_us: int | None
    addresses: Sequence[str] | None


class Access(Protocol):
    """Service keys, tickets, terminal closes and rate limits."""

    async def create_key(
        self,
        scopes: Sequence[str],
        prefixes: Sequence[str] | None = None,
        rate: float | None = None,
        name: str | None = None,
        now_us: int = 0,
        **limits: Unpack[KeyLimits],
    ) -> tuple[ServiceKey, str]:
        """Create a key. Returns it and its text ``gk_<id>_<secret>``, which is not stored and cannot be shown again.

        Raises ``ValueError`` if a key cannot have these scopes and limits together.
        """
        ...

    async def key(self, key_id: str) -> ServiceKey | None:
        """Return a key, or ``None`` if the id is unknown."""
        ...

    async def keys(self) -> list[ServiceKey]:
        """Return all keys, by id."""
        ...

    async def rotate_key(self, key_id: str, now_us: int, keep_us: int) -> str | None:
        """Return the text of a new secret. The old one remains valid for ``keep_us``. ``None``: unknown key."""
        ...

    async def delete_key(self, key_id: str) -> bool:
        """Delete a key. Returns whether it existed."""
        ...

    async def record_key_use(self, key_id: str, now_us: int) -> None:
        """Remember that a key was used."""
        ...

    async def key_uses(self) -> Mapping[str, int]:
        """Return when each key was last used (µs), by its id. Keys that were never used are missing."""
        ...

    async def create_ticket(self, ticket: Ticket, now_us: int, lives_us: int) -> str:
        """Return the text of a new ticket.

        A device has at most ``Limits.tickets`` and a user ``Limits.ticket_bytes``; beyond it the oldest are removed,
        those of the same device (or observing key) first.
        """
        ...

    async def ticket(self, text: str, now_us: int) -> Ticket | None:
        """Return a ticket without using it. ``None`` if it is invalid, expired or already used."""
        ...

    async def redeem_ticket(self, text: str, now_us: int) -> Ticket | None:
        """Return the ticket, once. ``None`` if it is invalid, expired or already used."""
        ...

    async def save_terminal_close(self, opened_with: str, close: TerminalClose, now_us: int, lives_us: int) -> None:
        """Remember for ``lives_us`` that a stream ended for good, by a hash of its credential and session."""
        ...

    async def terminal_close(self, opened_with: str, now_us: int) -> TerminalClose | None:
        """Return the close that ``save_terminal_close`` stored, or ``None`` if there is none or it expired."""
        ...

    async def append_audit(self, event: bytes) -> None:
        """Append an event to the audit trail, which keeps about ``AUDIT_EVENTS`` of them."""
        ...

    async def audit_page(self, before: str | None, count: int) -> list[tuple[str, bytes]]:
        """Return up to ``count`` events with their positions, newest first; ``before``: only older than a position."""
        ...

    def use_server_time(self) -> None:
        """Measure all rate limits with the clock of the server from now on, and ignore ``now_us``.

        Services do this. One process with a wrong clock would otherwise empty the buckets for all others, or fill them.
        """
        ...

    async def take(self, bucket: str, rate: float, burst: int, count: int, now_us: int) -> float:
        """Take ``count`` from a rate limiter's bucket (GCRA).

        Returns 0.0, or the seconds to wait if nothing was taken.
        """
        ...

    async def take_all(
        self, owner: str, buckets: Sequence[Bucket], count: int, now_us: int, debt: int = 0
    ) -> Allowance:
        """Take ``count`` from each of these buckets, or nothing: see ``take``. Returns what is left.

        Args:
            owner: The uid or other name that all the buckets belong to: it decides where they are stored.
            count: Negative to allow that a bucket already lacks so many: the same request took them before.
            debt: What is taken beside ``count``, even if the buckets then have less than nothing.
        """
        ...

    async def charge_all(self, owner: str, buckets: Sequence[Bucket], count: int, now_us: int) -> Allowance:
        """Take ``count`` from each of these buckets, even if they have less: later takes wait for the debt."""
        ...
