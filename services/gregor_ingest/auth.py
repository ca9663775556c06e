"""Authentication and authorization: the table of access rules, and the check of each request.

Every endpoint that needs a token has a rule; a route without a rule cannot be built. The scope of a service key, and
the uid and device of a device token, are checked before anything is looked up.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache, partial
from typing import Final

import structlog
from starlette.types import Scope

from gregor.auth.access_problem import AccessProblem, failure_reason
from gregor.auth.device_tokens import Caller, TokenVerifier
from gregor.clock import Clock
from gregor.config.settings import Settings
from gregor.core.errors import Problem
from gregor.core.ids import BACKEND, Prefixes, is_name, is_user_id, name_error, user_id_error
from gregor.core.items.sync import View
from gregor.core.messages.model import Sender
from gregor.metrics.process import Metrics
from gregor.net.client_address import ClientAddresses, IpAddress
from gregor.store import service_keys
from gregor.store.contract.access import ServiceKey
from gregor.store.contract.store import Store, Unavailable
from gregor.web.http_admission import CALLER
from gregor.web.request import CONFIRM_AFTER_S

_log = structlog.get_logger(__name__)

# --- Access rules

SCOPES: Final = ("ingest", "read", "devices", "deliveries", "categories", "broadcast", "admin")
"""The scopes of service keys."""
DELIVERY_ID: Final = "delivery"
"""The path parameter that is not a name: an encoded delivery id. An invalid one is not found."""
KEY_REFRESH_S: Final = 0.1
"""Age after which a key in use is read again in the background."""
KEY_CACHE_TTL_S: Final = 0.2
"""How long a key is cached. A busy backend costs ten reads a second, and a deleted key works 0.2 s longer."""
KEY_CACHE_SIZE: Final = 1_000
KEY_PATIENCE_S: Final = 0.02
"""How long a call of a known key waits for a slow Redis. Later calls do not wait until the read has ended."""
KEY_RETRY_S: Final = 0.5
"""After a read failed, calls of known keys do not read again for this time."""
KEY_USE_INTERVAL_S: Final = 60.0
"""How often a process records the use of one key: ``last_used`` costs a busy backend one write a minute."""

_AUTHORIZED: Final = "gregor.authorized"
"""The member of an ASGI scope with the rule, the device, and the monotonic time of its last authorization."""


class DeviceAccess(Enum):
    """The access of a device token to an endpoint."""

    NOTHING = "no"
    USER = "own uid"
    VIEW = "own uid, and its own device if the query names one"
    DEVICE = "own uid and device"
    ANY = "yes; the endpoint checks the details"


@dataclass(frozen=True, slots=True)
class AccessRule:
    """Access to one endpoint: a key needs one of the scopes; ``device_access`` is for device tokens.

    ``limits``: which limits of keys and device tokens concern the endpoint: ``CATEGORIES``, ``SYSTEMS``. A test holds
    each of them (tests/unit/ingest/test_access_table.py).
    """

    method: str
    path: str
    scopes: frozenset[str]
    device_access: DeviceAccess
    limits: frozenset[str] = frozenset()


CATEGORIES: Final = "categories"
"""The limit by category prefixes: `prefixes` of a key, `cats` of a device token."""
SYSTEMS: Final = "systems"
"""The limit by external systems: `systems` of a key or a device token."""


def _rules(scope: str, device_access: DeviceAccess, *endpoints: str, limits: str = "") -> tuple[AccessRule, ...]:
    pairs = (endpoint.split(" ") for endpoint in endpoints)
    scopes, names = frozenset(scope.split("|")), frozenset(limits.split())
    return tuple(AccessRule(method, path, scopes, device_access, names) for method, path in pairs)


_BOTH: Final = f"{CATEGORIES} {SYSTEMS}"

# A message needs `ingest`, and one that resets its user `admin`: the route knows after parsing it.
ACCESS_RULES: Final = (
    *_rules("ingest|admin", DeviceAccess.USER, "POST /v1/users/{uid}/messages", limits=_BOTH),
    *_rules("ingest|admin", DeviceAccess.ANY, "POST /v1/messages", limits=_BOTH),
    *_rules(
        "ingest",
        DeviceAccess.USER,
        "GET /v1/users/{uid}/messages",
        "DELETE /v1/users/{uid}/messages/{id}",
        limits=_BOTH,
    ),
    # Reads of one user: a device sees its own view.
    *_rules(
        "read",
        DeviceAccess.VIEW,
        "GET /v1/users/{uid}/state",
        "GET /v1/users/{uid}/items/{id}",
        "GET /v1/users/{uid}/history",
        limits=CATEGORIES,
    ),
    *_rules("read", DeviceAccess.VIEW, "GET /v1/users/{uid}/sync", limits=_BOTH),
    *_rules("read", DeviceAccess.ANY, "POST /v1/tickets", limits=_BOTH),
    # A device registers only itself. It gets pushes only of the categories that its token may read.
    *_rules(
        "devices",
        DeviceAccess.DEVICE,
        "PUT /v1/users/{uid}/devices/{device}",
        "PATCH /v1/users/{uid}/devices/{device}",
        limits=CATEGORIES,
    ),
    *_rules("devices", DeviceAccess.DEVICE, "GET /v1/users/{uid}/devices/{device}"),
    # Forgetting a device ends its items and delayed messages.
    *_rules("devices", DeviceAccess.DEVICE, "DELETE /v1/users/{uid}/devices/{device}", limits=_BOTH),
    # Users choose their preferences in the app; their address comes from the backend, which has verified it.
    *_rules(
        "devices",
        DeviceAccess.USER,
        "PUT /v1/users/{uid}/preferences",
        "PATCH /v1/users/{uid}/preferences",
        "GET /v1/users/{uid}/preferences",
        limits=CATEGORIES,
    ),
    # Quiet hours concern all categories: a token that is limited to some may only read them.
    *_rules("devices", DeviceAccess.USER, "PUT /v1/users/{uid}/quiet-hours", limits=CATEGORIES),
    *_rules("devices", DeviceAccess.USER, "GET /v1/users/{uid}/quiet-hours"),
    *_rules(
        "devices",
        DeviceAccess.NOTHING,
        "PUT /v1/users/{uid}/contact",
        "PATCH /v1/users/{uid}/contact",
        "GET /v1/users/{uid}/contact",
        "DELETE /v1/users/{uid}/contact",
    ),
    # Deliveries show provider responses, so they are for operators.
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
    # The route shows and cancels only the kinds of jobs that the key may start.
    *_rules(
        "broadcast|admin",
        DeviceAccess.NOTHING,
        "POST /v1/broadcast",
        "GET /v1/jobs",
        "GET /v1/jobs/{job}",
        "DELETE /v1/jobs/{job}",
    ),
    # Whatever affects other keys, or all users.
    *_rules(
        "admin",
        DeviceAccess.NOTHING,
        "POST /v1/users/{uid}/flush",
        "POST /v1/flush",
        "GET /v1/upgrade",
        "POST /v1/upgrade/finish",
        "POST /v1/jobs",
        "GET /v1/users/{uid}/export",
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
        "GET /v1/audit",
    ),
)
"""Every endpoint that needs a token."""

_BY_ENDPOINT: Final = {(rule.method, rule.path): rule for rule in ACCESS_RULES}


def access_rule(method: str, path: str) -> AccessRule:
    """Return the rule of an endpoint. Raise ``KeyError`` if there is none: then it cannot be served."""
    return _BY_ENDPOINT[method, path]


# --- Callers


class UnconfirmedKey(Unavailable):
    """A service key cannot be read, and this process has not confirmed it recently, or not since its start."""

    def problem(self) -> Problem:
        """Return the error for the client: not 401, because the key may be valid."""
        detail = (
            "The service key cannot be checked: its Redis server is unreachable, and this process has not confirmed "
            "the key recently. Try again. Device tokens are accepted meanwhile."
        )
        return Problem("unavailable", detail, retry_after_s=1.0)


@dataclass(slots=True)
class KeyRead:
    """A read of a service key for calls with its known ``tokens``. ``is_slow``: a call did not wait for its end."""

    task: asyncio.Task[ServiceKey | None]
    began_s: float
    is_slow: bool = False
    tokens: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Actor:
    """An authenticated caller: a service key, or a device with its token. Exactly one of the two is set.

    ``secret_mark``: identifies the secret of the key that was used (``service_keys.mark_of``).
    """

    key: ServiceKey | None = None
    caller: Caller | None = None
    secret_mark: str | None = None

    @property
    def category_filter(self) -> Prefixes:
        """The category prefixes that the caller is limited to; ``None``: unlimited."""
        if self.key is not None:
            return self.key.prefixes
        return self.caller.category_filter if self.caller is not None else ()

    @property
    def systems(self) -> Prefixes:
        """The external systems that the caller is limited to, for reading and for sending; ``None``: unlimited."""
        if self.key is not None:
            return self.key.allowed_systems
        return self.caller.systems if self.caller is not None else ()

    @property
    def key_id(self) -> str | None:
        """The id of the service key, if the caller is one."""
        return None if self.key is None else self.key.id

    @property
    def issued_us(self) -> int:
        """When the device token was issued; 0 for a key, and for a token that does not say it."""
        return 0 if self.caller is None else self.caller.iat_us

    def sender_and_view(self, device: str | None) -> tuple[Sender, View]:
        """Return the sender of a message that names ``device``, and its view.

        Raises ``forbidden`` if a device token names another device.
        """
        if self.caller is None:
            return _sender_and_view(device or BACKEND, self.category_filter, self.systems)
        if device is not None and device != self.caller.device:
            raise _forbidden("The device token belongs to another device.")
        return _sender_and_view(self.caller.device, self.category_filter, self.systems)

    def has_scope(self, scope: str) -> bool:
        """Return whether the key has a scope. A device token has only ``ingest``."""
        return scope in service_keys.effective_scopes(self.key) if self.key is not None else scope == "ingest"

    @property
    def may_see_deliveries(self) -> bool:
        """Whether a dry run shows deliveries: to a key with ``devices``; to a device, those to itself."""
        return self.key is None or self.has_scope("devices")

    def require_scope(self, scope: str) -> None:
        """Raise ``forbidden`` unless the caller has the scope."""
        if not self.has_scope(scope):
            raise _forbidden(f"This needs a service key with the scope {scope}.")


# Saves two allocations a message: most messages come from a few callers.
@lru_cache(1_024)
def _sender_and_view(device: str, category_filter: Prefixes, systems: Prefixes) -> tuple[Sender, View]:
    return Sender(device, category_filter, systems), View(device, category_filter)


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
        self._keys: dict[str, tuple[float, Actor]] = {}
        self._key_reads: dict[str, KeyRead] = {}
        self._uses: dict[str, float] = {}
        self._key_grace_s = settings.service_key_grace_s
        self._unconfirmed = metrics.unconfirmed_keys
        self._ask_keys_at_s = 0.0
        self._log_keys_at_s = 0.0

    async def watch_keys(self) -> None:
        """Load the keys of device tokens from time to time. Never returns."""
        # An ingest for backends verifies no token for days. The first one must not be checked with removed keys.
        await self._tokens.watch(self._clock)

    async def authorize(self, rule: AccessRule, scope: Scope, device: str | None = None) -> Actor:
        """Return the caller of a request, if the rule admits it. ``device``: the device that the query names.

        Raises ``unauthorised``, ``forbidden``, or ``invalid_id`` if a path parameter is not a valid name.
        """
        try:
            # All checks that need no read come first: a flood of requests without rights costs no round trip.
            path_params: Mapping[str, str] = scope["path_params"]
            token = _bearer_token(scope["gregor.headers"].get(b"authorization"))
            if token.startswith("gk_"):
                self._check_keys_are_accepted()
                actor = await self._authenticate_key(token)
                self._check_key_address(actor.key, scope)
                await self._record_use(actor.key)
                _check_key_scope(rule, actor.key)
                scope[CALLER] = True
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
        scope[CALLER] = True
        scope[_AUTHORIZED] = rule, device, self._clock.monotonic()
        return actor

    async def confirm(self, scope: Scope) -> None:
        """Authorize a request again if its last authorization is older than ``CONFIRM_AFTER_S``.

        Call it after each wait. A client can send its body for minutes, and a stream of lines for hours. Meanwhile its
        key or user may be deleted, or its token revoked.
        """
        rule, device, at_s = scope[_AUTHORIZED]
        if self._clock.monotonic() - at_s >= CONFIRM_AFTER_S:
            await self.authorize(rule, scope, device)

    def _check_keys_are_accepted(self) -> None:
        if not self._accepts_keys:
            detail = "Only device tokens are accepted here. Send service keys to the internal ingest."
            raise AccessProblem("forbidden", detail, reason="key_not_accepted")

    def _check_key_address(self, key: ServiceKey | None, scope: Scope) -> None:
        if (
            key is not None
            and key.addresses is not None
            and not service_keys.may_come_from(key, self.address_of(scope))
        ):
            detail = "The service key may not be used from this address: see its field addresses."
            raise AccessProblem("forbidden", detail, reason="key_address")

    def _count_failure(self, problem: Problem) -> None:
        reason = failure_reason(problem, "token_device")
        # Without the keys of TOKEN_JWKS, nothing is known about the caller.
        if problem.code != "unavailable":
            self._failures.labels(reason).inc()

    def address_of(self, scope: Scope) -> IpAddress | None:
        """Return the address of the client of a request, behind the trusted proxies."""
        peer = scope.get("client")
        forwarded_for = scope["gregor.headers"].get(b"x-forwarded-for", b"").decode("latin-1")
        return self._addresses.find(peer[0] if peer else None, forwarded_for)

    def known_key_actor(self, scope: Scope) -> Actor | None:
        """Return the actor of a service key that this process checked within ``GREGOR_SERVICE_KEY_GRACE``.

        ``None`` if the request comes from an address that the key does not allow: its sender counts as a stranger.
        """
        _, _, token = scope["gregor.headers"].get(b"authorization", b"").decode("latin-1").partition(" ")
        read_s, actor = self._keys.get(token.strip(), (-math.inf, None))
        # A key is checked again only if a request needs its rights. Another process may have deleted it.
        if actor is None or actor.key is None or self._clock.monotonic() - read_s >= self._key_grace_s:
            return None
        return actor if service_keys.may_come_from(actor.key, self.address_of(scope)) else None

    def verified_key(self, scope: Scope) -> str | None:
        """Return the id of the known service key of a request that comes from an address that the key allows."""
        known = self.known_key_actor(scope)
        return known.key.id if known is not None and known.key is not None else None

    def invalidate_keys(self) -> None:
        """Clear the cache of service keys, after this process changed or deleted one."""
        self._keys.clear()
        self._key_reads.clear()

    async def _authenticate_key(self, token: str) -> Actor:
        # The cache is keyed by the whole token, so it also saves hashing the secret.
        now_s = self._clock.monotonic()
        cached = self._keys.get(token)
        if cached is not None and (age_s := now_s - cached[0]) < KEY_CACHE_TTL_S:
            if age_s >= KEY_REFRESH_S and cached[1].key is not None:
                self._key_read(token, cached[1].key.id, now_s, KEY_REFRESH_S)
            return cached[1]
        is_known = cached is not None and now_s - cached[0] < self._key_grace_s
        parsed = service_keys.parse(token)
        read_s = now_s
        try:
            if parsed is None:
                found = None
            elif is_known:
                found, read_s = await self._reread_key(token, parsed[0], now_s)
            else:
                found = await self._store.access.key(parsed[0])
        except Unavailable as error:
            if cached is None or cached[1].key is None or not is_known:
                raise UnconfirmedKey(str(error)) from error
            self._check_expiry(cached[1].key)
            self._unconfirmed.inc()
            return cached[1]
        if parsed is None or found is None or not service_keys.is_valid(found, parsed[1], self._clock.now_us()):
            self._keys.pop(token, None)
            raise _unauthorised("The service key is invalid, deleted or expired.", "key_invalid")
        if service_keys.is_expired(found, self._clock.now_us()):
            # An expired key must not count as a verified one (``verified_key``).
            self._keys.pop(token, None)
        self._check_expiry(found)
        # Clearing is cheaper than an LRU list, and rare: a deployment has a few dozen keys.
        if len(self._keys) >= KEY_CACHE_SIZE:
            self.invalidate_keys()
        actor = Actor(key=found, secret_mark=service_keys.mark_of(parsed[1]))
        self._keys[token] = (read_s, actor)
        return actor

    async def _reread_key(self, token: str, key_id: str, now_s: float) -> tuple[ServiceKey | None, float]:
        """Return a known key, and when its read began. Raises ``Unavailable`` if Redis is slow or unreachable.

        All calls share one read. If a shard hangs, only the calls of the first 20 ms wait for its keys: a measured
        0.5 s for every call of every user before.
        """
        read = self._key_read(token, key_id, now_s, KEY_CACHE_TTL_S)
        if read is None:
            raise Unavailable("service keys could not be read a moment ago")
        if not read.is_slow and not read.task.done():
            await asyncio.wait((read.task,), timeout=KEY_PATIENCE_S)
        if not read.task.done():
            read.is_slow = True
            self._log_unreachable("Redis is slow", now_s)
            raise Unavailable("service keys cannot be read: Redis is slow")
        try:
            return read.task.result(), read.began_s
        except Unavailable as error:
            self._log_unreachable(str(error), now_s)
            raise Unavailable(f"service keys cannot be read: {error}") from None

    def _key_read(self, token: str, key_id: str, now_s: float, max_age_s: float) -> KeyRead | None:
        """Return the read of a key if it is younger than ``max_age_s``, else start one; None soon after a failure."""
        read = self._key_reads.get(key_id)
        if read is None or (read.task.done() and now_s - read.began_s >= max_age_s):
            if now_s < self._ask_keys_at_s:
                return None
            read = KeyRead(asyncio.ensure_future(self._store_key(key_id)), now_s)
            read.task.add_done_callback(partial(self._end_key_read, read))
            self._key_reads[key_id] = read
        read.tokens.add(token)
        return read

    async def _store_key(self, key_id: str) -> ServiceKey | None:
        return await self._store.access.key(key_id)

    def _end_key_read(self, read: KeyRead, task: asyncio.Task[ServiceKey | None]) -> None:
        if task.cancelled() or task.exception() is not None:
            self._ask_keys_at_s = self._clock.monotonic() + KEY_RETRY_S
            return
        # Perhaps no call has waited for the result. If it were lost, a deleted key would work while Redis is slow.
        found, now_us = task.result(), self._clock.now_us()
        for token in read.tokens & self._keys.keys():
            mark = self._keys[token][1].secret_mark
            if service_keys.is_mark_valid(found, mark, now_us):
                self._keys[token] = (read.began_s, Actor(key=found, secret_mark=mark))
            else:
                del self._keys[token]

    def _log_unreachable(self, reason: str, now_s: float) -> None:
        if now_s >= self._log_keys_at_s:
            self._log_keys_at_s = now_s + KEY_USE_INTERVAL_S
            _log.warning("service_keys.unreachable", reason=reason, known_keys_work_for_s=self._key_grace_s)

    def _check_expiry(self, key: ServiceKey) -> None:
        if service_keys.is_expired(key, self._clock.now_us()):
            detail = "The service key has expired (its field expires). Create a new one."
            raise _unauthorised(detail, "key_expired")

    async def _record_use(self, key: ServiceKey | None) -> None:
        if key is None:
            return
        now_s = self._clock.monotonic()
        last_s = self._uses.get(key.id)
        if last_s is None or now_s - last_s >= KEY_USE_INTERVAL_S:
            self._uses[key.id] = now_s
            # A full store must not refuse a dismissal, which frees memory.
            with suppress(Unavailable, Problem):
                await self._store.access.record_key_use(key.id, self._clock.now_us())

    async def _check_revoked(self, caller: Caller) -> None:
        revoked_us = await self._store.devices.revoked_before(caller.uid, caller.device)
        if revoked_us is not None and caller.iat_us <= revoked_us:
            raise _unauthorised("The device token was revoked.", "token_revoked")


def _check_key_scope(rule: AccessRule, key: ServiceKey | None) -> None:
    if key is None or not rule.scopes & service_keys.effective_scopes(key):
        raise AccessProblem("forbidden", _missing_scope(rule, key), reason="key_scope")


def _bearer_token(authorization: bytes | None) -> str:
    scheme, _, token = (authorization or b"").decode("latin-1").partition(" ")
    if scheme.lower() != "bearer":
        raise _unauthorised("Send a service key or a device token: Authorization: Bearer <token>.", "missing")
    if not token.strip():
        raise _unauthorised("The token is empty: send a service key or a device token after Bearer.", "missing")
    return token.strip()


def _check_device_access(
    access: DeviceAccess, caller: Caller, path_params: Mapping[str, str], device: str | None
) -> None:
    if access is DeviceAccess.NOTHING:
        raise _forbidden("This needs a service key; a device token is not enough.")
    if path_params.get("uid", caller.uid) != caller.uid:
        raise _forbidden("The device token belongs to another user.")
    if access is DeviceAccess.DEVICE:
        named = path_params.get("device")
    else:
        named = device if access is DeviceAccess.VIEW else None
    if named is not None and named != caller.device:
        raise _forbidden("The device token belongs to another device.")


def _missing_scope(rule: AccessRule, key: ServiceKey | None) -> str:
    scopes = " or ".join(sorted(rule.scopes))
    if key is not None and rule.scopes & key.scopes:
        return f"The scope {scopes} does not count for a service key with prefixes or systems. Use a key without them."
    return f"The service key lacks the scope {scopes}."


def _unauthorised(detail: str, reason: str) -> Problem:
    return AccessProblem("unauthorised", detail, reason=reason)


def _forbidden(detail: str) -> Problem:
    return Problem("forbidden", detail)
