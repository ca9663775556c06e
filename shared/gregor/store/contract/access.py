"""What a store promises of who may call, and how often; a part of ``contract.Store``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from gregor.core.ids import Prefixes


@dataclass(frozen=True, slots=True)
class ServiceKey:
    """A backend's key: what is stored of it. Of secrets only SHA-256: the newest, and those that were, a while longer.

    ``rate`` is messages a second (``None``: unlimited). ``prefixes``: the category prefixes it is limited to.
    """

    id: str
    scopes: frozenset[str]
    prefixes: Prefixes = None
    rate: float | None = None
    hashes: tuple[tuple[str, int | None], ...] = ()
    created_us: int = 0
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Ticket:
    """What a ticket stands for (protocol.md, "Tickets"): a stream of one uid, device and view until ``expires_us``.

    ``claims``: the device token's claims that the stream needs (``exp``, ``iat``, ``cats``, ``systems``); for an
    observing one the key's: its id (``key``), the mark of the secret that was shown (``secret``), ``cats``.
    """

    uid: str
    device: str
    observe: bool
    prefixes: Prefixes
    systems: Prefixes
    claims: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TerminalClose:
    """How a stream ended for good: the close code, and whose connection it was."""

    code: int
    uid: str
    device: str
    connection: str


class Access(Protocol):
    """Service keys, tickets, final closes and rates."""

    async def create_key(
        self,
        scopes: Sequence[str],
        prefixes: Sequence[str] | None = None,
        rate: float | None = None,
        name: str | None = None,
        now_us: int = 0,
    ) -> tuple[ServiceKey, str]:
        """A new key and its text ``gk_<id>_<secret>``, which is never stored and never shown again."""
        ...

    async def key(self, key_id: str) -> ServiceKey | None:
        """What is stored of a key."""
        ...

    async def keys(self) -> list[ServiceKey]:
        """All keys, by id."""
        ...

    async def rotate_key(self, key_id: str, now_us: int, keep_us: int) -> str | None:
        """A new secret; the old one works ``keep_us`` more. ``None`` where there is no such key."""
        ...

    async def delete_key(self, key_id: str) -> bool:
        """Whether there was one."""
        ...

    async def create_ticket(self, ticket: Ticket, now_us: int, lives_us: int) -> str:
        """The text of a new ticket."""
        ...

    async def redeem_ticket(self, text: str, now_us: int) -> Ticket | None:
        """The ticket, once; ``None`` where it is spent, too old or none."""
        ...

    async def save_terminal_close(self, opened_with: str, close: TerminalClose, now_us: int, lives_us: int) -> None:
        """A stream was closed for good; known for ``lives_us`` by what it was opened with, in all processes."""
        ...

    async def terminal_close(self, opened_with: str, now_us: int) -> TerminalClose | None:
        """The close of ``save_terminal_close``, as long as it is kept."""
        ...

    async def take(self, bucket: str, rate: float, burst: int, count: int, now_us: int) -> float:
        """Take ``count`` from a GCRA bucket: 0.0 where there was room, else the seconds to wait (nothing taken)."""
        ...
