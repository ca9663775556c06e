"""Executable specification: never runs in production. Service keys, tickets and rate limits."""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Unpack

import msgspec

from gregor.clock import Clock, SystemClock
from gregor.core import rate_limit as rates
from gregor.store import service_keys
from gregor.store.contract.access import AUDIT_EVENTS, TICKET_OVERHEAD, KeyLimits, ServiceKey, TerminalClose, Ticket

from .data import MemoryData


class MemoryAccess:
    """``contract.Access`` in memory."""

    def __init__(self, data: MemoryData) -> None:
        self._data = data
        self._limits = data.limits
        self._keys: dict[str, ServiceKey] = {}
        self._uses: dict[str, int] = {}
        self._audit: deque[tuple[str, bytes]] = deque(maxlen=AUDIT_EVENTS)
        self._audit_count = 0
        self._closes: dict[str, tuple[TerminalClose, int]] = {}
        self._buckets = rates.LocalBuckets()
        self._server_clock: Clock | None = None

    async def create_key(
        self,
        scopes: Sequence[str],
        prefixes: Sequence[str] | None = None,
        rate: float | None = None,
        name: str | None = None,
        now_us: int = 0,
        **limits: Unpack[KeyLimits],
    ) -> tuple[ServiceKey, str]:
        """See ``contract.Access.create_key``."""
        key, text = service_keys.new_key(scopes, prefixes, rate, name, now_us, **limits)
        self._keys[key.id] = key
        return key, text

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
        self._uses.pop(key_id, None)
        return self._keys.pop(key_id, None) is not None

    async def record_key_use(self, key_id: str, now_us: int) -> None:
        """See ``contract.Access.record_key_use``."""
        self._uses[key_id] = now_us

    async def key_uses(self) -> Mapping[str, int]:
        """See ``contract.Access.key_uses``."""
        return dict(self._uses)

    async def create_ticket(self, ticket: Ticket, now_us: int, lives_us: int) -> str:
        """See ``contract.Access.create_ticket``."""
        self._data.tickets = {text: kept for text, kept in self._data.tickets.items() if now_us < kept[1]}
        text = secrets.token_urlsafe(32)
        self._data.tickets[text] = (ticket, now_us + lives_us)
        mine = {name: each for name, (each, _) in self._data.tickets.items() if each.uid == ticket.uid}
        held = [name for name, each in mine.items() if each.holder == ticket.holder]
        for name in held[: -self._limits.tickets]:
            del self._data.tickets[name], mine[name]
        sizes = {name: len(msgspec.json.encode(each)) + TICKET_OVERHEAD for name, each in mine.items()}
        others = [name for name in mine if name not in held]
        for name in [*held[-self._limits.tickets : -1], *others]:
            if sum(sizes.values()) > self._limits.ticket_bytes:
                del self._data.tickets[name], sizes[name]
        return text

    async def ticket(self, text: str, now_us: int) -> Ticket | None:
        """See ``contract.Access.ticket``."""
        ticket, until_us = self._data.tickets.get(text, (None, 0))
        return ticket if now_us < until_us else None

    async def redeem_ticket(self, text: str, now_us: int) -> Ticket | None:
        """See ``contract.Access.redeem_ticket``."""
        ticket, until_us = self._data.tickets.pop(text, (None, 0))
        return ticket if now_us < until_us else None

    async def save_terminal_close(self, opened_with: str, close: TerminalClose, now_us: int, lives_us: int) -> None:
        """See ``contract.Access.save_terminal_close``."""
        self._closes = {name: kept for name, kept in self._closes.items() if now_us < kept[1]}
        self._closes[opened_with] = (close, now_us + lives_us)

    async def terminal_close(self, opened_with: str, now_us: int) -> TerminalClose | None:
        """See ``contract.Access.terminal_close``."""
        close, until_us = self._closes.get(opened_with, (None, 0))
        return close if now_us < until_us else None

    async def append_audit(self, event: bytes) -> None:
        """See ``contract.Access.append_audit``."""
        self._audit_count += 1
        self._audit.append((f"{self._audit_count}-0", event))

    async def audit_page(self, before: str | None, count: int) -> list[tuple[str, bytes]]:
        """See ``contract.Access.audit_page``."""
        end = self._audit_count + 1 if before is None else int(before.partition("-")[0])
        return [entry for entry in reversed(self._audit) if int(entry[0].partition("-")[0]) < end][:count]

    def use_server_time(self) -> None:
        """See ``contract.Access.use_server_time``. The server is this process."""
        self._server_clock = SystemClock()

    async def take(self, bucket: str, rate: float, burst: int, count: int, now_us: int) -> float:
        """See ``contract.Access.take``."""
        return (await self.take_all(bucket, (rates.Bucket(bucket, rate, burst),), count, now_us)).wait_s

    async def take_all(
        self, owner: str, buckets: Sequence[rates.Bucket], count: int, now_us: int, debt: int = 0
    ) -> rates.Allowance:
        """See ``contract.Access.take_all``."""
        return self._buckets.take(buckets, count, self._now_us(now_us), debt)

    async def charge_all(self, owner: str, buckets: Sequence[rates.Bucket], count: int, now_us: int) -> rates.Allowance:
        """See ``contract.Access.charge_all``."""
        return self._buckets.charge(buckets, count, self._now_us(now_us))

    def _now_us(self, now_us: int) -> int:
        return now_us if self._server_clock is None else self._server_clock.now_us()
