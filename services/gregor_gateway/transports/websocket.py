"""The WebSocket port: ``/v1/connect`` with subprotocol ``gregor.v1``, and the probes as plain GET (RFC 6455).

An ``asyncio.Protocol`` instead of a library: a connection keeps only its session and its send queue in memory.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
from collections.abc import Sequence
from typing import Final, cast

from gregor.core.close_codes import CloseCode
from gregor.core.errors import Problem
from gregor.core.items.announcement import CreationFrame
from gregor.net.client_address import IpAddress, is_reset, peer_of
from gregor.net.connection_limits import Admission
from gregor.net.proxy_protocol import ProxyHeaderError, parse_proxy_header
from gregor.web.http_limits import LINGER_BYTES, LINGER_S
from gregor_gateway.connection.connection import EARLY_FRAME_BYTES, DeviceConnection
from gregor_gateway.context import GatewayContext
from gregor_gateway.protocol.deadlines import SessionRules

from .admission import PortAdmission
from .http1 import RequestHead, RequestRefused, problem_response, split_head, upgrade_response
from .probes import CONNECT_PATH, probe_response
from .ws_frames import FrameError, FrameParser, IncomingMessage, Opcode, close_code, encode, encode_close

SUBPROTOCOL: Final = "gregor.v1"
REQUEST_TIMEOUT_S: Final = 10.0
"""How long a client may take to send its request."""
CLOSE_TIMEOUT_S: Final = 10.0
"""How long a client may take to answer a close frame."""
FAILED_CLOSE_TIMEOUT_S: Final = 1.0
"""The same for a client that violated the protocol."""
HIGH_WATER_BYTES: Final = 65_536
MAX_FRAME_BYTES: Final = 1 << 20
STRAY_FRAME_UNITS: Final = 100
"""Cost of a control frame before the hello, and of any frame after the close, in units of the frame budget.

A client needs no token to send such frames. About ten of them end its connection.
"""
_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class FrameCache:
    """Caches the last encoded frame and the last encoded run: the fan-out writes the same ones to many sockets."""

    __slots__ = ("frame", "packed", "packed_run", "run")

    def __init__(self) -> None:
        self.frame: bytes | None = None
        self.packed = b""
        self.run: Sequence[CreationFrame] = ()
        self.packed_run = b""

    def pack(self, frame: bytes) -> bytes:
        """Encode a server frame and cache it."""
        self.frame, self.packed = frame, encode(frame)
        return self.packed

    def pack_run(self, run: Sequence[CreationFrame]) -> bytes:
        """Encode the frames of a run in one piece and cache it."""
        self.run, self.packed_run = run, b"".join([encode(creation.frame) for creation in run])
        return self.packed_run


class AbortTimer:
    """Aborts a socket that sends no request, or no answer to a close, in time.

    After the end of a connection only this small timer stays on the wheel.

    ``before``: an earlier timer of the same socket.
    """

    __slots__ = ("before", "socket")

    def __init__(self, socket: asyncio.Transport, before: AbortTimer | None = None) -> None:
        self.socket: asyncio.Transport | None = socket
        self.before = before

    def tick(self, now: float) -> bool:
        """See ``Tickable.tick``."""
        if self.socket is None:
            return False
        self.socket.abort()
        return True


class WebSocketServer:
    """Protocol factory of the WebSocket port, with the state that all its connections share."""

    def __init__(self, context: GatewayContext) -> None:
        self.context = context
        self.admission = PortAdmission(context)
        self.handshakes = context.handshakes
        self.cache = FrameCache()
        self.rules: SessionRules = context.rules(pings=True, welcomes=True, sends_unchanged=True)
        self.connections: set[DeviceConnection] = set()

    def __call__(self) -> WebSocketTransport:
        return WebSocketTransport(self)


class WebSocketTransport(asyncio.Protocol):
    """One client: first an HTTP request, then frames."""

    __slots__ = (
        "_admission",
        "_awaits_header",
        "_cache",
        "_client",
        "_connection",
        "_dropped",
        "_has_failed",
        "_is_closing",
        "_is_full",
        "_is_greeted",
        "_is_held",
        "_is_waiting",
        "_parser",
        "_peer",
        "_pong",
        "_received",
        "_server",
        "_socket",
        "_timeout",
    )

    def __init__(self, server: WebSocketServer) -> None:
        self._server = server
        self._cache = server.cache
        self._socket: asyncio.Transport | None = None
        self._connection: DeviceConnection | None = None
        self._parser: FrameParser | None = None
        self._received = b""
        self._dropped = 0
        self._client: str | None = None
        self._peer: IpAddress | None = None
        self._admission: Admission | None = None
        self._timeout: AbortTimer | None = None
        self._pong: bytes | None = None
        self._is_closing = self._has_failed = self._is_full = self._awaits_header = False
        self._is_greeted = self._is_waiting = self._is_held = False

    # ---- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count the connection, and start the timeout of the request."""
        self._socket = socket = cast("asyncio.Transport", transport)
        socket.set_write_buffer_limits(high=HIGH_WATER_BYTES)
        timers, admission = self._server.context.timers, self._server.admission
        self._timeout = AbortTimer(socket)
        timers.at(timers.now + REQUEST_TIMEOUT_S, self._timeout)
        self._peer = peer_of(socket)
        self._awaits_header = admission.awaits_proxy_header(self._peer)
        is_admitted = admission.open()
        if is_reset(socket):  # checked after `peer_of`
            admission.refuse_reset()
            self._is_closing = True
            self._abort()
        elif not is_admitted:
            self._end(admission.process_refusal())
        elif not self._awaits_header:
            self._admit_known(self._peer)

    def data_received(self, data: bytes) -> None:
        """Parse frames; before them, the request and the hello, when it is their turn."""
        if self._is_greeted:
            self._feed(data)
            return
        if self._is_closing and self._parser is None:
            self._drop(data)
            return
        self._received += data
        if self._socket is not None and not self._is_waiting and not self._server.handshakes.run(self._shake_hands):
            # Bounds the memory: the client sends the rest after its turn.
            self._is_waiting = True
            self._socket.pause_reading()

    def _shake_hands(self) -> None:
        """Handle the received bytes of the request or of the hello."""
        if self._socket is None:
            return
        if self._is_waiting:
            self._is_waiting = False
            self._socket.resume_reading()
        if self._parser is None:
            self._read_request()
        if self._parser is not None and self._received:
            received, self._received = self._received, b""
            self._feed(received)
        self._is_greeted = self._connection is not None and not self._connection.is_greeting

    def _read_request(self) -> None:
        try:
            if self._is_closing or not self._has_client():
                return
            split = split_head(self._received)
        except RequestRefused as refused:
            self._end(refused.response, lingers=True)
            return
        if split is not None:
            request, self._received = split
            self._answer(request)

    def connection_lost(self, exc: Exception | None) -> None:
        """Leave the fan-out: the client is gone."""
        self._server.admission.close()
        if self._admission is not None:
            self._server.admission.close_for(self._client)
        self._is_closing = True
        self._socket = None
        self._received = b""
        self._clear_timeout()
        self._detach()

    def pause_writing(self) -> None:
        """Pause the connection: the socket buffer is full (backpressure)."""
        self._is_full = True
        if self._connection is not None:
            self._connection.pause()

    def resume_writing(self) -> None:
        """Resume the connection: the socket buffer has room."""
        self._is_full = False
        pong, self._pong = self._pong, None
        if pong is not None:
            self._answer_ping(pong)
        if self._connection is not None:
            self._connection.resume()

    # ---- Transport

    def pack(self, frame: bytes, tag: str, seq: int) -> bytes:
        """See ``Transport.pack``."""
        cache = self._cache
        return cache.packed if frame is cache.frame else cache.pack(frame)

    def write(self, packed: Sequence[bytes]) -> int:
        """See ``Transport.write``."""
        data = packed[0] if len(packed) == 1 else b"".join(packed)
        if self._socket is not None and not self._is_closing:
            self._socket.write(data)
        return len(data)

    def write_run(self, run: Sequence[CreationFrame], tag: str) -> int:
        """See ``Transport.write_run``."""
        cache = self._cache
        data = cache.packed_run if run is cache.run else cache.pack_run(run)
        if self._socket is not None and not self._is_closing:
            self._socket.write(data)
        return len(data)

    def close(self, code: int, reason: str) -> None:
        """See ``Transport.close``."""
        if self._socket is None or self._is_closing:
            return
        self._is_closing, was_held, self._is_held = True, self._is_held, False
        self._socket.resume_reading()
        self._socket.write(encode_close(code, reason))
        # A flood is not parsed any more, not even for its close frame.
        if code == CloseCode.RATE_LIMITED and not self._has_failed:
            self._ignore_input()
        if not self._has_failed:
            self._abort_after(CLOSE_TIMEOUT_S)
        if self._parser is not None:
            # A closed connection counts for no limit: without this bound, a client could keep 1 MiB for each join.
            self._parser.max_bytes = EARLY_FRAME_BYTES
        if was_held:
            # The close frame of the client may be among the frames that waited for the token.
            self._feed(b"")
        if self._parser is not None and self._parser.held_bytes > EARLY_FRAME_BYTES:
            self._ignore_input()

    def confirmed(self) -> None:
        """See ``Transport.confirmed``: a WebSocket client gets an ``unchanged`` frame if it asked."""

    def hold_reading(self, is_held: bool) -> None:
        """See ``Transport.hold_reading``."""
        if self._socket is None or self._is_closing:
            return
        self._is_held = is_held
        if is_held:
            self._socket.pause_reading()
        else:
            self._socket.resume_reading()
            self._feed(b"")

    # ---- admission

    def _has_client(self) -> bool:
        """Return whether the PROXY protocol header was read, if there must be one. Closes the socket if it is wrong."""
        if not self._awaits_header:
            return True
        try:
            header = parse_proxy_header(self._received)
        except ProxyHeaderError:
            self._server.admission.refuse_header()
            self._is_closing = True
            self._abort()
            return False
        if header is None:
            return False
        self._awaits_header = False
        self._received = self._received[header.size :]
        if header.client is None:
            self._admit(None)
        else:
            self._peer = header.client
            self._admit_known(header.client)
        return not self._is_closing

    def _admit_known(self, peer: IpAddress | None) -> None:
        """Admit the peer unless it is a trusted proxy: the request then names the client."""
        if not self._server.admission.is_trusted(peer):
            self._admit(peer)

    def _admit(self, address: IpAddress | None) -> None:
        self._client, self._admission = self._server.admission.open_for(address)
        if self._admission is Admission.FLOOD:
            self._is_closing = True
            self._abort()

    def _refuse(self, request: RequestHead, refused: Admission) -> None:
        admission = self._server.admission
        try:
            upgrade = upgrade_response(
                accept_key(request), SUBPROTOCOL if SUBPROTOCOL in _subprotocols(request) else None
            )
        except ValueError:
            upgrade = b""
        if upgrade and request.path == CONNECT_PATH:
            self._end(upgrade + admission.close_frame(self._client))
        else:
            self._end(admission.refusal(request, self._client, refused), lingers=request.has_body)

    # ---- the HTTP request

    def _answer(self, request: RequestHead) -> None:
        context, admission = self._server.context, self._server.admission
        if self._admission is None and self._socket is not None:
            self._admit(admission.client_of(self._peer, request))
        if self._is_closing:
            return
        if self._admission is not None and not self._admission.is_admitted:
            self._refuse(request, self._admission)
            return
        origin = request.headers.get("origin")
        if origin is not None and not context.origins.allows(origin, request.header("host")):
            context.metrics.refuse_origin(origin[:200])
            problem = Problem("origin_not_allowed", "The Origin header is not allowed by GREGOR_ORIGINS.")
            response = problem_response(request.request_id, problem, is_head=request.method == "HEAD")
            self._end(response, lingers=request.has_body)
        elif request.path == CONNECT_PATH and request.method == "GET":
            self._upgrade(request)
        else:
            self._end(probe_response(context, request, peer=self._peer), lingers=request.has_body)

    def _upgrade(self, request: RequestHead) -> None:
        try:
            accept = accept_key(request)
        except ValueError as error:
            extra = {"Upgrade": "websocket", "Connection": "Upgrade, close", "Sec-WebSocket-Version": "13"}
            response = problem_response(request.request_id, Problem("invalid", str(error)), extra, status=426)
            self._end(response, lingers=request.has_body)
            return
        server, socket = self._server, self._socket
        if socket is None:
            return
        offered = _subprotocols(request)
        socket.write(upgrade_response(accept, SUBPROTOCOL if SUBPROTOCOL in offered else None))
        self._clear_timeout()
        self._parser = FrameParser(EARLY_FRAME_BYTES)
        self._connection = DeviceConnection(server.context, self, server.rules, "websocket")
        self._connection.request_id = request.request_id
        server.connections.add(self._connection)
        if server.context.readiness.draining:
            self._connection.close(CloseCode.SHUTDOWN)
            return
        # Browsers cannot set Authorization on a WebSocket: the token may be a second subprotocol.
        scheme, _, token = request.header("authorization").partition(" ")
        others = [each for each in offered if each != SUBPROTOCOL]
        if scheme:
            self._connection.verify(token.strip() if scheme.lower() == "bearer" else "")
        elif others:
            self._connection.verify(others[0])

    def _clear_timeout(self) -> None:
        timeout, self._timeout = self._timeout, None
        while timeout is not None:
            timeout.socket, timeout = None, timeout.before

    def _end(self, data: bytes, *, lingers: bool = False) -> None:
        """Send a response and close. ``lingers``: the client may still send, for example the body of its request."""
        self._is_closing = True
        if self._socket is None:
            return
        self._socket.write(data)
        if lingers and not self._socket.is_closing():
            # Closing a socket with unread bytes sends a reset. A proxy such as nginx then regards this server as down.
            self._received = b""
            self._socket.write_eof()
            self._abort_after(LINGER_S)
        else:
            self._socket.close()

    def _drop(self, data: bytes) -> None:
        """Drop bytes behind a refused request."""
        self._dropped += len(data)
        if self._dropped > LINGER_BYTES:
            self._abort()

    def _abort_after(self, delay_s: float) -> None:
        if self._socket is not None:
            before, timers = self._timeout, self._server.context.timers
            self._timeout = AbortTimer(self._socket, before)
            timers.at(timers.now + delay_s, self._timeout)

    def _abort(self) -> None:
        if self._socket is not None:
            self._socket.abort()

    # ---- frames

    def _feed(self, data: bytes) -> None:
        if self._parser is None or self._connection is None or self._has_failed:
            return
        try:
            for message in self._parser.feed(data):
                self._handle(self._connection, message)
                if self._has_failed or self._is_held or self._connection is None:
                    return
        except FrameError as error:
            self._fail(error)

    def _fail(self, error: FrameError) -> None:
        """Send a close frame, and end this direction of the TCP connection."""
        self._has_failed = True
        if self._connection is not None:
            self._connection.close(error.code, error.reason)
        self._ignore_input()

    def _ignore_input(self) -> None:
        """End this direction of the TCP connection. Input is read and ignored until the client closes.

        Without that, the kernel would reset the connection and the client could lose the close frame (RFC 6455, 7.1.1
        and 7.1.7).
        """
        self._has_failed = True
        self._parser = None
        self._abort_after(FAILED_CLOSE_TIMEOUT_S)
        if self._socket is not None and self._socket.can_write_eof():
            self._socket.write_eof()

    def _handle(self, connection: DeviceConnection, message: IncomingMessage) -> None:
        match message.opcode:
            case Opcode.CLOSE:
                self._answer_close(message.payload)
            case _ if self._is_closing:
                # The client may have sent some frames before it got the close, but a flood is not parsed further.
                if not connection.charge(STRAY_FRAME_UNITS, len(message.payload)):
                    self._ignore_input()
            case Opcode.TEXT:
                connection.receive(message.payload, message.tiny_fragments)
                if self._parser is not None and not connection.is_greeting and not self._is_closing:
                    self._parser.max_bytes = MAX_FRAME_BYTES
            case Opcode.BINARY:
                connection.close(CloseCode.BAD_PROTOCOL)
            case Opcode.PING if connection.charge(STRAY_FRAME_UNITS if connection.is_greeting else 1):
                self._answer_ping(message.payload)
            case Opcode.PONG:
                connection.charge(STRAY_FRAME_UNITS if connection.is_greeting else 1)

    def _answer_ping(self, payload: bytes) -> None:
        """Answer now, or answer the latest ping once the client reads again (RFC 6455, 5.5.3)."""
        if self._is_full:
            self._pong = payload
        elif not self._is_closing and self._socket is not None:
            self._socket.write(encode(payload, Opcode.PONG))

    def _answer_close(self, payload: bytes) -> None:
        code = close_code(payload)
        if not self._is_closing and self._socket is not None:
            self._is_closing = True
            self._socket.write(encode_close(CloseCode.NORMAL if code == CloseCode.NO_STATUS else code, ""))
        if self._socket is not None:
            if self._socket.get_write_buffer_size():
                # A closed connection counts for no limit: a client could keep an unread copy in memory for each join.
                self._abort_after(CLOSE_TIMEOUT_S)
            self._socket.close()
        self._detach()

    def _detach(self) -> None:
        connection, self._connection = self._connection, None
        self._parser = None
        if connection is not None:
            self._server.connections.discard(connection)
            connection.end()


def _subprotocols(request: RequestHead) -> list[str]:
    return request.listed("sec-websocket-protocol")


def accept_key(request: RequestHead) -> str:
    """Return ``Sec-WebSocket-Accept`` for an upgrade request (RFC 6455, 4.2.2). Raises ``ValueError`` if it is not."""
    if request.is_http10 or "websocket" not in (word.lower() for word in request.listed("upgrade")):
        raise ValueError("This path is a WebSocket: send Upgrade: websocket over HTTP/1.1.")
    if "upgrade" not in (word.lower() for word in request.listed("connection")):
        raise ValueError("The header Connection must contain Upgrade.")
    if request.header("sec-websocket-version") != "13":
        raise ValueError("The header Sec-WebSocket-Version must be 13.")
    if request.has_body:
        raise ValueError("A WebSocket upgrade must not have a body.")
    key = request.header("sec-websocket-key")
    try:
        size = len(base64.b64decode(key, validate=True))
    except (binascii.Error, ValueError):
        size = 0
    if size != 16:
        raise ValueError("The header Sec-WebSocket-Key must be 16 bytes in base64.")
    return base64.b64encode(hashlib.sha1(key.encode() + _GUID, usedforsecurity=False).digest()).decode()
