"""Admission to the WebSocket port: the client address, the limits before authentication, and the refusals."""

from __future__ import annotations

import math
from typing import Final

from gregor.core.close_codes import CloseCode
from gregor.core.errors import Problem
from gregor.net.client_address import RESET, IpAddress
from gregor.net.connection_limits import Admission
from gregor.net.proxy_protocol import PROXY_HEADER
from gregor.telemetry import request_id
from gregor_gateway.context import GatewayContext

from .http1 import RequestHead, problem_response
from .ws_frames import encode_close

PROCESS_RETRY_S: Final = 5.0
"""When a client may try again if the process is full."""


class PortAdmission:
    """Admits the connections of a port, by the limits that all ports of the process share."""

    def __init__(self, context: GatewayContext) -> None:
        self._context = context
        self._limiter = context.connection_limiter
        self._addresses = context.client_addresses
        self._has_proxy_headers = context.settings.proxy_protocol

    # ---- the client

    def awaits_proxy_header(self, peer: IpAddress | None) -> bool:
        """Return whether the connections of a peer must begin with a PROXY protocol header."""
        return self._has_proxy_headers and (not self._addresses.has_proxies or self._addresses.is_trusted(peer))

    def is_trusted(self, peer: IpAddress | None) -> bool:
        """Return whether the peer is a proxy, which names the client in its request."""
        return self._addresses.is_trusted(peer)

    def client_of(self, peer: IpAddress | None, request: RequestHead) -> IpAddress | None:
        """Return the client that a trusted proxy names in a request."""
        return self._addresses.find(None if peer is None else str(peer), request.header("x-forwarded-for"))

    # ---- the limits

    def open(self) -> bool:
        """Count a connection of the process. Returns whether it may be served."""
        return self._counted(self._limiter.open()).is_admitted

    def open_for(self, address: IpAddress | None) -> tuple[str | None, Admission]:
        """Count a connection of a client. Returns the key to release it, and the limit that refuses it."""
        key = self._addresses.limited(address)
        return key, self._counted(self._limiter.open_for(key, self._context.timers.now))

    def close(self) -> None:
        """Release a connection of the process."""
        self._limiter.close()

    def close_for(self, key: str | None) -> None:
        """Release a connection of a client."""
        self._limiter.close_for(key)

    def _counted(self, admission: Admission) -> Admission:
        if not admission.is_admitted:
            self._context.count_refusal(admission.value)
        return admission

    # ---- refusals

    def refuse_header(self) -> None:
        """Count a connection whose PROXY protocol header is missing or malformed."""
        self._context.count_refusal(PROXY_HEADER)

    def refuse_reset(self) -> None:
        """Count a connection that its peer reset before it was accepted."""
        self._context.count_refusal(RESET)

    def process_refusal(self) -> bytes:
        """Return the response to a connection above the limit of the process."""
        problem = _problem(Admission.PROCESS, "unavailable", PROCESS_RETRY_S * self._context.jitter(1.0, 2.0))
        return _response(request_id(), problem)

    def refusal(self, request: RequestHead, key: str | None, admission: Admission) -> bytes:
        """Return the response to a request above a limit of its client."""
        problem = _problem(admission, "rate_limited", self._wait_s(key))
        return _response(request.request_id, problem, is_head=request.method == "HEAD")

    def close_frame(self, key: str | None) -> bytes:
        """Return the close frame for a WebSocket above a limit of its client: browsers see no status."""
        self._context.metrics.closes.labels(str(int(CloseCode.RATE_LIMITED))).inc()
        return encode_close(CloseCode.RATE_LIMITED, f"retry_after_ms={round(1_000 * self._wait_s(key))}")

    def _wait_s(self, key: str | None) -> float:
        # With jitter: the clients of an office must not all return at the same moment.
        return self._limiter.retry_after_s(key, self._context.timers.now) * self._context.jitter(1.0, 3.0)


def _problem(admission: Admission, code: str, wait_s: float) -> Problem:
    detail = f"Too many connections: the limit {admission.setting} is reached. Retry later."
    return Problem(code, detail, retry_after_s=wait_s)


def _response(identity: str, problem: Problem, *, is_head: bool = False) -> bytes:
    extra = {"Retry-After": str(math.ceil(problem.retry_after_s or 1))}
    return problem_response(identity, problem, extra, is_head=is_head)
