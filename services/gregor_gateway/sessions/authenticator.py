"""Who may connect: device tokens, tickets, and what a refusal is called on a WebSocket (protocol.md)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from gregor.auth.device_tokens import Caller, TokenExpired, TokenVerifier
from gregor.clock import Clock
from gregor.core.close_codes import CloseCode
from gregor.core.errors import Problem
from gregor.core.ids import Prefixes, normalize_prefixes
from gregor.store import service_keys
from gregor.store.contract.access import Ticket
from gregor.store.contract.store import Store, Unavailable

NO_END_US = 1 << 62
"""The end of what does not end: a key's ticket for looking on."""


@dataclass(frozen=True, slots=True)
class AuthenticatedCaller:
    """Who opens a stream, and with which ticket, if with one."""

    caller: Caller
    ticket: Ticket | None = None

    @property
    def observes(self) -> bool:
        """Whether it only looks on: no presence, no ack."""
        return self.ticket is not None and self.ticket.observe

    @property
    def prefixes(self) -> Prefixes:
        """The categories that a ticket is for."""
        return self.ticket.prefixes if self.ticket is not None else None

    @property
    def systems(self) -> Prefixes:
        """The external systems that a ticket is for."""
        return self.ticket.systems if self.ticket is not None else None


class Authenticator:
    """Checks tokens and tickets against the keys and the store."""

    def __init__(self, store: Store, tokens: TokenVerifier, clock: Clock) -> None:
        self._store = store
        self._tokens = tokens
        self._clock = clock

    async def verify(self, token: str) -> Caller:
        """Who a token speaks for. ``Problem`` ``unauthorised`` (``TokenExpired`` where it was good once)."""
        return await self._tokens.verify(token, self._clock.now_us())

    async def is_revoked(self, caller: Caller) -> bool:
        """Whether tokens of this age are void. Raises ``Unavailable``."""
        revoked_us = await self._store.devices.revoked_before(caller.uid, caller.device)
        return revoked_us is not None and caller.iat_us <= revoked_us

    async def spend(self, ticket: str) -> AuthenticatedCaller:
        """What a ticket stands for; it is spent. ``Problem`` ``unauthorised``."""
        spent = await self._store.access.redeem_ticket(ticket, self._clock.now_us())
        if spent is None:
            raise Problem("unauthorised", "The ticket is spent, too old, or none.")
        claims = spent.claims
        if not await self.key_stands(spent):
            raise Problem("unauthorised", "The service key that the ticket was made with is no more.")
        caller = Caller(
            spent.uid,
            spent.device,
            _moment_us(claims, "exp", NO_END_US),
            _moment_us(claims, "iat", 0),
            _prefixes(claims, "cats"),
            _prefixes(claims, "systems"),
        )
        return AuthenticatedCaller(caller, spent)

    async def key_stands(self, ticket: Ticket) -> bool:
        """Whether the service key that a ticket was made with, if it was one, is there, and the secret that was shown
        for it still works. Raises ``Unavailable``."""
        key_id = ticket.claims.get("key")
        if key_id is None:
            return True
        key = await self._store.access.key(key_id)
        return service_keys.stands(key, ticket.claims.get("secret"), self._clock.now_us())

    def lives_s(self, caller: Caller) -> float:
        """How long the token is still good; infinite where it does not end."""
        if caller.exp_us >= NO_END_US:
            return float("inf")
        return (caller.exp_us - self._clock.now_us()) / 1e6


_CLOSE_CODES: Final = {
    "too_many_devices": CloseCode.TOO_MANY_CONNECTIONS,
    "unavailable": CloseCode.UNAVAILABLE,
}
"""Close codes of problems; every other problem of an authentication is ``UNAUTHORISED``."""


def close_for(error: Exception) -> CloseCode:
    """The close code for a connection that is refused."""
    if isinstance(error, TokenExpired):
        return CloseCode.TOKEN_EXPIRED
    if isinstance(error, Unavailable):
        return CloseCode.UNAVAILABLE
    if isinstance(error, Problem):
        return _CLOSE_CODES.get(error.code, CloseCode.UNAUTHORISED)
    return CloseCode.INTERNAL_ERROR


def _moment_us(claims: Mapping[str, Any], name: str, absent_us: int) -> int:
    value = claims.get(name)
    return absent_us if value is None else round(value * 1e6)


def _prefixes(claims: Mapping[str, Any], name: str) -> Prefixes:
    value = claims.get(name)
    return None if value is None else normalize_prefixes(value)
