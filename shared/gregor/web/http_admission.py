"""Admission to the HTTP ports: the address of a client behind proxies, and the limits before authentication."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gregor.clock import Clock
from gregor.core.errors import Problem
from gregor.net.client_address import ClientAddresses, IpAddress, parse_address
from gregor.net.connection_limits import Admission, ConnectionLimiter, ProbeConnections
from gregor.net.refusal_pacer import RefusalPacer
from gregor.net.request_queue import RequestQueue

from .problems import HttpProblem

RETRY_AFTER_S: Final = (1, 5)
"""Range of ``Retry-After``: refused clients must not all return at the same moment."""
STREAM_PATH: Final = "/v1/stream"
"""A request that opens a connection for long, as the handshake of a WebSocket does."""
CALLER: Final = "gregor.caller"
"""Key of a scope: the caller as `("key_id", id)` or `("user", uid)`. Set once the key or token is valid."""
_LARGE_BYTES: Final = 65_536
"""Size of a body above which ``send`` waits until the client has read it. The server writes smaller ones at once."""
_REFUSED: Final = "gregor.refused"
"""Key of a scope: True if the anonymous limit refused the request."""
QUEUED: Final = "gregor.queued"
"""Key of a scope: how the request was ``Queued``."""
WITHHOLD_CONTINUE: Final = "gregor.withhold_continue"
"""Key of the scope of a request with ``Expect: 100-continue``: a function after which reading its body asks for none.

Otherwise the server answers 100 when an application begins to read the body.
"""


class Queued(NamedTuple):
    """The place of a request in the queue of its process."""

    units: int
    """0: the request is refused."""
    arrived_s: float
    is_verified: bool
    """Whether it has a verified service key; False if the key was not looked up (``RequestQueue.needs_key``)."""

    @property
    def is_refused_unverified(self) -> bool:
        """Whether the request is refused and has no verified service key."""
        return not self.units and not self.is_verified


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
    verified_key: Callable[[Scope], str | None] = lambda _: None
    """Return the id of the service key of a request, if this process has verified it: its address does not matter then.
    """
    probes: ProbeConnections | None = None
    """The connections of a port that serves only probes and metrics. ``None``: another port."""

    def for_probes(self) -> HttpAdmission:
        """Return the admission of a port that serves only probes and metrics, with its own count."""
        limits = self.limiter.limits.for_probes()
        return HttpAdmission(ConnectionLimiter(limits), self.addresses, self.count_refusal, probes=ProbeConnections())

    def awaits_proxy_header(self, peer: IpAddress | None) -> bool:
        """Return whether the connections of a peer must begin with a PROXY protocol header."""
        return self.has_proxy_headers and (not self.addresses.has_proxies or self.addresses.is_trusted(peer))


def count_forwarded(app: ASGIApp, admission: HttpAdmission, clock: Clock) -> ASGIApp:
    """Return an application that limits the clients of trusted proxies."""
    # Without trusted proxies, ForwardedClients would only cost a call.
    return ForwardedClients(app, admission, clock) if admission.addresses.has_proxies else app


class ForwardedClients:
    """Counts each request that a trusted proxy forwards as a connection of the client, until its response is read.

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
            await self._app(scope, receive, until_read(send))
        finally:
            limiter.close_for(key)

    def _client_of(self, scope: Scope) -> str | None:
        """Return the key of the client that a trusted proxy names; ``None`` without one: its connection counts."""
        if scope["type"] != "http" or (peer := scope.get("client")) is None:
            return None
        addresses = self._admission.addresses
        if not addresses.is_trusted(parse_address(peer[0])):
            return None
        return addresses.limited(client_address(scope, addresses))


def client_address(scope: Scope, addresses: ClientAddresses) -> IpAddress | None:
    """Return the address of the client of a request, behind the trusted proxies."""
    peer, forwarded_for = scope.get("client"), scope["gregor.headers"].get(b"x-forwarded-for", b"")
    return addresses.find(peer[0] if peer else None, forwarded_for.decode("latin-1"))


def until_read(send: Send) -> Send:
    """Return a ``send`` that ends after the client has read a large response, apart from its last bytes."""

    async def send_and_wait(message: Message) -> None:
        if len(message.get("body", b"")) > _LARGE_BYTES and not message.get("more_body"):
            await send({**message, "more_body": True})
            # The server waits here until the client has read all but the last 16 KiB.
            message = {"type": "http.response.body", "body": b""}
        await send(message)

    return send_and_wait


class AnonymousLimit:
    """Limits the requests of a client address that have no valid token or key, or that get 429 or an overload's 503.

    Such a request takes 0.5 ms of CPU time, for which no caller is charged. The HTTP middleware checks the limit before
    anything is parsed, and counts the request when it is answered. A verified service key has its own limit of the
    same size: it and the others behind the same address do not block each other.
    """

    def __init__(self, admission: HttpAdmission, clock: Clock) -> None:
        self._admission = admission
        self._requests = admission.limiter.anonymous
        self._clock = clock
        self._pacer = RefusalPacer(clock)

    def check(self, scope: Scope) -> None:
        """Raise ``rate_limited`` if the client of a request is above the limit."""
        # While no client is tracked, the address need not be parsed.
        if not self._requests.clients:
            return
        wait_s = self._requests.wait_s(self._client_of(scope), self._clock.monotonic())
        if wait_s > 0:
            self._admission.count_refusal("anonymous")
            scope[_REFUSED] = True
            raise _anonymous_refusal(wait_s, closes=not self._is_proxied(scope))

    async def pace(self, scope: Scope, receive: Receive) -> float:
        """Delay a request that ``check`` refused, if a trusted proxy forwarded it: its connection must stay open.

        Returns the delay in seconds.
        """
        begun_s = self._clock.monotonic()
        if _REFUSED in scope and self._is_proxied(scope):
            client = self._client_of(scope)
            if client is not None:
                await self._wait(client, scope, receive)
        return self._clock.monotonic() - begun_s

    async def _wait(self, client: str, scope: Scope, receive: Receive) -> None:
        """Wait for the turn of a refusal. Meanwhile the body of its request is dropped: thousands may wait."""
        headers = scope["gregor.headers"]
        if headers.get(b"content-length", b"0") == b"0" and b"transfer-encoding" not in headers:
            await self._pacer.wait(client)
            return
        if withhold_continue := scope.get(WITHHOLD_CONTINUE):
            withhold_continue()
        dropping = asyncio.ensure_future(_drop_body(receive))
        try:
            await self._pacer.wait(client)
        finally:
            dropping.cancel()

    def address_of(self, scope: Scope) -> IpAddress | None:
        """Return the address of the client of a request, behind the trusted proxies."""
        return client_address(scope, self._admission.addresses)

    def count(self, scope: Scope, status: int) -> None:
        """Count a request, unless ``check`` refused it. ``status``: of its response, or 0 without one."""
        queued: Queued | None = scope.get(QUEUED)
        # Otherwise clients without a verified key could occupy an overloaded process with refusals.
        is_overload = queued is not None and queued.is_refused_unverified
        # Other responses of 500 and above do not count: the client did not cause them.
        is_anonymous = CALLER not in scope and 0 < status < 500
        if (status == 429 or is_overload or is_anonymous) and _REFUSED not in scope:
            self._requests.count(self._client_of(scope), self._clock.monotonic())

    def _is_proxied(self, scope: Scope) -> bool:
        peer = scope.get("client")
        return peer is not None and self._admission.addresses.is_trusted(parse_address(peer[0]))

    def _client_of(self, scope: Scope) -> str | None:
        """Return the name by which a client is limited: its verified service key, or its address."""
        if (key_id := self._admission.verified_key(scope)) is not None:
            return f"key/{key_id}"
        return self._admission.addresses.limited(self.address_of(scope))


async def _drop_body(receive: Receive) -> None:
    while (await receive()).get("more_body", False):
        pass


def _anonymous_refusal(wait_s: float, *, closes: bool) -> Problem:
    """Return the response to a client. ``closes``: its next request needs a new connection, which is limited too."""
    return HttpProblem(
        "rate_limited",
        "Too many requests from this address had no valid token or key, or this address or key was over a rate limit: "
        "GREGOR_ANONYMOUS_RATE is reached. Check the token, and retry after the time in Retry-After.",
        retry_after_s=max(1.0, wait_s) * random.uniform(1.0, 2.0),
        headers=((b"connection", b"close"),) if closes else (),
    )


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
