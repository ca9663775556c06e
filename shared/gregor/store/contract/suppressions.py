"""The part of the store contract about suppressed e-mail addresses."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Protocol

from gregor.core.notify.email_address import normalize_mailbox


@dataclass(frozen=True, slots=True)
class Suppression:
    """An address that gets no mail, because it does not exist or its reader complained. ``reason`` is one word."""

    email: str = field(repr=False)
    reason: str
    since_us: int

    @property
    def position(self) -> tuple[int, str]:
        """Position in the order of all suppressions: time, and hash of the address."""
        return self.since_us, hash_of(self.email)


def hash_of(email: str) -> str:
    """Return the hash under which an address is stored; it is equal for all spellings of one mailbox."""
    return hashlib.sha256(normalize_mailbox(email).encode("utf-8", "replace")).hexdigest()


class Suppressions(Protocol):
    """Suppressed addresses of the whole deployment, kept until they are released.

    Upper and lower case do not matter.
    """

    async def suppress(self, email: str, reason: str, now_us: int) -> Suppression:
        """Suppress an address, or replace the reason. Repeatable."""
        ...

    async def suppression(self, email: str) -> Suppression | None:
        """Return the suppression of an address, or ``None``."""
        ...

    async def listed(self, before: tuple[int, str] | None, limit: int) -> list[Suppression]:
        """Return up to ``limit`` suppressions, the latest first, after the position ``before``."""
        ...

    async def release(self, email: str) -> bool:
        """Allow mail to an address again. Returns whether it was suppressed."""
        ...
