"""Circuit breaker and concurrency limit of each Web Push origin: a device chooses the origin of its endpoint.

An origin that fails delays only its own pushes. A device can make up any number of origins below a wildcard of
GREGOR_WEBPUSH_HOSTS. All of them together leave half of the connections to the origins that are named in full. A
device can also choose the sandbox of APNs, so it is treated like one of these origins.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final
from urllib.parse import urlsplit

from gregor.clock import Clock
from gregor_delivery.channels.http_pool import CONNECTIONS

from .breaker import Permit
from .webhook_endpoints import Places, WebhookEndpoints

SHARE_FIXED: Final = 4.0
"""Pushes to an origin that the settings name in full, for each free connection of the pool: one may hold 80 of 100."""
PLACES_WILDCARD: Final = CONNECTIONS // 2
"""Concurrent pushes to all origins below wildcards together."""
CONCURRENT_WILDCARD: Final = PLACES_WILDCARD // 2
"""Concurrent pushes to one of these origins."""
SHARE_WILDCARD: Final = 1.0
"""Pushes to one of these origins, for each free place of all of them: an origin takes at most half of these places."""
MAX_ORIGINS: Final = 1_024
"""Remembered origins below wildcards."""
APPLE: Final = "web.push.apple.com"
"""The only origin of Apple; its default entry in GREGOR_WEBPUSH_HOSTS is a wildcard."""
APNS_SANDBOX: Final = "sandbox of APNs"
"""Not the name of a host, so no Web Push subscription has the same origin."""


class FixedOrigins:
    """Separates fixed origins from those that a device can choose. `hosts`: as GREGOR_WEBPUSH_HOSTS."""

    def __init__(self, hosts: Iterable[str]) -> None:
        self._hosts = {APPLE, *(host.lower() for host in hosts if not host.startswith("*"))}

    def __contains__(self, origin: object) -> bool:
        return origin in self._hosts


class WebPushOrigins:
    """The origins to which one process sends Web Push messages."""

    def __init__(self, hosts: Iterable[str], clock: Clock) -> None:
        self._fixed_origins = FixedOrigins(hosts)
        self._clock = clock
        places = Places()
        self._fixed = WebhookEndpoints(CONNECTIONS, places=places, share=SHARE_FIXED, counts_each_unreachable=False)
        below_wildcards = Places(PLACES_WILDCARD, places)
        self._others = WebhookEndpoints(CONCURRENT_WILDCARD, MAX_ORIGINS, below_wildcards, SHARE_WILDCARD)

    def wait_s(self, origin: str, uid: str) -> float:
        """Return how long a push of a user to `origin` has to wait; 0 if it may start now, by `acquire`."""
        return self._endpoints_of(origin).wait_s(origin, self._clock.monotonic(), uid)

    def is_down(self, origin: str) -> bool:
        """Return whether the circuit breaker of the origin is open."""
        return self._endpoints_of(origin).is_down(origin)

    def is_own(self, origin: str) -> bool:
        """Return whether the device chose the origin: one below a wildcard, or the sandbox of APNs."""
        return origin not in self._fixed_origins

    def turn_s(self, origin: str, uid: str) -> float:
        """Return the pause of a push whose origin is not down but has too many in flight, or too many to this user."""
        return self._endpoints_of(origin).turn_s(origin, self._clock.monotonic(), uid)

    def acquire(self, origin: str, uid: str) -> Permit:
        """Start a push to a user. The caller must finish the permit with `record` or `release`."""
        return self._endpoints_of(origin).acquire(origin, self._clock.monotonic(), uid)

    def _endpoints_of(self, origin: str) -> WebhookEndpoints:
        return self._fixed if origin in self._fixed_origins else self._others


def origin_of(endpoint: str) -> str:
    """Return host and port of an endpoint as GREGOR_WEBPUSH_HOSTS writes them; empty if it is not a URL."""
    try:
        parts = urlsplit(endpoint)
        host, port = parts.hostname or "", parts.port or 443
    except ValueError:
        return ""
    return host if port == 443 else f"{host}:{port}"
