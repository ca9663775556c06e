"""Connection pool for one APNs environment: a few connections, kept open and shared by all sends."""

import asyncio
import ssl
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from .connection import KEEPALIVE_S, ApnsConnection
from .exchange import ApnsRequest, ApnsResponse, Headers, NotProcessed, Outcome, Untrusted

CONNECT_S = 10.0
"""Timeout of TCP, TLS and the provider's settings together."""
RECONNECT_S = 1.0
"""Pause after a failed connection, before the pool tries to add another to those that work."""
CLOSED_AT_ONCE = NotProcessed("cannot connect: the provider closes the connection")
"""Failure of a new connection that the provider closes at once: it sends a GOAWAY with its settings."""


@dataclass(frozen=True, slots=True)
class ApnsEndpoint:
    """Address of an APNs environment. `tls` None: HTTP/2 without TLS, only for fakes."""

    host: str
    port: int
    tls: ssl.SSLContext | None


class ApnsPool:
    """Queues requests, in order, for a connection with capacity; a request that waits too long was not sent."""

    def __init__(
        self,
        endpoint: ApnsEndpoint,
        max_connections: int,
        is_connection_spoiled: Callable[[ApnsResponse], bool],
        keepalive_s: float = KEEPALIVE_S,
    ) -> None:
        """`max_connections`: one is added when all are full; the first is opened by the first request.

        `is_connection_spoiled`: whether a connection that gave this response should be drained.
        """
        self._endpoint = endpoint
        self._is_connection_spoiled = is_connection_spoiled
        self._keepalive_s = keepalive_s
        self._max_connections = max_connections
        self._connections: list[ApnsConnection] = []
        self._waiting: deque[ApnsRequest] = deque()
        self._connecting: asyncio.Task[None] | None = None
        self._reconnect_at = 0.0
        self._is_closed = False
        self._is_empty = asyncio.Event()

    @property
    def connections(self) -> tuple[ApnsConnection, ...]:
        """The open connections, including those that are draining."""
        return tuple(self._connections)

    async def exchange(self, headers: Headers, body: bytes, deadline_at: float) -> Outcome:
        """Send one request and return its outcome, at `deadline_at` (event loop time) at the latest."""
        if self._is_closed:
            return NotProcessed("closed")
        exchange = ApnsRequest(headers, body, deadline_at)
        self._waiting.append(exchange)
        self._start_waiting()
        try:
            outcome = await exchange.outcome
        except asyncio.CancelledError:
            exchange.abandon()
            raise
        if (
            exchange.connection is not None
            and isinstance(outcome, ApnsResponse)
            and self._is_connection_spoiled(outcome)
        ):
            exchange.connection.drain()
        return outcome

    async def close(self) -> None:
        """Wait for the requests in flight (each has its deadline), then close all connections."""
        self._is_closed = True
        if self._connecting is not None:
            await self._connecting
        while self._waiting:
            self._waiting.popleft().finish(NotProcessed("closed"))
        self._is_empty.clear()
        for connection in self.connections:
            connection.drain()
        if self._connections:
            await self._is_empty.wait()

    # --- growth ---

    def _start_waiting(self) -> None:
        while self._waiting:
            if self._waiting[0].is_over:
                self._waiting.popleft()
                continue
            connection = min(
                (each for each in self._connections if each.has_capacity), key=lambda each: each.in_flight, default=None
            )
            if connection is None:
                self._add_connection()
                return
            connection.start(self._waiting.popleft())

    def _add_connection(self) -> None:
        usable = sum(each.is_usable for each in self._connections)
        if self._connecting is not None or usable >= self._max_connections or self._is_closed:
            return
        if not usable or asyncio.get_running_loop().time() >= self._reconnect_at:
            self._connecting = asyncio.create_task(self._open_one(), name="apns connect")

    async def _open_one(self) -> None:
        failure = await self._connect()
        if failure == CLOSED_AT_ONCE and not self._is_closed:
            failure = await self._connect()  # one front end of the provider may be draining
        self._connecting = None
        if failure is not None:
            self._reconnect_at = asyncio.get_running_loop().time() + RECONNECT_S
            if not any(each.is_usable for each in self._connections):
                while self._waiting:
                    self._waiting.popleft().finish(failure)
        self._start_waiting()

    async def _connect(self) -> NotProcessed | Untrusted | None:
        loop = asyncio.get_running_loop()
        connection: ApnsConnection | None = None
        try:
            async with asyncio.timeout(CONNECT_S):
                transport, connection = await loop.create_connection(
                    lambda: ApnsConnection(self._start_waiting, self._forget, self._keepalive_s),
                    self._endpoint.host,
                    self._endpoint.port,
                    ssl=self._endpoint.tls,
                )
                _require_http2(transport)
                self._connections.append(connection)
                await connection.ready
        except (OSError, TimeoutError, ssl.SSLError, ssl.CertificateError) as error:
            if connection is not None:
                connection.end(f"unusable: {type(error).__name__}")
            return self._connect_failure(error)
        # A provider that sends a GOAWAY with its settings would otherwise be connected to again without a pause.
        return None if connection.is_usable else CLOSED_AT_ONCE

    def _connect_failure(self, error: Exception) -> NotProcessed | Untrusted:
        if isinstance(error, ssl.SSLCertVerificationError):
            return Untrusted(f"the certificate of {self._endpoint.host} is not trusted: {error.verify_message}")
        reason = error.strerror if isinstance(error, OSError) else None
        return NotProcessed(f"cannot connect: {reason or type(error).__name__}")

    def _forget(self, connection: ApnsConnection) -> None:
        if connection in self._connections:
            self._connections.remove(connection)
        if not self._connections:
            self._is_empty.set()
        self._start_waiting()


def _require_http2(transport: asyncio.BaseTransport) -> None:
    tls = transport.get_extra_info("ssl_object")
    if tls is not None and tls.selected_alpn_protocol() not in ("h2", None):
        raise ConnectionError("the server does not support HTTP/2")
