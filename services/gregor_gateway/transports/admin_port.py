"""The admin port (setting GREGOR_ADMIN_PORT): the probes with the metrics, and nothing else."""

from __future__ import annotations

import asyncio
from typing import Final, cast

from gregor_gateway.context import GatewayContext

from .http1 import RequestRefused, split_head
from .probes import probe_response

REQUEST_TIMEOUT_S: Final = 10.0


class AdminPort(asyncio.Protocol):
    """One connection to the admin port: one request, one response."""

    __slots__ = ("_context", "_received", "_socket")

    def __init__(self, context: GatewayContext) -> None:
        self._context = context
        self._received = b""
        self._socket: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the timeout of the request."""
        self._socket = cast("asyncio.Transport", transport)
        self._context.timers.after(REQUEST_TIMEOUT_S, self._socket.close)

    def data_received(self, data: bytes) -> None:
        """Answer once the request head is complete."""
        self._received += data
        if self._socket is None or self._socket.is_closing():
            return
        try:
            split = split_head(self._received)
            if split is None:
                return
            self._socket.write(probe_response(self._context, split[0], is_admin=True))
        except RequestRefused as refused:
            self._socket.write(refused.response)
        self._socket.close()
