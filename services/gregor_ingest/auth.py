"""Who may call what: the one table, and the gate that holds it (protocol.md, "Who may call").

Each endpoint that needs a token is a row; a route without a row cannot be built. A key is looked at for its scope; a
device token for its uid and device, before anything is looked up.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import Final

from gregor.auth.device_tokens import Caller, TokenVerifier
from gregor.clock import Clock
from gregor.core.errors import Problem
from gregor.core.ids import BACKEND, Prefixes, is_name, is_user_id, name_error, user_id_error
from gregor.core.items.sync import View
from gregor.core.limits import Limits
from gregor.core.messages.model import Sender
from gregor.core.rate_limit import device_messages_bucket
from gregor.store import service_keys
from gregor.store.contract.access import ServiceKey
from gregor.store.contract.store import Store

SCOPES: Final = ("ingest", "read", "devices", "deliveries", "categories", "admin")
"""What a service key may be allowed to do."""
DELIVERY: Final = "delivery"
"""The parameter of a path that is no name, but made of several: one that is none is one that is not there."""
KEY_CACHE_TTL_S: Final = 0.2
"""How long a key that was looked up is believed: a busy backend costs five look-ups a second, a deleted key 0.2 s."""
KEY_CACHE_SIZE: Final = 1_000


class DeviceAccess(Enum):
    """What a device token may do with an endpoint."""

    NOTHING = "no"
    USER = "own uid"
    VIEW = "own uid, and its own device where one is named"
    DEVICE = "own uid and device"
    YES = "yes; the endpoint looks at what it asks for"


@dataclass(frozen=True, slots=True)
class AccessRule:
    """One endpoint of the table: the scopes, of which a key needs one, and what a device token may do."""

    method: str
    path: str
    scopes: frozenset[str]
    device_access: DeviceAccess


def _rules(scope: str, device_access: DeviceAccess, *endpoints: str) -> tuple[AccessRule, ...]:
    pairs = (endpoint.split(" ") for endpoint in endpoints)
    return tuple(AccessRule(method, path, frozenset(scope.split("|")), device_access) for method, path in pairs)


# Messages need `ingest`, and those that flush need `admin`: which one is seen when the message is read.
ACCESS_RULES: Final = (
    *_rules("ingest|admin", DeviceAccess.USER, "POST /v1/users/{uid}/messages"),
    *_rules("ingest|admin", DeviceAccess.YES, "POST /v1/messages"),
    *_rules("ingest", DeviceAccess.USER, "DELETE /v1/users/{uid}/messages/{id}"),
    *_rules(
        "read",
        DeviceAccess.VIEW,
        "GET /v1/users/{uid}/state",
        "GET /v1/users/{uid}/sync",
        "GET /v1/users/{uid}/items/{id}",
        "GET /v1/users/{uid}/history",
    ),
    *_rules("read", DeviceAccess.YES, "POST /v1/tickets"),
    *_rules(
        "devices",
        DeviceAccess.DEVICE,
        "PUT /v1/users/{uid}/devices/{device}",
        "PATCH /v1/users/{uid}/devices/{device}",
        "GET /v1/users/{uid}/devices/{device}",
        "DELETE /v1/users/{uid}/devices/{device}",
    ),
    *_rules(
        "devices",
        DeviceAccess.USER,
        "PUT /v1/users/{uid}/preferences",
        "PATCH /v1/users/{uid}/preferences",
        "GET /v1/users/{uid}/preferences",
    ),
    *_rules(
        "devices",
        DeviceAccess.NOTHING,
        "PUT /v1/users/{uid}/contact",
        "PATCH /v1/users/{uid}/contact",
        "GET /v1/users/{uid}/contact",
        "DELETE /v1/users/{uid}/contact",
    ),
    *_rules(
        "deliveries",
        DeviceAccess.NOTHING,
        "GET /v1/users/{uid}/deliveries",
        "GET /v1/deliveries/dead",
        "DELETE /v1/deliveries/dead",
        "POST /v1/deliveries/dead/{delivery}/replay",
        "DELETE /v1/deliveries/dead/{delivery}",
        "GET /v1/contact/suppressions",
        "POST /v1/contact/suppressions",
        "DELETE /v1/contact/suppressions",
    ),
    *_rules(
        "devices",
        DeviceAccess.NOTHING,
        "GET /v1/users/{uid}/devices",
        "POST /v1/presence",
        "POST /v1/users/{uid}/revoke",
    ),
    *_rules(
        "categories",
        DeviceAccess.NOTHING,
        "GET /v1/categories",
        "PUT /v1/categories",
        "POST /v1/categories/rollback",
        "GET /v1/categories/{name}",
        "PUT /v1/categories/{name}",
        "DELETE /v1/categories/{name}",
        "POST /v1/categories/{name}/preview",
    ),
    *_rules(
        "admin",
        DeviceAccess.NOTHING,
        "POST /v1/users/{uid}/flush",
        "POST /v1/flush",
        "DELETE /v1/users/{uid}",
        "POST /v1/keys",
        "GET /v1/keys",
        "GET /v1/keys/{key}",
        "DELETE /v1/keys/{key}",
        "POST /v1/keys/{key}/rotate",
        "POST /v1/webhooks",
        "GET /v1/webhooks",
        "GET /v1/webhooks/{webhook}",
        "PATCH /v1/webhooks/{webhook}",
        "DELETE /v1/webhooks/{webhook}",
        "POST /v1/webhooks/{webhook}/rotate",
    ),
)
"""Every endpoint that needs a token."""

_BY_ENDPOINT: Final = {(rule.method, rule.path): rule for rule in ACCESS_RULES}


def access_rule(method: str, path: str) -> AccessRule:
    """The row of an endpoint. ``KeyError``: nobody said who may call it, so it cannot be served."""
    return _BY_ENDPOINT[method, path]


@dataclass(frozen=True, slots=True)
class Actor:
    """Who calls: a service key, or a device by its token. Exactly one of the two is set.

    ``secret_mark``: which of the key's secrets was shown (``service_keys.mark_of``).
    """

    key: ServiceKey | None = None
    caller: Caller | None = None
    secret_mark: str | None = None

    @property
    def category_filter(self) -> Prefixes:
        """The category prefixes that the caller is limited to."""
        return (
            self.key.prefixes
            if self.key is not None
            else self.caller.category_filter
            if self.caller is not None
            else ()
        )

    def sender_and_view(self, device: str | None) -> tuple[Sender, View]:
        """The sender of a message that names ``device``, and its view. A device token names its own: ``forbidden``."""
        if self.caller is None:
            return _sender_and_view(device or BACKEND, self.category_filter)
        if device is not None and device != self.caller.device:
            raise _forbidden("The token is of another device.")
        return _sender_and_view(self.caller.device, self.category_filter)

    def has_scope(self, scope: str) -> bool:
        """Whether a key has this scope; a device token has none of them but ``ingest``."""
        return scope in self.key.scopes if self.key is not None else scope == "ingest"

    def require_scope(self, scope: str) -> None:
        """Raises ``forbidden`` where ``may`` does not hold."""
        if not self.has_scope(scope):
            raise _forbidden(f"This needs a service key with the scope {scope}.")


@lru_cache(1_024)
def _sender_and_view(device: str, category_filter: Prefixes) -> tuple[Sender, View]:
    return Sender(device, category_filter), View(device, category_filter)


class Authorizer:
    """Turns the header ``Authorization`` into an actor, and holds the table and the rates."""

    def __init__(self, store: Store, tokens: TokenVerifier, clock: Clock, limits: Limits) -> None:
        self._store = store
        self._tokens = tokens
        self._clock = clock
        self._limits = limits
        self._keys: dict[str, tuple[float, Actor]] = {}

    async def authorize(
        self, rule: AccessRule, authorization: bytes | None, names: Mapping[str, str], device: str | None
    ) -> Actor:
        """Who calls, where the row lets them: ``unauthorised``, ``forbidden``, or ``invalid_id`` for names of the path.

        ``names``: the parameters of the path. ``device``: the one that the query names.
        """
        token = _bearer(authorization)
        if token.startswith("gk_"):
            actor = await self._authenticate_key(token)
            if actor.key is None or not rule.scopes & actor.key.scopes:
                raise _forbidden(f"The key lacks the scope {' or '.join(sorted(rule.scopes))}.")
        else:
            caller = await self._tokens.verify(token, self._clock.now_us())
            _check_device_access(rule.device_access, caller, names, device)
            await self._check_revoked(caller)
            actor = Actor(caller=caller)
        for name, value in names.items():
            if name == "uid":
                if not is_user_id(value):
                    raise Problem("invalid_id", f"The uid in the path is not valid. {user_id_error(value)}")
            elif name != DELIVERY and not is_name(value):
                raise Problem("invalid_id", f"The {name} in the path is not a valid name. {name_error(value)}")
        return actor

    async def take(self, actor: Actor, count: int = 1) -> float:
        """Take ``count`` messages of the caller's rate: 0.0 where there was room, else the seconds to wait."""
        if actor.caller is not None:
            rate, burst = self._limits.device_rate, self._limits.device_burst
            bucket = device_messages_bucket(actor.caller.uid, actor.caller.device)
        elif actor.key is not None and actor.key.rate is not None:
            # A second's worth at once: what a rate means to who set it.
            rate, burst, bucket = actor.key.rate, max(1, math.ceil(actor.key.rate)), f"key/{actor.key.id}"
        else:
            return 0.0
        return await self._store.access.take(bucket, rate, burst, count, self._clock.now_us())

    async def take_history(self, actor: Actor) -> None:
        """Take one call of the rate of ``history`` of a device: ``rate_limited``. Keys are not limited."""
        if actor.caller is not None:
            bucket = f"history/{actor.caller.uid}/{actor.caller.device}"
            wait_s = await self._store.access.take(bucket, self._limits.resync_rate, 1, 1, self._clock.now_us())
            check_rate(wait_s)

    def invalidate_keys(self) -> None:
        """A key was changed or deleted here: look all of them up anew."""
        self._keys.clear()

    async def _authenticate_key(self, token: str) -> Actor:
        now_s = self._clock.monotonic()
        remembered = self._keys.get(token)
        if remembered is not None and now_s - remembered[0] < KEY_CACHE_TTL_S:
            return remembered[1]
        context = service_keys.parse(token)
        found = await self._store.access.key(context[0]) if context else None
        if context is None or found is None or not service_keys.is_good(found, context[1], self._clock.now_us()):
            raise _unauthorised("The service key is not known.")
        if len(self._keys) >= KEY_CACHE_SIZE:
            self._keys.clear()
        actor = Actor(key=found, secret_mark=service_keys.mark_of(context[1]))
        self._keys[token] = (now_s, actor)
        return actor

    async def _check_revoked(self, caller: Caller) -> None:
        revoked_us = await self._store.devices.revoked_before(caller.uid, caller.device)
        if revoked_us is not None and caller.iat_us <= revoked_us:
            raise _unauthorised("The token was revoked.")


def check_rate(wait_s: float) -> None:
    """Raises ``rate_limited`` where a bucket said to wait."""
    if wait_s > 0:
        raise Problem("rate_limited", f"Too many at once; wait {wait_s:.1f} s.", retry_after_s=wait_s)


def _bearer(authorization: bytes | None) -> str:
    scheme, _, token = (authorization or b"").decode("latin-1").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise _unauthorised("Send a service key or a device token: Authorization: Bearer <token>.")
    return token.strip()


def _check_device_access(access: DeviceAccess, caller: Caller, names: Mapping[str, str], device: str | None) -> None:
    if access is DeviceAccess.NOTHING:
        raise _forbidden("This needs a service key; a device token may not.")
    if names.get("uid", caller.uid) != caller.uid:
        raise _forbidden("The token is of another user.")
    named = names.get("device") if access is DeviceAccess.DEVICE else device if access is DeviceAccess.VIEW else None
    if named is not None and named != caller.device:
        raise _forbidden("The token is of another device.")


def _unauthorised(reason: str) -> Problem:
    return Problem("unauthorised", reason)


def _forbidden(reason: str) -> Problem:
    return Problem("forbidden", reason)
