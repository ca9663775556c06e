"""The admin port (setting GREGOR_ADMIN_PORT): the probes with the metrics, and nothing else."""

from __future__ import annotations

import asyncio
from typing import Final, cast

from gregor.net.client_address import RESET, is_reset, peer_of
from gregor.net.connection_limits import ConnectionLimiter, ProbeConnections
from gregor.web.http_limits import LINGER_S
from gregor_gateway.context import GatewayContext
from gregor_gateway.runtime.timer_wheel import DetachableTimer

from .http1 import RequestRefused, split_head
from .probes import probe_response

REQUEST_TIMEOUT_S: Final = 10.0


class AdminServer:
    """Protocol factory of the admin port, with the limits of its connections."""

    def __init__(self, context: GatewayContext) -> None:
        self.context = context
        self.limiter = ConnectionLimiter(context.settings.connection_limits.for_probes())
        self.connections = ProbeConnections()

    def __call__(self) -> AdminPort:
        return AdminPort(self)


class AdminPort(asyncio.Protocol):
    """One connection to the admin port: one request, one response."""

    __slots__ = ("_client", "_connections", "_context", "_is_answered", "_limiter", "_received", "_socket", "_timeout")

    def __init__(self, server: AdminServer) -> None:
        self._context = server.context
        self._limiter = server.limiter
        self._connections = server.connections
        self._client: str | None = None
        self._received = b""
        self._is_answered = False
        self._socket: asyncio.Transport | None = None
        self._timeout: DetachableTimer | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count the connection, and start the timeout of the request.

        Above the limit of an address the connection gets no answer. A full port closes its oldest idle connection.
        """
        self._socket = cast("asyncio.Transport", transport)
        process, peer = self._limiter.open(), peer_of(transport)
        if is_reset(transport):  # checked after `peer_of`
            self._context.count_refusal(RESET)
            self._socket.abort()
            return
        if not process.is_admitted:
            self._context.count_refusal(process.value)
            self._connections.make_room()
        self._client = self._context.client_addresses.limited(peer)
        admission = self._limiter.open_for(self._client, self._context.timers.now)
        if not admission.is_admitted:
            self._context.count_refusal(admission.value)
            self._socket.abort()
            return
        self._connections.add(self)
        self._timeout = DetachableTimer(self)
        self._context.timers.at(self._context.timers.now + REQUEST_TIMEOUT_S, self._timeout)

    def connection_lost(self, exc: Exception | None) -> None:
        """Release the connection."""
        self._connections.discard(self)
        if self._timeout is not None:
            self._timeout.target = None
        self._limiter.close()
        self._limiter.close_for(self._client)

    @property
    def is_answering(self) -> bool:
        """Whether the client has not received the whole response."""
        return self._socket is not None and bool(self._socket.get_write_buffer_size())

    def evict(self) -> None:
        """Close the connection at once."""
        if self._socket is not None:
            self._socket.abort()

    def tick(self, now: float) -> None:
        """Close the connection at the timeout of its request."""
        self.evict()

    def data_received(self, data: bytes) -> None:
        """Answer once the request head is complete."""
        if self._socket is None or self._is_answered or self._socket.is_closing():
            return
        self._received += data
        try:
            split = split_head(self._received)
            if split is None:
                return
            answer, self._is_answered = probe_response(self._context, split[0], is_admin=True), split[0].has_body
        except RequestRefused as refused:
            answer, self._is_answered = refused.response, True
        self._socket.write(answer)
        if self._is_answered and not self._socket.is_closing():
            # Closing a socket with unread bytes sends a reset, which would discard the response on its way.
            self._socket.write_eof()
            self._context.timers.after(LINGER_S, self._socket.abort)
        else:
            self._socket.close()
