"""What a store promises of addresses that get no more mail; a part of ``contract.Store``."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Protocol

from gregor.core.notify.email_address import normalize_mailbox


@dataclass(frozen=True, slots=True)
class Suppression:
    """An address that gets no mail: it does not exist, or who reads there complained. ``reason``: a word."""

    email: str = field(repr=False)
    reason: str
    since_us: int

    @property
    def place(self) -> tuple[int, str]:
        """Where it stands in the order of all: its time, and the hash of its address."""
        return self.since_us, hash_of(self.email)


def hash_of(email: str) -> str:
    """What an address is kept under: the same for all its writings."""
    return hashlib.sha256(normalize_mailbox(email).encode("utf-8", "replace")).hexdigest()


class Suppressions(Protocol):
    """Addresses of the whole deployment, whosever they are; kept until they are released.

    An address is known again by ``core.mailbox.same_mailbox``: letters big and small are one.
    """

    async def suppress(self, email: str, reason: str, now_us: int) -> Suppression:
        """No more mail to this address; a reason known before gives way. Repeatable."""
        ...

    async def suppression(self, email: str) -> Suppression | None:
        """Why this address gets none; ``None``: it does."""
        ...

    async def listed(self, before: tuple[int, str] | None, limit: int) -> list[Suppression]:
        """Up to ``limit``, the latest first; those behind ``before``: the ``place`` of the last of the page before."""
        ...

    async def release(self, email: str) -> bool:
        """Mail may go there again; whether it might not before."""
        ...
