"""Service keys, tickets and rate limits in Redis. Secrets and tickets are stored as hashes only."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping, Sequence
from typing import Any, Final, Unpack

import msgspec

from gregor.core import rate_limit as rates
from gregor.core.limits import Limits
from gregor.redis.commands import RedisCommands, Script
from gregor.store import service_keys
from gregor.store.contract.access import (
    AUDIT_EVENTS,
    TICKET_OVERHEAD,
    KeyLimits,
    ServiceKey,
    TerminalClose,
    Ticket,
    ticket_name,
)
from gregor.store.contract.store import Contended
from gregor.store.documents import decode_document
from gregor.store.sealing import seal, unseal

from . import scripts
from .errors import result_of, results_of
from .keys import Keys

_ANY_DEBT: Final = 1 << 30
"""Larger than any debt: the script never refuses a charge."""
_MAX_ATTEMPTS: Final = 8
"""Attempts of an optimistic update; even two concurrent rotations of one key are rare."""


class _StoredTicket(msgspec.Struct):
    """The stored value of a ticket."""

    expires_us: int
    ticket: Ticket


class _StoredClose(msgspec.Struct):
    """The stored value of a terminal close."""

    expires_us: int
    close: TerminalClose


_SERVICE_KEY: Final = msgspec.json.Decoder(ServiceKey)
_TICKET: Final = msgspec.json.Decoder(_StoredTicket)
_CLOSE: Final = msgspec.json.Decoder(_StoredClose)


class RedisAccess:
    """``Access`` over one Redis-protocol server.

    ``allow_oom``: whether the server supports script flags (fakeredis does not). Rate limits must also work at
    ``maxmemory``, otherwise a dismissal, which frees memory, would be refused. So must tickets and terminal closes:
    streams open and end. They are short, have a bound for each user, and expire soon.
    """

    def __init__(self, connection: RedisCommands, keys: Keys, limits: Limits, *, allow_oom: bool = True) -> None:
        self._connection = connection
        self._keys = keys
        self._ticket_bounds = limits.tickets, limits.ticket_bytes
        flags = "allow-oom" if allow_oom else ""
        self._admit_ticket = scripts.load("users/admit_ticket", flags=flags)
        self._set_expiring = scripts.load("deployment/set_expiring", flags=flags)
        self._rate = scripts.load("deployment/rate_limit", flags=flags)
        self._replace = scripts.load("users/replace_field")
        self._uses_server_time = False

    @property
    def all_scripts(self) -> tuple[Script, ...]:
        """The scripts of this part, for ``RedisStore.prepare``."""
        return (self._rate, self._replace, self._admit_ticket, self._set_expiring)

    # ---- service keys

    async def create_key(
        self,
        scopes: Sequence[str],
        prefixes: Sequence[str] | None = None,
        rate: float | None = None,
        name: str | None = None,
        now_us: int = 0,
        **limits: Unpack[KeyLimits],
    ) -> tuple[ServiceKey, str]:
        """See ``Access.create_key``."""
        key, text = service_keys.new_key(scopes, prefixes, rate, name, now_us, **limits)
        await self._call("HSET", self._keys.service_keys, key.id, _encoded(key))
        return key, text

    async def key(self, key_id: str) -> ServiceKey | None:
        """See ``Access.key``."""
        raw = await self._call("HGET", self._keys.service_keys, key_id)
        return None if raw is None else _service_key(raw)

    async def keys(self) -> list[ServiceKey]:
        """See ``Access.keys``."""
        raws = await self._call("HVALS", self._keys.service_keys)
        return sorted(map(_service_key, raws), key=lambda key: key.id)

    async def rotate_key(self, key_id: str, now_us: int, keep_us: int) -> str | None:
        """See ``Access.rotate_key``."""
        for _ in range(_MAX_ATTEMPTS):
            raw = await self._call("HGET", self._keys.service_keys, key_id)
            if raw is None:
                return None
            key, secret = service_keys.rotate(_service_key(raw), now_us, keep_us)
            sent = self._connection.evalsha(self._replace, (self._keys.service_keys,), (key_id, raw, _encoded(key)))
            if await result_of(sent):
                return service_keys.text_of(key_id, secret)
        raise Contended(f"service key {key_id} was changed concurrently {_MAX_ATTEMPTS} times in a row; try again")

    async def delete_key(self, key_id: str) -> bool:
        """See ``Access.delete_key``."""
        await self._call("HDEL", self._keys.service_key_uses, key_id)
        return bool(await self._call("HDEL", self._keys.service_keys, key_id))

    async def record_key_use(self, key_id: str, now_us: int) -> None:
        """See ``Access.record_key_use``."""
        await self._call("HSET", self._keys.service_key_uses, key_id, now_us)

    async def key_uses(self) -> Mapping[str, int]:
        """See ``Access.key_uses``."""
        flat = await self._call("HGETALL", self._keys.service_key_uses)
        return {name.decode(): int(at_us) for name, at_us in zip(flat[::2], flat[1::2], strict=True)}

    # ---- tickets and terminal closes

    async def create_ticket(self, ticket: Ticket, now_us: int, lives_us: int) -> str:
        """See ``Access.create_ticket``. The key's TTL only cleans up; the expiry inside the value decides."""
        text, expires_us = secrets.token_urlsafe(32), now_us + lives_us
        name, kept = ticket_name(text), msgspec.json.encode(_StoredTicket(expires_us, ticket))
        key, lives_ms = self._keys.ticket(name), max(1, -(-lives_us // 1_000))
        bounds = (len(kept) + TICKET_OVERHEAD, *self._ticket_bounds, ticket.holder)
        index = (self._keys.of_user(ticket.uid).tickets,)
        # The ticket is in another slot than its user, so a second step applies the bounds.
        noted = self._connection.evalsha(self._admit_ticket, index, (name, now_us, expires_us, *bounds))
        stored = self._connection.evalsha(self._set_expiring, (key,), (kept, lives_ms))
        removed, _ = await results_of([noted, stored])
        if removed:
            # Each ticket has its own slot.
            await results_of([self._connection.call("DEL", self._keys.ticket(each.decode())) for each in removed])
        return text

    async def ticket(self, text: str, now_us: int) -> Ticket | None:
        """See ``Access.ticket``."""
        raw = await self._call("GET", self._keys.ticket(ticket_name(text)))
        if raw is None:
            return None
        kept = decode_document(_TICKET, raw, "ticket")
        return kept.ticket if now_us < kept.expires_us else None

    async def redeem_ticket(self, text: str, now_us: int) -> Ticket | None:
        """See ``Access.redeem_ticket``."""
        name = ticket_name(text)
        raw = await self._call("GETDEL", self._keys.ticket(name))
        if raw is None:
            return None
        kept = decode_document(_TICKET, raw, "ticket")
        await self._call("HDEL", self._keys.of_user(kept.ticket.uid).tickets, name)
        return kept.ticket if now_us < kept.expires_us else None

    async def save_terminal_close(self, opened_with: str, close: TerminalClose, now_us: int, lives_us: int) -> None:
        """See ``Access.save_terminal_close``. The expiry inside the value decides, as for tickets."""
        kept = seal(opened_with, msgspec.json.encode(_StoredClose(now_us + lives_us, close)))
        key, lives_ms = self._keys.terminal_close(opened_with), max(1, -(-lives_us // 1_000))
        await result_of(self._connection.evalsha(self._set_expiring, (key,), (kept, lives_ms)))

    async def terminal_close(self, opened_with: str, now_us: int) -> TerminalClose | None:
        """See ``Access.terminal_close``."""
        sealed = await self._call("GET", self._keys.terminal_close(opened_with))
        raw = None if sealed is None else unseal(opened_with, sealed)
        if raw is None:
            return None
        kept = decode_document(_CLOSE, raw, "terminal close")
        return kept.close if now_us < kept.expires_us else None

    # ---- audit trail

    async def append_audit(self, event: bytes) -> None:
        """See ``Access.append_audit``."""
        await self._call("XADD", self._keys.audit, "MAXLEN", "~", AUDIT_EVENTS, "*", "event", event)

    async def audit_page(self, before: str | None, count: int) -> list[tuple[str, bytes]]:
        """See ``Access.audit_page``."""
        end = "+"
        if before is not None:
            milliseconds, number = map(int, before.split("-"))
            if not milliseconds and not number:
                return []  # Redis refuses an interval that ends before the first possible id
            end = f"({milliseconds}-{number}"
        entries = await self._call("XREVRANGE", self._keys.audit, end, "-", "COUNT", count)
        return [(position.decode(), fields[1]) for position, fields in entries]

    # ---- rate limit

    def use_server_time(self) -> None:
        """See ``Access.use_server_time``."""
        self._uses_server_time = True

    async def take(self, bucket: str, rate: float, burst: int, count: int, now_us: int) -> float:
        """See ``Access.take``."""
        return (await self.take_all(bucket, (rates.Bucket(bucket, rate, burst),), count, now_us)).wait_s

    async def take_all(
        self, owner: str, buckets: Sequence[rates.Bucket], count: int, now_us: int, debt: int = 0
    ) -> rates.Allowance:
        """See ``Access.take_all``. The script does the same arithmetic as `core/rate_limit.py`, atomically."""
        reply = await result_of(self._evaluate_rate(owner, buckets, count + debt, now_us, debt))
        return rates.refused(int(reply)) if isinstance(reply, int) else rates.allowance_of(buckets, reply)

    async def charge_all(self, owner: str, buckets: Sequence[rates.Bucket], count: int, now_us: int) -> rates.Allowance:
        """See ``Access.charge_all``."""
        used_us = await result_of(self._evaluate_rate(owner, buckets, count, now_us, _ANY_DEBT))
        return rates.allowance_of(buckets, used_us)

    def _evaluate_rate(
        self, owner: str, buckets: Sequence[rates.Bucket], count: int, now_us: int, debt: int
    ) -> asyncio.Future[Any]:
        """Send the script. ``debt``: how many of ``count`` a bucket may lack."""
        keys, arguments = [], ["" if self._uses_server_time else now_us]
        for bucket in buckets:
            step_us = rates.step_us(bucket.rate)
            keys.append(self._keys.rate(bucket.name, owner))
            arguments += (count * step_us, (bucket.burst + debt) * step_us)
        return self._connection.evalsha(self._rate, keys, arguments)

    async def _call(self, *command: bytes | str | int) -> Any:
        return await result_of(self._connection.call(*command))


def _service_key(raw: bytes) -> ServiceKey:
    return decode_document(_SERVICE_KEY, raw, "service key")


def _encoded(key: ServiceKey) -> bytes:
    return msgspec.json.encode(key)
