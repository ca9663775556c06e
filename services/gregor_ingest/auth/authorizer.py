"""Authentication of the caller of each request, and the check of its access rule.

The scope of a service key, and the uid and device of a device token, are checked before anything is looked up.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from starlette.types import Scope

from gregor.auth.access_problem import AccessProblem, failure_reason
from gregor.auth.device_tokens import Caller, TokenVerifier
from gregor.clock import Clock
from gregor.config.settings import Settings
from gregor.core.errors import Problem
from gregor.core.ids import is_name, is_user_id, name_error, user_id_error
from gregor.core.limits import SECOND_US
from gregor.core.times import date_text
from gregor.metrics.process import Metrics
from gregor.net.client_address import ClientAddresses, IpAddress
from gregor.store import service_keys
from gregor.store.contract.access import ServiceKey
from gregor.store.contract.store import Store
from gregor.web.http_admission import CALLER, client_address
from gregor.web.request import CONFIRM_AFTER_S

from .actor import Actor
from .key_cache import KeyCache, KnownKey
from .rules import DELIVERY_ID, AccessRule, DeviceAccess

_AUTHORIZED: Final = "gregor.authorized"
"""The member of an ASGI scope with the rule, the device, and the monotonic time at which its authorization began."""


class Authorizer:
    """Authenticates the caller of a request by its ``Authorization`` header, and enforces the access rules."""

    def __init__(
        self,
        store: Store,
        tokens: TokenVerifier,
        clock: Clock,
        addresses: ClientAddresses,
        metrics: Metrics,
        settings: Settings,
    ) -> None:
        self._accepts_keys = settings.ingest_audience == "all"
        self._store = store
        self._failures = metrics.auth_failures
        self._addresses = addresses
        self._tokens = tokens
        self._clock = clock
        self._keys = KeyCache(store, clock, metrics, settings)

    async def watch_keys(self) -> None:
        """Load the keys of device tokens from time to time. Never returns."""
        # An ingest for backends may verify no token for days. The first token must not be checked with removed keys.
        await self._tokens.watch(self._clock)

    async def authorize(self, rule: AccessRule, scope: Scope, device: str | None = None) -> Actor:
        """Return the caller of a request, if the rule admits it. ``device``: the device that the query names.

        Raises ``unauthorised``, ``forbidden``, or ``invalid_id`` if a path parameter is not a valid name.
        """
        # The time before the read: if Redis answers late, a revocation meanwhile is not in the answer.
        asked_s = self._clock.monotonic()
        try:
            # All checks that need no read come first: a flood of requests without rights costs no round trip.
            path_params: Mapping[str, str] = scope["path_params"]
            token = _bearer_token(scope["gregor.headers"].get(b"authorization"))
            if token.startswith("gk_"):
                actor = await self._authenticate_key(rule, token, scope)
                scope[CALLER] = "key_id", actor.key_id
            else:
                caller = await self._tokens.verify(token, self._clock.now_us())
                _check_device_access(rule.device_access, caller, path_params, device)
                await self._check_revoked(caller)
                actor = Actor(caller=caller)
        except Problem as problem:
            self._count_failure(problem)
            raise
        # Last, because 401 and 403 take precedence over 422.
        for name, value in path_params.items():
            if name == "uid":
                if not is_user_id(value):
                    raise Problem("invalid_id", f"The uid in the path is not valid. {user_id_error(value)}")
            elif name != DELIVERY_ID and not is_name(value):
                raise Problem("invalid_id", f"The {name} in the path is not a valid name. {name_error(value)}")
        # An invalid name takes nothing from the rate of a device, so it counts for the address of the device.
        if actor.caller is not None:
            scope[CALLER] = "user", actor.caller.uid
        scope[_AUTHORIZED] = rule, device, asked_s
        return actor

    async def confirm(self, scope: Scope) -> None:
        """Authorize a request again if its last authorization is older than ``CONFIRM_AFTER_S``.

        Call it after each wait. A client can send its body for minutes, and a stream of lines for hours. Meanwhile its
        key or user may be deleted, or its token revoked.
        """
        rule, device, at_s = scope[_AUTHORIZED]
        if self._clock.monotonic() - at_s >= CONFIRM_AFTER_S:
            await self.authorize(rule, scope, device)

    async def _authenticate_key(self, rule: AccessRule, token: str, scope: Scope) -> Actor:
        if not self._accepts_keys:
            detail = "Only device tokens are accepted here. Send service keys to the internal ingest."
            raise AccessProblem("forbidden", detail, reason="key_not_accepted")
        known = await self._keys.authenticate(token)
        if not self._may_come_from(known, scope):
            address = self.address_of(scope) or "an unknown address"
            detail = f"You come from {address}, which the field addresses of this service key does not allow."
            raise AccessProblem("forbidden", detail, reason="key_address", key_id=known.key.id)
        await self._keys.record_use(known.key)
        if not rule.scopes & service_keys.effective_scopes(known.key):
            raise AccessProblem("forbidden", _missing_scope(rule, known.key), reason="key_scope", key_id=known.key.id)
        return known.actor

    def _may_come_from(self, known: KnownKey, scope: Scope) -> bool:
        # The address costs more to find than most keys need.
        return known.key.addresses is None or service_keys.may_come_from(known.key, self.address_of(scope))

    def _count_failure(self, problem: Problem) -> None:
        reason = failure_reason(problem, "token_device")
        # Without the keys of TOKEN_JWKS, nothing is known about the caller.
        if problem.code != "unavailable":
            self._failures.labels(reason).inc()

    def address_of(self, scope: Scope) -> IpAddress | None:
        """Return the address of the client of a request, behind the trusted proxies."""
        return client_address(scope, self._addresses)

    def known_key_actor(self, scope: Scope) -> Actor | None:
        """Return the actor of a service key that this process checked within ``GREGOR_SERVICE_KEY_GRACE``.

        ``None`` if the request comes from an address that the key does not allow: its sender counts as a stranger.
        """
        known = self._known_key(scope)
        return None if known is None else known.actor

    def verified_key(self, scope: Scope) -> str | None:
        """Return the id of the known service key of a request that comes from an address that the key allows."""
        known = self._known_key(scope)
        return None if known is None else known.key.id

    def _known_key(self, scope: Scope) -> KnownKey | None:
        _, _, token = scope["gregor.headers"].get(b"authorization", b"").decode("latin-1").partition(" ")
        known = self._keys.known(token.strip())
        return known if known is not None and self._may_come_from(known, scope) else None

    def invalidate_keys(self) -> None:
        """Clear the cache of service keys, after this process changed or deleted one."""
        self._keys.clear()

    async def _check_revoked(self, caller: Caller) -> None:
        revoked_us = await self._store.devices.revoked_before(caller.uid, caller.device)
        if revoked_us is not None and caller.iat_us <= revoked_us:
            # Rounded up: a token of the same second may be older than the revocation.
            after = date_text(revoked_us + SECOND_US - 1)
            detail = f"The device token was revoked. Sign in again for a token that is issued after {after}."
            raise AccessProblem("unauthorised", detail, reason="token_revoked")


def _bearer_token(authorization: bytes | None) -> str:
    scheme, _, token = (authorization or b"").decode("latin-1").partition(" ")
    if scheme.lower() != "bearer":
        detail = "Send a service key or a device token: Authorization: Bearer <token>."
        raise AccessProblem("unauthorised", detail, reason="missing")
    if not token.strip():
        detail = "The token is empty: send a service key or a device token after Bearer."
        raise AccessProblem("unauthorised", detail, reason="missing")
    return token.strip()


def _check_device_access(
    access: DeviceAccess, caller: Caller, path_params: Mapping[str, str], device: str | None
) -> None:
    if access is DeviceAccess.NOTHING:
        raise Problem("forbidden", "This needs a service key; a device token is not enough.")
    if path_params.get("uid", caller.uid) != caller.uid:
        raise Problem("forbidden", "The device token belongs to another user.")
    if access is DeviceAccess.DEVICE:
        named = path_params.get("device")
    else:
        named = device if access is DeviceAccess.VIEW else None
    if named is not None and named != caller.device:
        raise Problem("forbidden", "The device token belongs to another device.")


def _missing_scope(rule: AccessRule, key: ServiceKey) -> str:
    scopes = " or ".join(sorted(rule.scopes))
    if rule.scopes & key.scopes:
        return f"The scope {scopes} does not count for a service key with prefixes or systems. Use a key without them."
    return f"The service key lacks the scope {scopes}."
