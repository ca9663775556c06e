"""HTTP connections that count against the limits before authentication, and requests that an overload refuses.

The client of a connection is the peer of the socket, or the address in the PROXY protocol header. Connections of
trusted proxies count only against the limit of the process: one of them can carry the requests of many clients, which
``ForwardedClients`` counts.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import re
import time
from collections.abc import Mapping
from typing import Any, ClassVar, Final

import msgspec
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from gregor.clock import SystemClock
from gregor.core.errors import Problem
from gregor.net.client_address import RESET, IpAddress, is_reset, parse_address, peer_of
from gregor.net.connection_limits import Admission, ProbeConnections
from gregor.net.proxy_protocol import PROXY_HEADER, ProxyHeaderError, parse_proxy_header
from gregor.net.refusal_pacer import RefusalPacer
from gregor.telemetry import request_id

from .http_admission import QUEUED, HttpAdmission, Queued, overload_refusal, refusal
from .http_limits import MAX_LENGTH_DIGITS, LimitedHttpProtocol
from .middleware import SECURITY_HEADERS
from .problems import PROBLEM_JSON
from .request import headers_of

API_PREFIX: Final = "/v1/"
"""Paths that an overloaded process refuses. It answers probes: otherwise a load balancer would remove it."""
_API_REQUEST: Final = re.compile(rb"(?:GET|POST|PUT|PATCH|DELETE) /v1/[^ \r\n]* HTTP/1\.1\r\n")
_SPECIAL: Final = re.compile(
    rb"\r\n(content-length|connection|transfer-encoding|expect|upgrade|origin|x-request-id)[ \t]*:[ \t]*([^\r\n]*)"
)
_CALLER_HEADERS: Final = re.compile(rb"\r\n(authorization|x-forwarded-for)[ \t]*:[ \t]*([^\r\n]*)", re.IGNORECASE)


class CountedHttpProtocol(LimitedHttpProtocol):
    """An HTTP connection that is refused above a limit. See ``counted_http``."""

    admission: ClassVar[HttpAdmission]
    pacer: ClassVar[RefusalPacer]
    proxy_pacer: ClassVar[RefusalPacer]
    """Delays the refusals of malformed requests without a known client, by proxy. They delay no known client."""
    _client: str | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count the connection, and refuse it above a limit or if its peer is unknown after a reset."""
        super().connection_made(transport)
        process, peer = self.admission.limiter.open(), peer_of(transport)
        # Checked last: a reset before this line is seen, so `peer_of` and uvicorn have read the real address.
        if is_reset(transport):
            self.admission.count_refusal(RESET)
            self._is_rejected = True
            self.transport.abort()
        elif not process.is_admitted and not self._make_room(process):
            self._refuse(process)
        else:
            self._await_client(peer)

    def _make_room(self, refused: Admission) -> bool:
        """Close another connection instead of refusing this one. Returns whether one was closed."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Release the connection."""
        self.admission.limiter.close()
        self.admission.limiter.close_for(self._client)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse bytes, unless they are a request that an overload refuses."""
        queue = self.admission.queue
        if queue is None or not queue.is_full or not self._refuse_fast(data):
            super().data_received(data)

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        queue = self.admission.queue
        if queue is not None and cycle.scope["path"].startswith(API_PREFIX):
            size = self._latest_bytes
            is_verified = queue.needs_key(size) and self._is_verified(headers_of(cycle.scope))
            units = queue.offer(size, is_verified=is_verified)
            cycle.scope[QUEUED] = Queued(units, time.monotonic(), is_verified)
        super()._start_asgi_task(cycle, app)

    def _refuse_fast(self, data: bytes) -> bool:
        """Refuse the request if the bytes are exactly one plain request. Returns whether they were.

        Fast path. General twin: ``_start_asgi_task``, after which the application refuses.
        Benchmark: ``overload``; the twin takes 111 µs instead of 23, and 12 of these are system calls.
        Test: ``test_fast_refusal_equals_the_general_one``. Remove it if refusals cost less than twice as much without.
        """
        queue = self.admission.queue
        if queue is None or not self._is_between_requests() or not is_usual_request(data):
            return False
        headers = _caller_headers(data)
        is_verified = self._is_verified(headers)
        if is_verified and not queue.is_full_for_verified:
            return False
        if not is_verified and not self._count_unverified(headers):
            return False  # The application refuses it with 429, and closes the connection or delays the response.
        self._since = self.loop.time()
        queue.refuse(is_verified=is_verified)
        self.transport.write(overload_response())
        return True

    def _is_verified(self, headers: Mapping[bytes, bytes]) -> bool:
        """Return whether a request with these headers has a service key that this process has verified."""
        return self.admission.verified_key({"client": self.client, "gregor.headers": headers}) is not None

    def _count_unverified(self, headers: Mapping[bytes, bytes]) -> bool:
        """Count a refusal for the address of its client. Returns False, without counting, above the limit."""
        client = self._client_named(headers.get(b"x-forwarded-for", b""))
        requests, now_s = self.admission.limiter.anonymous, self.loop.time()
        if requests.wait_s(client, now_s) > 0:
            return False
        requests.count(client, now_s)
        return True

    def _client_named(self, forwarded_for: bytes) -> str | None:
        """Return the address by which the client of a request is limited. ``forwarded_for``: X-Forwarded-For."""
        addresses, peer = self.admission.addresses, self.client[0] if self.client else ""
        return addresses.limited(addresses.find(peer, forwarded_for.decode("latin-1")))

    def _send_rejection(self, status: int, response: bytes) -> None:
        """Count a malformed request of a client, and delay its response as ``AnonymousLimit`` delays a refusal."""
        if status == 408:  # a slow network is not an attack
            super()._send_rejection(status, response)
            return
        addresses, peer = self.admission.addresses, self.client[0] if self.client else ""
        client = self._client_named(
            b", ".join([value for name, value in self.headers or () if name == b"x-forwarded-for"])
        )
        requests, now_s = self.admission.limiter.anonymous, self.loop.time()
        # The parser may stop before the header that names the client, for example at an unknown method.
        is_delayed = client is None or requests.wait_s(client, now_s) > 0
        requests.count(client, now_s)
        if not is_delayed or not addresses.is_trusted(parse_address(peer)):
            super()._send_rejection(status, response)
            return
        self.flow.resume_reading()
        pacer, key = (self.proxy_pacer, peer) if client is None else (self.pacer, client)
        task = self.loop.create_task(self._send_later(pacer, key, response))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _send_later(self, pacer: RefusalPacer, key: str, response: bytes) -> None:
        await pacer.wait(key)
        if not self.transport.is_closing():
            self.transport.write(response)
            self._linger()

    def _await_client(self, peer: IpAddress | None) -> None:
        self._admit(peer)

    def _admit(self, client: IpAddress | None) -> None:
        self._client = self.admission.addresses.limited(client)
        admission = self.admission.limiter.open_for(self._client, self.loop.time())
        if not admission.is_admitted:
            self._refuse(admission)

    def _refuse(self, admission: Admission) -> None:
        self.admission.count_refusal(admission.value)
        self._is_rejected = True
        if admission is Admission.FLOOD:
            self.transport.abort()
            return
        self.transport.write(_response(refusal(admission), request_id(), b"close"))
        if admission is Admission.PROCESS:
            self.transport.close()  # nothing bounds how many of these could linger
        else:
            self._linger()


# ---- responses without the application


def is_usual_request(data: bytes) -> bool:
    """Return whether bytes are exactly one API request without a header that matters to a refusal."""
    head, end, body = data.partition(b"\r\n\r\n")
    # A line that ends differently could hide a header from this check, but not from another parser.
    if not end or _API_REQUEST.match(head) is None or head.count(b"\n") != head.count(b"\r\n"):
        return False
    if b"\r\n " in head or b"\r\n\t" in head:  # a value that continues (RFC 9112, 5.2): the parser refuses it
        return False
    lengths = []
    for name, value in _SPECIAL.findall(head.lower()):
        if name == b"content-length" and value.isdigit() and len(value) <= MAX_LENGTH_DIGITS:
            lengths.append(int(value))
        elif name != b"connection" or value != b"keep-alive":
            return False
    return len(lengths) <= 1 and len(body) == sum(lengths)


def _caller_headers(data: bytes) -> dict[bytes, bytes]:
    """Return the headers of a usual request that name its caller, as ``headers_of`` does."""
    headers: dict[bytes, bytes] = {}
    for name, value in _CALLER_HEADERS.findall(data.partition(b"\r\n\r\n")[0]):
        known = headers.get(name.lower())
        headers[name.lower()] = value if known is None else known + b", " + value
    return headers


def overload_response() -> bytes:
    """Return the refusal of a request, with its own id. ``Retry-After`` cycles through 1 to 5 s."""
    number = next(_NUMBERS)
    return (b"%016x" % number).join(_OVERLOAD[number % len(_OVERLOAD)])


def _response(problem: Problem, identity: str, connection: bytes) -> bytes:
    document = problem.document(identity)
    body = msgspec.json.encode(document)
    fields = (
        b"content-type: " + PROBLEM_JSON,
        b"content-length: %d" % len(body),
        b"retry-after: %d" % round(problem.retry_after_s or 1),
        b"x-request-id: " + identity.encode(),
        *(name + b": " + value for name, value in SECURITY_HEADERS),
        b"connection: " + connection,
    )
    return bytes(STATUS_LINE[document["status"]]) + b"\r\n".join(fields) + b"\r\n\r\n" + body


_ID: Final = b"x" * 16
_OVERLOAD: Final = [
    _response(overload_refusal(wait_s), _ID.decode(), b"keep-alive").split(_ID) for wait_s in (1, 2, 3, 4, 5)
]
"""The refusals of an overload, around the request id."""
_NUMBERS: Final = itertools.count(random.getrandbits(63))


class ProxiedHttpProtocol(CountedHttpProtocol):
    """A counted connection that begins with a header of PROXY protocol v2, if its peer must send one."""

    _header: bytes | None = None
    """The received part of the header; ``None`` if it is complete or not expected."""

    def data_received(self, data: bytes) -> None:
        """Read the header, then HTTP."""
        if self._header is not None and not self._is_rejected:
            data = self._split_header(self._header + data)
        if data:
            super().data_received(data)

    def _await_client(self, peer: IpAddress | None) -> None:
        if self.admission.awaits_proxy_header(peer):
            self._header = b""
        else:
            self._admit(peer)

    def _split_header(self, received: bytes) -> bytes:
        """Return the bytes behind the header; empty while it is incomplete."""
        try:
            header = parse_proxy_header(received)
        except ProxyHeaderError:
            self.admission.count_refusal(PROXY_HEADER)
            self._is_rejected = True
            self.transport.abort()
            return b""
        if header is None:
            self._header = received
            return b""
        self._header = None
        if header.client is not None:
            # The application, the audit trail and the limits of requests see the client, not the proxy.
            self.client = (str(header.client), 0)
        self._admit(header.client)
        return received[header.size :]


class ProbeHttpProtocol(CountedHttpProtocol):
    """A counted connection to a port of probes, which closes its oldest idle connection when it is full."""

    probes: ClassVar[ProbeConnections]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count the connection. Above the limit of the process, close another one."""
        super().connection_made(transport)
        self.probes.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Release the connection."""
        self.probes.discard(self)
        super().connection_lost(exc)

    def _make_room(self, refused: Admission) -> bool:
        is_closed = self.probes.make_room()
        if is_closed:
            self.admission.count_refusal(refused.value)
        return is_closed

    @property
    def is_answering(self) -> bool:
        """Whether the application or the client has not finished a response."""
        is_open = self._answering is not None and not self._answering.response_complete
        return is_open or bool(self.transport.get_write_buffer_size())

    def evict(self) -> None:
        """Close the connection at once."""
        self._is_rejected = True
        self.transport.abort()


def counted_http(admission: HttpAdmission) -> type[CountedHttpProtocol]:
    """Return the protocol of a port."""
    members: dict[str, object] = {name: RefusalPacer(SystemClock()) for name in ("pacer", "proxy_pacer")}
    base = ProxiedHttpProtocol if admission.has_proxy_headers else CountedHttpProtocol
    if admission.probes is not None:
        base, members["probes"] = ProbeHttpProtocol, admission.probes
    return type("CountedHttpPort", (base,), {"admission": admission, **members})
