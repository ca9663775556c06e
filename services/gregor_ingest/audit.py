"""The audit trail: one event for each write of a service key with an audited scope, and each export of a user.

An event holds no user id, because it outlives a deleted user. A user is named by the hash of its id, and a device by
the hash of its name, which may contain the id.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec
import structlog
from fastapi.exceptions import RequestValidationError
from starlette.types import Scope

from gregor.auth.access_problem import AccessProblem
from gregor.clock import Clock
from gregor.core.errors import Problem
from gregor.core.ids import MAX_NAME_LENGTH
from gregor.core.times import format_time
from gregor.store import service_keys
from gregor.store.contract.access import DONE, AuditEvent
from gregor.store.contract.store import Store, Unavailable
from gregor.store.deleted_users import user_id_hash
from gregor.telemetry import REDACTED, LimitedLog, redact_text

from .auth.actor import Actor
from .auth.authorizer import Authorizer
from .auth.rules import AccessRule
from .problems import query_problem

log = structlog.get_logger(__name__)

AUDITED_SCOPES: Final = frozenset({"admin", "devices", "deliveries", "categories"})
"""The scopes whose writes are audited. Messages of `ingest` are not: they are the product's traffic."""
READS_BY_POST: Final = frozenset({"/v1/presence", "/v1/categories/{name}/preview"})
"""Endpoints that change nothing, and are POST because their question is long."""
AUDITED_READS: Final = frozenset({"/v1/users/{uid}/export"})
"""Reads with an event: an export has all personal data of a user."""

RESET_ACT: Final = "flushUser"
"""The act of a reset, also of one that is sent as a message."""

_LACKS_RIGHT: Final = ("key_scope", "key_address")  # refused after the secret was checked
_KEY: Final = "key"  # the path parameter with the id of a service key
_HASHED: Final = ("uid", "device", "delivery")  # a delivery id contains the uid, and the name of a device may


def is_audited(rule: AccessRule) -> bool:
    """Return whether the requests of an endpoint are audited."""
    if rule.method == "GET":
        return rule.path in AUDITED_READS
    return bool(rule.scopes & AUDITED_SCOPES) and rule.path not in READS_BY_POST


def target_of(path_params: Mapping[str, str]) -> dict[str, str]:
    """Return the path parameters. User ids, names of devices and delivery ids are hashed; secrets are redacted."""
    return {name: _target_value(name, value) for name, value in path_params.items()}


def _target_value(name: str, value: str) -> str:
    if name in _HASHED:
        return user_id_hash(value)
    if name == _KEY:
        # The path of a request can contain anything: a whole key, or its secret alone.
        whole_key = service_keys.parse(value)
        return whole_key[0] if whole_key is not None else value if service_keys.is_id(value) else REDACTED
    return redact_text(value)


def _stored_request_id(scope: Scope) -> str:
    """Return the request id without the user and device of the path: the caller may have put them into its own id."""
    identity: str = scope["gregor.request_id"]
    for name in _HASHED:
        if value := scope["path_params"].get(name):
            identity = identity.replace(value, REDACTED)
    return identity


def _logged_target(target: Mapping[str, str]) -> dict[str, str]:
    """Return the target for the log, with the id of a service key as ``key_id``: a field ``key`` is redacted there."""
    return {"key_id" if name == _KEY else name: value for name, value in target.items()}


class AuditTrail:
    """Writes events to the log, and those of authorized requests to the store."""

    def __init__(self, store: Store, clock: Clock, authorizer: Authorizer) -> None:
        self._store = store
        self._clock = clock
        self._authorizer = authorizer
        self._refusals = LimitedLog()

    async def record(
        self,
        scope: Scope,
        actor: Actor | None,
        error: Exception | None = None,
        more_target: Mapping[str, str] | None = None,
    ) -> None:
        """Record a request of a service key; requests of device tokens are not recorded.

        ``actor``: ``None`` if it was refused. ``more_target``: ids from its body or response. Refused requests are
        only logged, at most 10 a second. Otherwise a key without rights could displace stored events, and fill the log.
        """
        key_id = _refused_key(scope, error) if actor is None else actor.key_id
        if key_id is None:
            return
        address = self._authorizer.address_of(scope)
        target = {**target_of(scope["path_params"]), **(more_target or {})}
        event = AuditEvent(
            at=msgspec.Raw(format_time(self._clock.now_us())),
            key=key_id,
            act=scope["gregor.operation"],
            # The path of a refused request was not validated: it can be 60 KB long.
            target={name: value[:MAX_NAME_LENGTH] for name, value in target.items()},
            outcome=_outcome(error),
            request_id=_stored_request_id(scope),
            client=None if address is None else str(address),
        )
        fields: dict[str, Any] = {"act": event.act, "target": _logged_target(event.target), "outcome": event.outcome}
        fields |= {"client": event.client, "key_id": event.key, "request_id": scope["gregor.request_id"]}
        if actor is None:
            self._refusals.record("audit", self._clock.monotonic(), "info", **fields)
            return
        log.info("audit", **fields)
        try:
            await self._store.access.append_audit(msgspec.json.encode(event))
        except Unavailable:
            log.warning("audit.not_stored", request_id=scope["gregor.request_id"])

    async def record_reset(self, scope: Scope, actor: Actor, uid: str) -> None:
        """Record a message that reset its user, as the act of the endpoint for resets."""
        await self.record({**scope, "gregor.operation": RESET_ACT, "path_params": {"uid": uid}}, actor)


def _outcome(error: Exception | None) -> str:
    if error is None:
        return DONE
    if isinstance(error, Unavailable):
        return error.problem().code
    if isinstance(error, RequestValidationError):
        return query_problem(error.errors()).code
    return error.code if isinstance(error, Problem) else "internal"


def _refused_key(scope: Scope, error: Exception | None) -> str | None:
    """Return the id of a valid service key that lacked a right.

    ``None`` if the secret was not checked: otherwise anybody could write events in the name of any key.
    """
    if not isinstance(error, AccessProblem) or error.reason not in _LACKS_RIGHT:
        return None
    token = scope["gregor.headers"].get(b"authorization", b"").decode("latin-1").partition(" ")[2].strip()
    parsed = service_keys.parse(token)
    return parsed[0] if parsed else None
