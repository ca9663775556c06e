"""Executable specification: never runs in production. Service keys, tickets and rate limits."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from gregor.core import rate_limit as rates
from gregor.core.ids import normalize_prefixes
from gregor.store import service_keys
from gregor.store.contract.access import ServiceKey, TerminalClose, Ticket


class MemoryAccess:
    """``contract.Access`` in memory."""

    def __init__(self) -> None:
        self._keys: dict[str, ServiceKey] = {}
        self._tickets: dict[str, tuple[Ticket, int]] = {}
        self._closes: dict[str, tuple[TerminalClose, int]] = {}
        self._buckets: dict[str, int] = {}

    async def create_key(
        self,
        scopes: Sequence[str],
        prefixes: Sequence[str] | None = None,
        rate: float | None = None,
        name: str | None = None,
        now_us: int = 0,
    ) -> tuple[ServiceKey, str]:
        """See ``contract.Access.create_key``."""
        key_id, secret = service_keys.new_id(), service_keys.new_secret()
        key = ServiceKey(
            id=key_id,
            scopes=frozenset(scopes),
            prefixes=None if prefixes is None else normalize_prefixes(prefixes),
            rate=rate,
            hashes=((service_keys.hash_of(secret), None),),
            created_us=now_us,
            name=name,
        )
        self._keys[key_id] = key
        return key, service_keys.text_of(key_id, secret)

    async def key(self, key_id: str) -> ServiceKey | None:
        """See ``contract.Access.key``."""
        return self._keys.get(key_id)

    async def keys(self) -> list[ServiceKey]:
        """See ``contract.Access.keys``."""
        return [key for _, key in sorted(self._keys.items())]

    async def rotate_key(self, key_id: str, now_us: int, keep_us: int) -> str | None:
        """See ``contract.Access.rotate_key``."""
        key = self._keys.get(key_id)
        if key is None:
            return None
        self._keys[key_id], secret = service_keys.rotate(key, now_us, keep_us)
        return service_keys.text_of(key_id, secret)

    async def delete_key(self, key_id: str) -> bool:
        """See ``contract.Access.delete_key``."""
        return self._keys.pop(key_id, None) is not None

    async def create_ticket(self, ticket: Ticket, now_us: int, lives_us: int) -> str:
        """See ``contract.Access.create_ticket``."""
        self._tickets = {text: kept for text, kept in self._tickets.items() if now_us < kept[1]}
        text = secrets.token_urlsafe(32)
        self._tickets[text] = (ticket, now_us + lives_us)
        return text

    async def redeem_ticket(self, text: str, now_us: int) -> Ticket | None:
        """See ``contract.Access.redeem_ticket``."""
        ticket, until_us = self._tickets.pop(text, (None, 0))
        return ticket if now_us < until_us else None

    async def save_terminal_close(self, opened_with: str, close: TerminalClose, now_us: int, lives_us: int) -> None:
        """See ``contract.Access.save_terminal_close``."""
        self._closes = {name: kept for name, kept in self._closes.items() if now_us < kept[1]}
        self._closes[opened_with] = (close, now_us + lives_us)

    async def terminal_close(self, opened_with: str, now_us: int) -> TerminalClose | None:
        """See ``contract.Access.terminal_close``."""
        close, until_us = self._closes.get(opened_with, (None, 0))
        return close if now_us < until_us else None

    async def take(self, bucket: str, rate: float, burst: int, count: int, now_us: int) -> float:
        """See ``contract.Access.take``."""
        full_at_us, wait_s = rates.take(self._buckets.get(bucket, 0), rate, burst, count, now_us)
        if wait_s == 0.0:
            self._buckets = {name: at_us for name, at_us in self._buckets.items() if at_us > now_us}
            self._buckets[bucket] = full_at_us
        return wait_s
