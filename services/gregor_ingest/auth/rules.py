"""The table of access rules: which scopes of service keys, and which device tokens, may call each endpoint.

Every endpoint that needs a token has a rule; a route without a rule cannot be built.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

SCOPES: Final = ("ingest", "read", "devices", "deliveries", "categories", "broadcast", "admin")
"""The scopes of service keys."""
DELIVERY_ID: Final = "delivery"
"""The path parameter that is not a name: an encoded delivery id. An invalid one is not found."""


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

# A message needs `ingest`, and a message that resets its user needs `admin`. The route knows this after parsing.
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
    # These endpoints affect other keys, or all users.
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
    """Return the rule of an endpoint. Raises ``KeyError`` if it has no rule: then it cannot be served."""
    return _BY_ENDPOINT[method, path]
