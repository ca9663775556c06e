"""Admission to the HTTP ports: the address of a client behind proxies, and the limits before authentication."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from gregor.clock import Clock
from gregor.core.errors import Problem
from gregor.net.client_address import ClientAddresses, IpAddress, parse_address
from gregor.net.connection_limits import Admission, ConnectionLimiter
from gregor.net.request_queue import RequestQueue

RETRY_AFTER_S: Final = (1, 5)
"""Range of ``Retry-After``: refused clients must not all return at the same moment."""
STREAM_PATH: Final = "/v1/stream"
"""A request that opens a connection for long, as the handshake of a WebSocket does."""
QUEUED: Final = "gregor.queued"
"""Key of a scope: the units of the request in the queue (0: it is refused), and when it arrived in seconds."""


@dataclass(frozen=True, slots=True)
class HttpAdmission:
    """The limits that the HTTP ports of a process share."""

    limiter: ConnectionLimiter
    addresses: ClientAddresses
    count_refusal: Callable[[str], object]
    """Gets the name of the limit that refused a connection."""
    has_proxy_headers: bool = False
    """Whether connections begin with a header of PROXY protocol v2."""
    queue: RequestQueue | None = None
    """Refuses requests while the process is overloaded. ``None``: requests are never refused."""

    def for_probes(self) -> HttpAdmission:
        """Return the admission of a port that serves only probes and metrics, with its own count."""
        limits = self.limiter.limits.for_probes()
        return HttpAdmission(ConnectionLimiter(limits), self.addresses, self.count_refusal)

    def awaits_proxy_header(self, peer: IpAddress | None) -> bool:
        """Return whether the connections of a peer must begin with a PROXY protocol header."""
        return self.has_proxy_headers and (not self.addresses.has_proxies or self.addresses.is_trusted(peer))


class ForwardedClients:
    """Counts each request that a trusted proxy forwards as a connection of the client, until its response ends.

    Proxies reuse their connections for many clients. The handshake rate therefore limits only opening a stream.
    """

    def __init__(self, app: ASGIApp, admission: HttpAdmission, clock: Clock) -> None:
        self._app = app
        self._admission = admission
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request. Raises ``rate_limited`` above a limit of its client."""
        key = self._client_of(scope)
        if key is None:
            await self._app(scope, receive, send)
            return
        limiter = self._admission.limiter
        try:
            is_handshake = scope["path"] == STREAM_PATH
            admission = limiter.open_for(key, self._clock.monotonic(), is_handshake=is_handshake)
            if not admission.is_admitted:
                self._admission.count_refusal(admission.value)
                raise refusal(admission)
            await self._app(scope, receive, send)
        finally:
            limiter.close_for(key)

    def _client_of(self, scope: Scope) -> str | None:
        """Return the key of the client that a trusted proxy names; ``None`` without one: its connection counts."""
        if scope["type"] != "http" or (peer := scope.get("client")) is None:
            return None
        addresses = self._admission.addresses
        if not addresses.is_trusted(parse_address(peer[0])):
            return None
        forwarded_for = scope["gregor.headers"].get(b"x-forwarded-for", b"").decode("latin-1")
        return addresses.limited(addresses.find(peer[0], forwarded_for))


def refusal(admission: Admission) -> Problem:
    """Return the response to a connection or request above a limit."""
    # A proxied request is always answered: aborting would end the connection of other clients.
    named = Admission.ADDRESS if admission is Admission.FLOOD else admission
    return Problem(
        "unavailable" if named is Admission.PROCESS else "rate_limited",
        f"Too many connections: the limit {named.setting} is reached. Retry later.",
        retry_after_s=random.randint(*RETRY_AFTER_S),
    )


def overload_refusal(wait_s: float | None = None) -> Problem:
    """Return the response to a request that an overloaded process cannot begin in time."""
    return Problem(
        "unavailable",
        "The process is overloaded: requests wait longer than GREGOR_MAX_QUEUE_DELAY. Retry later.",
        retry_after_s=wait_s or random.randint(*RETRY_AFTER_S),
    )
