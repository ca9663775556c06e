"""Authentication of connections: device tokens, tickets, and the close codes of their refusals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from gregor.auth.access_problem import AccessProblem, failure_reason
from gregor.auth.device_tokens import Caller, KeyNotLoaded, TokenExpired, TokenVerifier
from gregor.clock import Clock
from gregor.core.close_codes import CloseCode
from gregor.core.errors import Problem
from gregor.core.ids import Prefixes, normalize_prefixes
from gregor.metrics.process import Metrics
from gregor.store import service_keys
from gregor.store.contract.access import Ticket
from gregor.store.contract.store import Store, Unavailable

NO_END_US = 1 << 62
"""The expiry of a ticket that does not expire: one for an observer, created with a service key."""


@dataclass(frozen=True, slots=True)
class AuthenticatedCaller:
    """A caller whose credentials were verified, and the ticket that it used, if any."""

    caller: Caller
    ticket: Ticket | None = None

    @property
    def observes(self) -> bool:
        """Whether it is an observer: it has no presence and acknowledges nothing."""
        return self.ticket is not None and self.ticket.observe

    @property
    def holder(self) -> str:
        """The name by which its joins are counted: the device, or the service key of an observer."""
        return self.caller.device if self.ticket is None else self.ticket.holder

    @property
    def prefixes(self) -> Prefixes:
        """The category prefixes of the ticket."""
        return self.ticket.prefixes if self.ticket is not None else None

    @property
    def systems(self) -> Prefixes:
        """The external systems of the ticket."""
        return self.ticket.systems if self.ticket is not None else None


class Authenticator:
    """Verifies tokens and tickets."""

    def __init__(self, store: Store, tokens: TokenVerifier, clock: Clock, metrics: Metrics) -> None:
        self._store = store
        self._tokens = tokens
        self._clock = clock
        self._failures = metrics.auth_failures

    def count_failure(self, error: Exception) -> None:
        """Count a failed sign-in by its reason. Other errors say nothing about the caller, and are not counted."""
        if isinstance(error, Problem) and (isinstance(error, AccessProblem) or error.code == "unauthorised"):
            self._failures.labels(failure_reason(error, "")).inc()

    async def verify(self, token: str) -> Caller:
        """Return the caller of a device token.

        Raises ``Problem`` ``unauthorised``, or ``TokenExpired`` if the token was valid.
        """
        return await self._tokens.verify(token, self._clock.now_us())

    async def is_revoked(self, caller: Caller) -> bool:
        """Return whether the caller's tokens of this age were revoked. Raises ``Unavailable``."""
        revoked_us = await self._store.devices.revoked_before(caller.uid, caller.device)
        return revoked_us is not None and caller.iat_us <= revoked_us

    async def unspent(self, ticket: str) -> Ticket | None:
        """Return a ticket without spending it. ``None`` if it cannot be spent.

        Raises ``Unavailable``, and ``Problem`` if the key of its token is not loaded (yet): the client then repeats it.
        """
        found = await self._store.access.ticket(ticket, self._clock.now_us())
        if found is not None:
            await self._check_token_key(found)
        return found

    async def spend(self, ticket: str) -> AuthenticatedCaller:
        """Return the caller of a ticket, which can be used once. Raises ``Problem`` ``unauthorised``."""
        spent = await self._store.access.redeem_ticket(ticket, self._clock.now_us())
        if spent is None:
            raise invalid_ticket()
        claims = spent.claims
        if not await self.is_key_valid(spent):
            detail = "The service key that created the ticket was deleted or rotated out."
            raise AccessProblem("unauthorised", detail, reason="key_invalid")
        caller = Caller(
            spent.uid,
            spent.device,
            _moment_us(claims, "exp", NO_END_US),
            _moment_us(claims, "iat", 0),
            category_filter_of(spent),
            _prefixes(claims, "systems"),
            await self._check_token_key(spent),
        )
        return AuthenticatedCaller(caller, spent)

    async def _check_token_key(self, ticket: Ticket) -> str:
        """Return the mark of the key of the ticket's token. Raises ``Problem`` if the token is not accepted now."""
        # Tickets of earlier releases do not name the key of their token, or the claims that were required.
        self._tokens.check_claims(ticket.claims.get("token_claims"))
        key_mark = str(ticket.claims.get("token_key") or "")
        await self._tokens.check_key(key_mark, _moment_us(ticket.claims, "iat", 0), self._clock.now_us())
        return key_mark

    async def is_key_valid(self, ticket: Ticket) -> bool:
        """Return whether the service key that created a ticket still exists with the same secret.

        A ticket that was created with a device token has no key, and is valid. Raises ``Unavailable``.
        """
        key_id = ticket.claims.get("key")
        if key_id is None:
            return True
        key = await self._store.access.key(key_id)
        return service_keys.is_mark_valid(key, ticket.claims.get("secret"), self._clock.now_us())

    def has_key(self, key_mark: str) -> bool:
        """Return whether the key that verified a token still does (``Caller.key_mark``)."""
        return self._tokens.has_key(key_mark)

    def key_removals(self) -> int:
        """Return how often keys of tokens were removed since the start. Starts to load a key set that is old."""
        self._tokens.refresh_when_old(self._clock.now_us())
        return self._tokens.removals

    def lives_s(self, caller: Caller) -> float:
        """Return the seconds until the token expires; infinity if it does not."""
        if caller.exp_us >= NO_END_US:
            return float("inf")
        return (caller.exp_us - self._clock.now_us()) / 1e6


def invalid_ticket() -> Problem:
    """Return the problem of a ticket that cannot be spent."""
    return AccessProblem("unauthorised", "The ticket is invalid, expired or already used.", reason="ticket_invalid")


def revoked_token() -> Problem:
    """Return the problem of a token that was revoked."""
    return AccessProblem("unauthorised", "The token was revoked.", reason="token_revoked")


_CLOSE_CODES: Final = {
    "too_many_devices": CloseCode.TOO_MANY_CONNECTIONS,
    "unavailable": CloseCode.UNAVAILABLE,
    "rate_limited": CloseCode.RATE_LIMITED,
}
"""Close codes by problem code; the default is ``UNAUTHORISED``."""


def close_for(error: Exception) -> CloseCode:
    """Return the close code for an error during authentication or joining."""
    if isinstance(error, TokenExpired):
        return CloseCode.TOKEN_EXPIRED
    if isinstance(error, Unavailable | KeyNotLoaded):
        return CloseCode.UNAVAILABLE
    if isinstance(error, Problem):
        return _CLOSE_CODES.get(error.code, CloseCode.UNAUTHORISED)
    return CloseCode.INTERNAL_ERROR


def _moment_us(claims: Mapping[str, Any], name: str, absent_us: int) -> int:
    value = claims.get(name)
    return absent_us if value is None else round(value * 1e6)


def category_filter_of(ticket: Ticket) -> Prefixes:
    """Return the categories that a ticket is limited to, as its token or service key was."""
    return _prefixes(ticket.claims, "cats")


def _prefixes(claims: Mapping[str, Any], name: str) -> Prefixes:
    value = claims.get(name)
    return None if value is None else normalize_prefixes(value)
