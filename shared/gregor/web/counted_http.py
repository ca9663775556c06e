"""HTTP connections that count against the limits before authentication.

The peer of the socket is counted. Connections of trusted proxies count only against the limit of the process, because
one of them can carry the requests of many clients.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import ClassVar, Final

import msgspec
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from gregor.core.errors import Problem
from gregor.net.client_address import ClientAddresses, peer_of
from gregor.net.connection_limits import Admission, ConnectionLimiter
from gregor.telemetry import request_id

from .http_limits import LimitedHttpProtocol
from .problems import PROBLEM_JSON

RETRY_AFTER_S: Final = (1, 5)
"""Range of ``Retry-After``: refused clients must not all return at the same moment."""


class CountedHttpProtocol(LimitedHttpProtocol):
    """An HTTP connection that is refused above a limit. See ``counted_http``."""

    limiter: ClassVar[ConnectionLimiter]
    addresses: ClassVar[ClientAddresses]
    count_refusal: Callable[[str], None]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count the connection, and refuse it above a limit."""
        super().connection_made(transport)
        self._client = self.addresses.limited(peer_of(transport))
        process, client = self.limiter.open(), self.limiter.open_for(self._client, self.loop.time())
        admission = client if process.is_admitted else process
        if not admission.is_admitted:
            self._refuse(admission)

    def connection_lost(self, exc: Exception | None) -> None:
        """Release the connection."""
        self.limiter.close()
        self.limiter.close_for(self._client)
        super().connection_lost(exc)

    def _refuse(self, admission: Admission) -> None:
        self.count_refusal(admission.value)
        self._is_rejected = True
        if admission is Admission.FLOOD:
            self.transport.abort()
            return
        identity, wait_s = request_id(), random.randint(*RETRY_AFTER_S)
        detail = f"Too many connections: the limit {admission.setting} is reached. Retry later."
        problem = Problem("unavailable" if admission is Admission.PROCESS else "rate_limited", detail)
        document = problem.document(identity)
        body = msgspec.json.encode(document)
        fields = (
            b"content-type: " + PROBLEM_JSON,
            b"content-length: %d" % len(body),
            b"retry-after: %d" % wait_s,
            b"x-request-id: " + identity.encode(),
            b"cache-control: no-store",
            b"connection: close",
        )
        self.transport.write(STATUS_LINE[document["status"]] + b"\r\n".join(fields) + b"\r\n\r\n" + body)
        self.transport.close()


def counted_http(
    limiter: ConnectionLimiter, addresses: ClientAddresses, count_refusal: Callable[[str], object]
) -> type[CountedHttpProtocol]:
    """Return the protocol of a port. ``count_refusal`` gets the name of the limit that refused a connection."""
    members = {"limiter": limiter, "addresses": addresses, "count_refusal": staticmethod(count_refusal)}
    return type("CountedHttpPort", (CountedHttpProtocol,), members)
