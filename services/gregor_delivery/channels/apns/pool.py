"""The connections to one environment of APNs: few, kept open, shared by all sends."""

import asyncio
import ssl
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from .connection import KEEPALIVE_S, ApnsConnection
from .exchange import ApnsRequest, ApnsResponse, Headers, NotProcessed, Outcome, Untrusted

CONNECT_S = 10.0
"""For TCP, TLS and the provider's settings together."""
PAUSE_S = 1.0
"""After a connection that failed, before another one beside those that work is tried."""


@dataclass(frozen=True, slots=True)
class ApnsEndpoint:
    """Where an environment of APNs is; `tls` None: HTTP/2 in the clear, for fakes alone."""

    host: str
    port: int
    tls: ssl.SSLContext | None


class ApnsPool:
    """Requests wait here, in order, for a connection with room; one that waits too long was not handed over."""

    def __init__(
        self,
        address: ApnsEndpoint,
        most_connections: int,
        spoils: Callable[[ApnsResponse], bool],
        keepalive_s: float = KEEPALIVE_S,
    ) -> None:
        """`most_connections`: another one is opened when all are full; the first with the first request.

        `spoils`: whether a connection that answered so is better left.
        """
        self._address = address
        self._spoils = spoils
        self._keepalive_s = keepalive_s
        self._most = most_connections
        self._connections: list[ApnsConnection] = []
        self._waiting: deque[ApnsRequest] = deque()
        self._connecting: asyncio.Task[None] | None = None
        self._no_growth_until = 0.0
        self._is_closed = False
        self._is_empty = asyncio.Event()

    @property
    def connections(self) -> tuple[ApnsConnection, ...]:
        """Those that are open, also the ones that only wait for their last answers."""
        return tuple(self._connections)

    async def exchange(self, headers: Headers, body: bytes, deadline_at: float) -> Outcome:
        """Hand over one request, and its outcome; at `deadline_at` (the loop's clock) at the latest."""
        if self._is_closed:
            return NotProcessed("closed")
        exchange = ApnsRequest(headers, body, deadline_at)
        self._waiting.append(exchange)
        self._pump()
        try:
            outcome = await exchange.outcome
        except asyncio.CancelledError:
            exchange.abandon()
            raise
        if exchange.connection is not None and isinstance(outcome, ApnsResponse) and self._spoils(outcome):
            exchange.connection.retire()
        return outcome

    async def close(self) -> None:
        """Let what is in flight end (each has its deadline), then close."""
        self._is_closed = True
        if self._connecting is not None:
            await self._connecting
        while self._waiting:
            self._waiting.popleft().finish(NotProcessed("closed"))
        self._is_empty.clear()
        for connection in self.connections:
            connection.retire()
        if self._connections:
            await self._is_empty.wait()

    def _pump(self) -> None:
        while self._waiting:
            if self._waiting[0].is_over:
                self._waiting.popleft()
                continue
            connection = min(
                (each for each in self._connections if each.has_room), key=lambda each: each.in_flight, default=None
            )
            if connection is None:
                self._grow()
                return
            connection.begin(self._waiting.popleft())

    def _grow(self) -> None:
        usable = sum(each.is_usable for each in self._connections)
        if self._connecting is not None or usable >= self._most or self._is_closed:
            return
        if not usable or asyncio.get_running_loop().time() >= self._no_growth_until:
            self._connecting = asyncio.create_task(self._open_one(), name="apns connect")

    async def _open_one(self) -> None:
        trouble = await self._connect()
        self._connecting = None
        if trouble is not None:
            self._no_growth_until = asyncio.get_running_loop().time() + PAUSE_S
            if not any(each.is_usable for each in self._connections):
                while self._waiting:
                    self._waiting.popleft().finish(trouble)
        self._pump()

    async def _connect(self) -> NotProcessed | Untrusted | None:
        loop = asyncio.get_running_loop()
        connection: ApnsConnection | None = None
        try:
            async with asyncio.timeout(CONNECT_S):
                transport, connection = await loop.create_connection(
                    lambda: ApnsConnection(self._pump, self._forget, self._keepalive_s),
                    self._address.host,
                    self._address.port,
                    ssl=self._address.tls,
                )
                _insist_on_http2(transport)
                self._connections.append(connection)
                await connection.ready
        except (OSError, TimeoutError, ssl.SSLError, ssl.CertificateError) as error:
            if connection is not None:
                connection.end(f"no use: {type(error).__name__}")
            return self._trouble(error)
        return None

    def _trouble(self, error: Exception) -> NotProcessed | Untrusted:
        if isinstance(error, ssl.SSLCertVerificationError):
            return Untrusted(f"the certificate of {self._address.host} is not trusted: {error.verify_message}")
        said = error.strerror if isinstance(error, OSError) else None
        return NotProcessed(f"cannot connect: {said or type(error).__name__}")

    def _forget(self, connection: ApnsConnection) -> None:
        if connection in self._connections:
            self._connections.remove(connection)
        if not self._connections:
            self._is_empty.set()
        self._pump()


def _insist_on_http2(transport: asyncio.BaseTransport) -> None:
    tls = transport.get_extra_info("ssl_object")
    if tls is not None and tls.selected_alpn_protocol() not in ("h2", None):
        raise ConnectionError("the server speaks no HTTP/2")
