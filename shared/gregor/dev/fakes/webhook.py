"""A fake webhook receiver that checks signature, timestamp and id."""

from __future__ import annotations

import ssl
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from gregor.core.notify.webhook_signature import is_signed

from .http1 import FakeRequest, FakeResponse, Http1Server, ServerFault


@dataclass(slots=True)
class FakeWebhookReceiver:
    """The receiver. `answers`: used first, one per call, instead of 204. `now_us`: its clock."""

    secret: str
    now_us: Callable[[], int]
    tls: ssl.SSLContext | None = None
    answers: deque[FakeResponse | ServerFault] = field(default_factory=deque)
    calls: list[FakeRequest] = field(default_factory=list)
    events: dict[str, Any] = field(default_factory=dict)
    _server: Http1Server | None = None

    async def start(self, port: int = 0) -> None:
        """Listen on loopback; port 0 takes a free one."""
        self._server = Http1Server(self._handle, self.tls)
        await self._server.start(port)

    async def close(self) -> None:
        """Stop listening."""
        await self.server.close()

    @property
    def server(self) -> Http1Server:
        """The HTTP server."""
        if self._server is None:
            raise RuntimeError("the fake is not started")
        return self._server

    @property
    def url(self) -> str:
        """URL to register a webhook with."""
        return f"{self.server.url}/hook"

    def _handle(self, request: FakeRequest) -> FakeResponse | ServerFault:
        self.calls.append(request)
        if not is_signed(self.secret, request.headers, request.body, self.now_us()):
            return FakeResponse(401)
        if self.answers:
            return self.answers.popleft()
        self.events.setdefault(request.headers["webhook-id"], msgspec.json.decode(request.body))
        return FakeResponse(204)
