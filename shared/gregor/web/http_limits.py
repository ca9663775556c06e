"""Limits of HTTP connections: heads, bodies, pipelined requests, and responses that the client does not read.

uvicorn has none of these limits. Without them, a client could exhaust the memory of a process before it authenticates.
"""

from __future__ import annotations

import asyncio
import re
import sys
import weakref
from collections.abc import Iterable, Sized
from enum import Enum
from functools import partial
from typing import Any, Final, cast

import msgspec
from httptools import HttpParserInvalidMethodError, HttpParserUpgrade, HttpRequestParser
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from gregor.cooperative import for_each
from gregor.core.errors import Problem
from gregor.telemetry import request_id

from .http_admission import WITHHOLD_CONTINUE
from .middleware import SECURITY_HEADERS
from .problems import PROBLEM_JSON

MAX_HEAD_BYTES: Final = 65_536
"""Size of a request head: enough for a token of 8 KiB, the cookies of a browser and a long query."""
MAX_FIELDS: Final = 200
"""Header fields of a request. Browsers and proxies send about 30; 64 KiB of tiny ones would cost 10 ms to parse."""
MAX_PATH_BYTES: Final = 8_192
"""Size of a path with its escapes, which are decoded before authentication. A valid path has a few names and ids."""
MAX_QUERY_BYTES: Final = 32_768
"""Size of a query. The longest valid one has 29 KB: two filters of 100 prefixes with 128 characters each."""
MAX_QUERY_PARAMETERS: Final = 256
"""Parameters of a query, which is parsed before authentication. The two filters have 200."""
MAX_ESCAPES: Final = 2_048
"""Percent-encoded characters of a request target. Valid names need few, and 32 KiB of them take 2 ms to decode."""
MAX_BETWEEN_BYTES: Final = 8_192
"""Bytes of a request after its head without a byte of its body: trailers and chunk extensions, which are dropped."""
MAX_LENGTH_DIGITS: Final = 18
"""Digits of a Content-Length, with leading zeros. Python refuses to convert 4,301 digits."""
FREE_CHUNKS: Final = 2_048
"""Chunks of a body that may have any size, such as 1,000 lines in two chunks each. They take 4 ms to parse."""
MIN_CHUNK_BYTES: Final = 512
"""Bytes of a body for each chunk above ``FREE_CHUNKS``."""
HEAD_TIMEOUT_S: Final = 10.0
"""Time from the connection to the first byte, and from the first byte to the end of the head."""
BODY_TIMEOUT_S: Final = 60.0
"""Time without a byte while a body is read."""
BODY_GRACE_S: Final = 300.0
"""Time in which a body may arrive at any rate, if it is never idle for longer than ``BODY_TIMEOUT_S``."""
MIN_BODY_RATE: Final = 100
"""Bytes a second of a body after ``BODY_GRACE_S``, on average. Time in which the server does not read is free."""
WRITE_TIMEOUT_S: Final = 60.0
"""Time without progress while a response is written: a client that does not read it loses the connection."""
MIN_READ_RATE: Final = 5_000
"""Least bytes a second that a client must read of a large response, on average, after ``WRITE_TIMEOUT_S``.

A bad mobile network is faster.

A response is large if more than 64 KiB of it wait in memory. Until fewer than 16 KiB wait, no other one is written.
"""
MAX_PIPELINED: Final = 16
"""Requests of one connection that wait for the response before them. Each costs 2.4 KB, and its client 27 bytes.

Their heads arrive in one piece of at most 256 KiB: reading pauses while one of them waits.
"""
UNREAD_BODY_S: Final = 10.0
"""Time for the rest of a body whose request is already answered, for example with 401."""

LINGER_S: Final = 1.0
"""A rejected client may continue to send for this long, and can therefore read the response."""
LINGER_BYTES: Final = 16_777_216
"""Bytes that are dropped meanwhile: more than the largest body that ``deploy/nginx`` forwards."""


class _Expected(Enum):
    """The part of a request that the client has to send next."""

    HEAD = "head"
    BODY = "body"
    NOTHING = "nothing"


class _RejectedError(Exception):
    """Ends the parsing of a chunk. The parser reports it as malformed HTTP, which is ignored after a rejection."""


class _PipelineFlow(FlowControl):
    """Flow control that reads nothing while pipelined requests wait: uvicorn reads on after each response."""

    def __init__(self, transport: asyncio.Transport, pipeline: Sized) -> None:
        super().__init__(transport)
        self._pipeline = pipeline

    def resume_reading(self) -> None:
        """Read on, unless a pipelined request waits."""
        if not self._pipeline:
            super().resume_reading()


class _LingeringTransport:
    """The transport of a request with a body: it closes in a way that the client may send the rest of the body."""

    __slots__ = ("_protocol", "is_closing", "write")

    def __init__(self, protocol: LimitedHttpProtocol) -> None:
        self._protocol = protocol
        self.write = protocol.transport.write
        self.is_closing = protocol.transport.is_closing

    def close(self) -> None:
        """Close the connection after the response, and drop the rest of the body until then."""
        self._protocol.close_after(self)


class LimitedHttpProtocol(HttpToolsProtocol):
    """uvicorn's protocol with limits. The server calls ``check_timeout`` once a second."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._expected = _Expected.HEAD
        self._head_bytes = 0
        self._latest = b""
        self._latest_bytes = 0
        self._since = self.loop.time()
        self._is_rejected = False
        self._dropped = 0
        self._answering: Any = None
        self._head_without_upgrade = b""
        self._body_since = self._checked = self._written = self._answered = self._since
        self._large_since = self._since
        self._body_bytes = self._between_bytes = self._unwritten = self._chunks = self._large_bytes = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the timeout of the first head."""
        super().connection_made(cast("asyncio.Transport", transport))
        self.flow = _PipelineFlow(self.transport, self.pipeline)

    def connection_lost(self, exc: Exception | None) -> None:
        """Notify the request that is being answered; uvicorn notifies only the newest of pipelined requests."""
        super().connection_lost(exc)
        # uvicorn leaves this timer of 75 s if the client has reset the connection, and the timer keeps all its objects.
        self._unset_keepalive_if_required()
        if self._answering is not None and not self._answering.response_complete:
            self._answering.disconnected = True
            self._answering.message_event.set()
        # Requests refer to their connection. Without references back, all objects are freed now: the garbage collector
        # runs so rarely that connections which are reset would take hundreds of MB until then.
        self.cycle = self._answering = None  # type: ignore[assignment]
        self.pipeline.clear()
        self._is_rejected = True  # `check_timeouts` may still check this connection

    def data_received(self, data: bytes) -> None:
        """Parse bytes, and reject a head or trailers that are too large."""
        if self._is_rejected:
            self._drop(data)
            return
        self._latest, self._latest_bytes = data, len(data)
        super().data_received(data)
        # uvloop receives up to 256 KiB, which an idle connection would keep.
        self._latest = b""
        if self._expected is _Expected.BODY:
            self._since = self.loop.time()
            # One part of each received piece is free: the network may split a chunk, and ``on_body`` counts both parts.
            self._chunks = max(0, self._chunks - 1)
            self._between_bytes += len(data)
            if self._between_bytes > MAX_BETWEEN_BYTES:
                self._reject(431, _TRAILERS_TOO_LARGE)
        elif self._expected is _Expected.HEAD:
            # The first chunk of a head may start with the end of the previous body, and counts as one byte.
            self._head_bytes += len(data) if self._head_bytes or self.cycle is None else 1
            if self._head_bytes > MAX_HEAD_BYTES:
                self._reject(431, _TOO_LARGE)

    def on_message_begin(self) -> None:
        """Start the head timeout."""
        super().on_message_begin()
        self._expected, self._head_bytes, self._since = _Expected.HEAD, 0, self.loop.time()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Add a header. Drop a trailer: it must not act as a header, because proxies and limits do not see it."""
        if self._expected is not _Expected.HEAD:
            return
        if len(self.headers) >= MAX_FIELDS:
            self._reject(431, f"The request has more than {MAX_FIELDS} header fields.")
            raise _RejectedError
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Check the complete head, and expect the body. A request with ``Upgrade`` is parsed again."""
        if self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT":
            self._head_without_upgrade = self._build_head_without_upgrade()
            return
        self._check_head()
        if self._is_rejected:
            # Ends the parsing: 256 KiB of further heads would stop the event loop for 20 ms.
            raise _RejectedError
        # Only now: until here, these fields describe the previous request, for which `_is_answering` needs them.
        self._expected, self._since = _Expected.BODY, self.loop.time()
        self._body_since, self._body_bytes, self._chunks = self._since, 0, 0
        self._between_bytes = -self._latest_bytes  # these bytes are counted when all of them are parsed

    def _build_head_without_upgrade(self) -> bytes:
        target = self.parser.get_method() + b" " + self.url + b" HTTP/" + self.parser.get_http_version().encode()
        fields = [name + b": " + value for name, value in self.headers if name != b"upgrade"]
        return b"\r\n".join([target, *fields, b"", b""])

    def _unsupported_upgrade_warning(self) -> None:
        """Ignore ``Upgrade`` (RFC 9110, 7.8, allows it): parse the request again without it. uvicorn calls this.

        httptools skips the body of a request with ``Upgrade``, and uvicorn would parse this body as the next request.
        Behind a proxy that shares connections, it would get the rights of another client.
        """
        (offset,) = cast("HttpParserUpgrade", sys.exception()).args
        head, self._head_without_upgrade = self._head_without_upgrade, b""
        self._latest = head + self._latest[offset:]
        # The old parser drops all further bytes if the request ends its connection (Connection: close, HTTP/1.0).
        self.parser = HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        super().data_received(self._latest)

    def _check_head(self) -> None:
        size, hosts, has_body, is_long = len(self.url), 0, False, False
        for name, value in self.headers:
            size += len(name) + len(value) + 4
            hosts += name == b"host"
            has_body = has_body or name in _BODY_FIELDS
            is_long = is_long or (name == b"content-length" and len(value) > MAX_LENGTH_DIGITS)
        if size > MAX_HEAD_BYTES:
            self._reject(431, _TOO_LARGE)
        elif self.parser.should_upgrade():
            self._reject(501, _NOT_IMPLEMENTED)  # CONNECT
        elif len(self.url) > MAX_QUERY_PARAMETERS and (error := _target_error(self.url)) is not None:
            self._reject(414, error)
        elif hosts > 1 or (not hosts and self.parser.get_http_version() == "1.1"):
            self._reject(400, "A request must have exactly one Host header (RFC 9112, 3.2).")
        elif is_long:
            self._reject(400, f"The Content-Length has more than {MAX_LENGTH_DIGITS} digits.")
        elif len(self.pipeline) >= MAX_PIPELINED:
            # No response: it would have to wait for those of all pipelined requests.
            self._is_rejected = True
            self.transport.abort()
        elif not self._is_rejected:
            super().on_headers_complete()
            if has_body:
                self.cycle.transport = cast("asyncio.Transport", _LingeringTransport(self))

    def on_response_complete(self) -> None:
        """Drop the rest of the body, start the next pipelined request, and read on after the last one."""
        if self._answering.body:
            self._answering.body = bytearray()
        if self._is_rejected:
            return
        super().on_response_complete()
        self._answered = self.loop.time()
        if not self.transport.is_closing():
            self.flow.resume_reading()

    def on_body(self, body: bytes) -> None:
        """Pass on a part of the body."""
        self._body_bytes += len(body)
        self._between_bytes = -self._latest_bytes
        self._chunks += 1
        if self._chunks > FREE_CHUNKS + self._body_bytes // MIN_CHUNK_BYTES:
            # Also after the response: otherwise a client without a token could send chunks without end.
            self._reject(400, _CHUNKS_TOO_SMALL)
            raise _RejectedError
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Stop the timeouts until the next request."""
        if self._head_without_upgrade:
            return
        self._expected = _Expected.NOTHING
        if not self._is_rejected:
            super().on_message_complete()

    def pause_writing(self) -> None:
        """Start the timeout of a large response."""
        super().pause_writing()
        self._large_since, self._large_bytes = self.loop.time(), self.transport.get_write_buffer_size()

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._answering = cycle
        if cycle.waiting_for_100_continue:
            cycle.scope[WITHHOLD_CONTINUE] = partial(_withhold_continue, weakref.ref(cycle))
        super()._start_asgi_task(cycle, app)

    def send_400_response(self, msg: str) -> None:
        """Reject bytes that are not HTTP/1 with 400, and a method that the parser does not know with 501."""
        if isinstance(sys.exception(), HttpParserInvalidMethodError) and _REQUEST_LINE.match(self._latest):
            self._reject(501, _NOT_IMPLEMENTED)
        else:
            self._reject(400, "This is not an HTTP/1 request.")

    def check_timeout(self, now: float) -> bool:
        """End the request if its head, body or response takes too long, and return whether it did.

        ``now``: time of the event loop in seconds.
        """
        was_open = not (self._is_rejected or self.transport.is_closing())
        self._check_timeout(now)
        return was_open and (self._is_rejected or self.transport.is_closing())

    def _check_timeout(self, now: float) -> None:
        idle_s, self._checked = now - self._checked, now
        if self._is_write_stuck(now):
            self.transport.abort()
        elif self._is_rejected:
            return
        elif self._expected is _Expected.NOTHING:
            # uvicorn cancels its timer at the first byte, which may be that of an empty line instead of a request.
            is_idle = self._is_between_requests() and not self._unwritten
            if is_idle and now - max(self._since, self._answered) > self.timeout_keep_alive:
                self.transport.close()
        elif self._expected is _Expected.HEAD:
            if now - self._since > HEAD_TIMEOUT_S:
                self._reject(408, f"The request head was not complete within {HEAD_TIMEOUT_S:g} s.")
        elif self.flow.read_paused:
            self._body_since += idle_s  # the handler is behind, not the client
        else:
            self._check_body(now)

    def _check_body(self, now: float) -> None:
        if not self.pipeline and self.cycle.response_complete and now - self._answered > UNREAD_BODY_S:
            self.transport.close()
        elif now - self._since > BODY_TIMEOUT_S:
            self._reject(408, f"No bytes of the body were received for {BODY_TIMEOUT_S:g} s.")
        elif now - self._body_since > BODY_GRACE_S + self._body_bytes / MIN_BODY_RATE:
            self._reject(408, f"The body arrived more slowly than {MIN_BODY_RATE} bytes a second. Send it in parts.")

    def _is_write_stuck(self, now: float) -> bool:
        """Return whether the client reads the response too slowly, or nothing of it for ``WRITE_TIMEOUT_S``."""
        before, self._unwritten = self._unwritten, self.transport.get_write_buffer_size()
        if not self._unwritten or self._unwritten < before:
            self._written = now
        read_s = (self._large_bytes - self._unwritten) / MIN_READ_RATE
        is_slow = self.flow.write_paused and now - self._large_since > WRITE_TIMEOUT_S + read_s
        return is_slow or now - self._written > WRITE_TIMEOUT_S

    def _reject(self, status: int, detail: str) -> None:
        if self._is_rejected:
            return
        self._is_rejected = True
        if self._is_answering():
            self.transport.abort()
            return
        if self.cycle is not None:
            # The application would write its response behind this one, which uvicorn logs with a traceback.
            self.cycle.disconnected = True
            self.cycle.waiting_for_100_continue = False  # writing 100 after the response would fail
            self.cycle.message_event.set()
        if self.cycle is None and not self._head_bytes and status == 408:
            self.transport.close()  # no request was started, hence no response
            return
        identity = request_id()
        body = msgspec.json.encode(Problem("invalid", detail).document(identity) | {"status": status})
        fields = (
            b"content-type: " + PROBLEM_JSON,
            b"content-length: %d" % len(body),
            b"x-request-id: " + identity.encode(),
            *(name + b": " + value for name, value in SECURITY_HEADERS),
            b"connection: close",
        )
        head = STATUS_LINE[status] + b"\r\n".join(fields) + b"\r\n\r\n"
        self._send_rejection(status, head if self._is_head() else head + body)

    def _is_head(self) -> bool:
        # Until the target is parsed, the parser has the method of the request before.
        return bool(self.url) and self.parser.get_method() == b"HEAD"

    def _send_rejection(self, status: int, response: bytes) -> None:
        """Send the response to a rejected request, and close."""
        self.transport.write(response)
        self._linger()

    def close_after(self, transport: object) -> None:
        """Close the connection after the response of a request, whose body may not have been received yet."""
        cycle = self.cycle
        is_current = cycle is not None and cycle.transport is transport
        if is_current and cycle.more_body and not self.transport.is_closing():
            cycle.body = bytearray()
            self._linger()
        else:
            self.transport.close()

    def _linger(self) -> None:
        """Close the connection for the client now. Drop received bytes until it closes, or until ``LINGER_S``."""
        self._is_rejected = True
        # Closing a socket with unread bytes sends a reset, which would discard the response on its way. A proxy such as
        # nginx then also regards this server as down.
        self.transport.write_eof()
        self.flow.resume_reading()
        self.loop.call_later(LINGER_S, self.transport.close)

    def _drop(self, data: bytes) -> None:
        self._dropped += len(data)
        if self._dropped > LINGER_BYTES:
            self.transport.abort()

    def timeout_keep_alive_handler(self) -> None:
        """Close the connection if it was idle. Early refusals do not reset the timer, so check the last activity."""
        left_s = self._since + self.timeout_keep_alive - self.loop.time()
        if left_s > 0:
            self.timeout_keep_alive_task = self.loop.call_later(left_s, self.timeout_keep_alive_handler)
        else:
            super().timeout_keep_alive_handler()

    def _is_between_requests(self) -> bool:
        """Whether the next byte begins a request, whose response can be written at once."""
        if self._is_rejected or self.pipeline:
            return False
        if self.cycle is None:
            return not self._head_bytes
        return self._expected is _Expected.NOTHING and bool(self.cycle.response_complete)

    def _is_answering(self) -> bool:
        """Whether another response has started or may follow, which a rejection would corrupt."""
        cycle = self.cycle
        if cycle is None:
            return False
        is_current = self._expected is _Expected.BODY and not self.pipeline
        return cycle.response_started if is_current else not cycle.response_complete


def _withhold_continue(reference: weakref.ref[Any]) -> None:
    if (cycle := reference()) is not None:
        cycle.waiting_for_100_continue = False


_BODY_FIELDS: Final = frozenset((b"content-length", b"transfer-encoding"))
_REQUEST_LINE: Final = re.compile(rb"[A-Z-]{1,40} \S+ HTTP/1\.[01]\r\n")
_NOT_IMPLEMENTED: Final = "This method is not implemented."
_TOO_LARGE: Final = f"The request head is larger than {MAX_HEAD_BYTES} bytes."
_CHUNKS_TOO_SMALL: Final = (
    f"The body has too many small chunks: at most {FREE_CHUNKS}, and one more for each {MIN_CHUNK_BYTES} bytes."
)
_TRAILERS_TOO_LARGE: Final = f"The trailers or chunk extensions of a body are larger than {MAX_BETWEEN_BYTES} bytes."


def _target_error(target: bytes) -> str | None:
    """Return which limit a request target exceeds. A shorter one than ``MAX_QUERY_PARAMETERS`` exceeds none."""
    path, _, query = target.partition(b"?")
    if len(path) > MAX_PATH_BYTES:
        return f"The path of the URL is longer than {MAX_PATH_BYTES} bytes."
    if len(query) > MAX_QUERY_BYTES:
        return f"The query of the URL is longer than {MAX_QUERY_BYTES} bytes."
    if query.count(b"&") >= MAX_QUERY_PARAMETERS:
        return f"The query of the URL has more than {MAX_QUERY_PARAMETERS} parameters."
    if target.count(b"%") > MAX_ESCAPES:
        return f"The URL has more than {MAX_ESCAPES} percent-encoded characters."
    return None


async def check_timeouts(connections: Iterable[Any], loop: asyncio.AbstractEventLoop) -> None:
    """Check the timeouts of connections. Many of them yield to other callbacks of the event loop."""
    now = loop.time()
    limited = [each for each in connections if isinstance(each, LimitedHttpProtocol)]
    await for_each(limited, lambda connection: connection.check_timeout(now))
