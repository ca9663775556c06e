"""The port of the setting ADMIN_PORT: the probes, with the figures, and nothing else."""

from __future__ import annotations

import asyncio
from typing import cast

from gregor.core.errors import Problem
from gregor.telemetry import request_id
from gregor_gateway.context import GatewayContext

from .http1 import MOST_HEAD_BYTES, parse_head, refusal
from .websocket import HEAD_S, plain


class AdminPort(asyncio.Protocol):
    """One request, one answer."""

    __slots__ = ("_context", "_head", "_socket")

    def __init__(self, context: GatewayContext) -> None:
        self._context = context
        self._head = b""
        self._socket: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A scraper dialled."""
        self._socket = cast("asyncio.Transport", transport)
        self._context.timers.after(HEAD_S, self._socket.close)

    def data_received(self, data: bytes) -> None:
        """Bytes of its request."""
        self._head += data
        head, found, _ = self._head.partition(b"\r\n\r\n")
        if self._socket is None or self._socket.is_closing() or not (found or len(head) > MOST_HEAD_BYTES):
            return
        try:
            self._socket.write(plain(self._context, parse_head(head), is_admin=True))
        except ValueError:
            self._socket.write(refusal(request_id(), Problem("invalid", "This is no HTTP/1 request."), status=400))
        self._socket.close()
