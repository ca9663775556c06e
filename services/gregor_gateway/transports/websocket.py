"""The WebSocket port: `/v1/connect`, subprotocol `gregor.v1`, and the probes as plain GET (RFC 6455).

An ``asyncio.Protocol`` of our own: nothing is kept of a connection but its session and what waits to be written.
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
from gregor.telemetry import request_id
from gregor_gateway.connection.connection import DeviceConnection
from gregor_gateway.context import GatewayContext
from gregor_gateway.protocol.deadlines import SessionRules

from .http1 import MOST_HEAD_BYTES, RequestHead, answer, parse_head, refusal, upgrade
from .probes import probe
from .ws_frames import FrameError, FrameParser, IncomingMessage, Opcode, close_code, encode, encode_close

PATH: Final = "/v1/connect"
SUBPROTOCOL: Final = "gregor.v1"
HEAD_S: Final = 10.0
"""How long a client may take for its request."""
LINGER_S: Final = 10.0
"""How long a client that was told to go may take to answer that."""
DEAF_S: Final = 1.0
"""The same for one that broke the protocol: its answer could not be read."""
HIGH_WATER_BYTES: Final = 65_536
MOST_FRAME_BYTES: Final = 1 << 20
_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class FrameCache:
    """Frames once what goes to many: the last frame, and the last run, are remembered."""

    __slots__ = ("frame", "packed", "packed_run", "run")

    def __init__(self) -> None:
        self.frame: bytes | None = None
        self.packed = b""
        self.run: Sequence[CreationFrame] = ()
        self.packed_run = b""

    def pack(self, frame: bytes) -> bytes:
        """The WebSocket frame of a server frame, remembered."""
        self.frame, self.packed = frame, encode(frame)
        return self.packed

    def pack_run(self, run: Sequence[CreationFrame]) -> bytes:
        """The WebSocket frames of a run in one piece, remembered."""
        self.run, self.packed_run = run, b"".join([encode(plain.frame) for plain in run])
        return self.packed_run


class WebSocketServer:
    """What all WebSockets of a process share. Call it for the protocol of a new connection."""

    def __init__(self, context: GatewayContext) -> None:
        self.context = context
        self.packer = FrameCache()
        self.rules: SessionRules = context.rules(pings=True, welcomes=True, tells_unchanged=True)
        self.connections: set[DeviceConnection] = set()

    def __call__(self) -> WebSocketTransport:
        return WebSocketTransport(self)


class WebSocketTransport(asyncio.Protocol):
    """One client: first a request, then frames."""

    __slots__ = (
        "_connection",
        "_is_closing",
        "_is_deaf",
        "_is_full",
        "_packer",
        "_parser",
        "_pending",
        "_pong",
        "_server",
        "_socket",
    )

    def __init__(self, server: WebSocketServer) -> None:
        self._server = server
        self._packer = server.packer
        self._socket: asyncio.Transport | None = None
        self._connection: DeviceConnection | None = None
        self._parser: FrameParser | None = None
        self._pending = b""
        self._pong: bytes | None = None
        self._is_closing = self._is_deaf = self._is_full = False

    # ---- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client dialled."""
        self._socket = cast("asyncio.Transport", transport)
        self._socket.set_write_buffer_limits(high=HIGH_WATER_BYTES)
        self._server.context.timers.after(HEAD_S, self._expect_head)

    def data_received(self, data: bytes) -> None:
        """Bytes of the client."""
        if self._parser is not None:
            self._feed(data)
            return
        self._pending += data
        head, found, rest = self._pending.partition(b"\r\n\r\n")
        if len(head) > MOST_HEAD_BYTES:
            self._end(refusal(request_id(), Problem("invalid", "The request's head is too large."), status=431))
        elif found:
            self._pending = b""
            self._request(head)
            if self._parser is not None and rest:
                self._feed(rest)

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        self._is_closing = True
        self._socket = None
        self._forget()

    def pause_writing(self) -> None:
        """The socket's buffer is full."""
        self._is_full = True
        if self._connection is not None:
            self._connection.pause()

    def resume_writing(self) -> None:
        """It has room again."""
        self._is_full = False
        pong, self._pong = self._pong, None
        if pong is not None:
            self._answer_ping(pong)
        if self._connection is not None:
            self._connection.resume()

    # ---- Transport

    def pack(self, frame: bytes, tag: str, seq: int) -> bytes:
        """See ``Transport.pack``."""
        packer = self._packer
        return packer.packed if frame is packer.frame else packer.pack(frame)

    def write(self, packed: Sequence[bytes]) -> int:
        """See ``Transport.write``."""
        data = packed[0] if len(packed) == 1 else b"".join(packed)
        if self._socket is not None and not self._is_closing:
            self._socket.write(data)
        return len(data)

    def write_run(self, run: Sequence[CreationFrame], tag: str) -> int:
        """See ``Transport.write_run``."""
        packer = self._packer
        data = packer.packed_run if run is packer.run else packer.pack_run(run)
        if self._socket is not None and not self._is_closing:
            self._socket.write(data)
        return len(data)

    def close(self, code: int, reason: str) -> None:
        """See ``Transport.close``."""
        if self._socket is None or self._is_closing:
            return
        self._is_closing = True
        self._socket.resume_reading()
        self._socket.write(encode_close(code, reason))
        self._server.context.timers.after(LINGER_S, self._abort)

    def confirmed(self) -> None:
        """See ``Transport.settled``: a client that asked was told."""

    def hold_reading(self, is_held: bool) -> None:
        """See ``Transport.hold_reading``."""
        if self._socket is not None and not self._is_closing:
            (self._socket.pause_reading if is_held else self._socket.resume_reading)()

    # ---- the request

    def _request(self, head: bytes) -> None:
        context = self._server.context
        try:
            request = parse_head(head)
        except ValueError:
            self._end(refusal(request_id(), Problem("invalid", "This is no HTTP/1 request."), status=400))
            return
        origin = request.headers.get("origin")
        if origin is not None and not context.origins.allows(origin, request.header("host")):
            problem = Problem("origin_not_allowed", "This page's origin is not in the setting ORIGINS.")
            self._end(refusal(identity_of(request), problem, is_head=request.method == "HEAD"))
        elif request.path == PATH and request.method == "GET":
            self._upgrade(request)
        else:
            self._end(plain(context, request))

    def _upgrade(self, request: RequestHead) -> None:
        try:
            accept = accept_of(request)
        except ValueError as error:
            extra = {"Upgrade": "websocket", "Connection": "Upgrade, close", "Sec-WebSocket-Version": "13"}
            self._end(refusal(identity_of(request), Problem("invalid", str(error)), extra, status=426))
            return
        server, socket = self._server, self._socket
        if socket is None:
            return
        offered = request.listed("sec-websocket-protocol")
        chosen = SUBPROTOCOL if SUBPROTOCOL in offered else None
        socket.write(upgrade(accept, chosen))
        self._parser = FrameParser(MOST_FRAME_BYTES)
        self._connection = DeviceConnection(server.context, self, server.rules, "websocket")
        server.connections.add(self._connection)
        if server.context.readiness.draining:
            self._connection.close(CloseCode.SHUTDOWN)
            return
        scheme, _, token = request.header("authorization").partition(" ")
        others = [each for each in offered if each != SUBPROTOCOL]
        if scheme:
            self._connection.verify(token.strip() if scheme.lower() == "bearer" else "")
        elif others:
            self._connection.verify(others[0])

    def _expect_head(self) -> None:
        if self._parser is None:
            self._abort()

    def _end(self, data: bytes) -> None:
        if self._socket is not None:
            self._socket.write(data)
            self._socket.close()

    def _abort(self) -> None:
        if self._socket is not None:
            self._socket.abort()

    # ---- frames

    def _feed(self, data: bytes) -> None:
        if self._parser is None or self._connection is None or self._is_deaf:
            return
        try:
            for message in self._parser.feed(data):
                self._take(self._connection, message)
        except FrameError as bad:
            # What follows cannot be understood: it is read away, so that the client gets to see the close.
            self._is_deaf = True
            self._server.context.timers.after(DEAF_S, self._abort)
            self._connection.close(bad.code, bad.reason)

    def _take(self, connection: DeviceConnection, message: IncomingMessage) -> None:
        match message.opcode:
            case Opcode.TEXT if not self._is_closing:
                connection.receive(message.payload)
            case Opcode.BINARY if not self._is_closing:
                connection.close(CloseCode.BAD_PROTOCOL)
            case Opcode.PING:
                self._answer_ping(message.payload)
            case Opcode.CLOSE:
                self._answer_close(message.payload)

    def _answer_ping(self, payload: bytes) -> None:
        """Answer now; or, where the client takes nothing, the last of its pings once it does (RFC 6455, 5.5.3)."""
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
            self._socket.close()
        self._forget()

    def _forget(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._server.connections.discard(connection)
            connection.end()


def accept_of(request: RequestHead) -> str:
    """The proof that the request was understood (RFC 6455, 4.2.2). ``ValueError``: it asks for no WebSocket."""
    if request.is_old or "websocket" not in (word.lower() for word in request.listed("upgrade")):
        raise ValueError("This is the place of a WebSocket: ask for an upgrade.")
    if "upgrade" not in (word.lower() for word in request.listed("connection")):
        raise ValueError("The header Connection does not say Upgrade.")
    if request.header("sec-websocket-version") != "13":
        raise ValueError("Only version 13 of the WebSocket protocol is spoken.")
    if request.header("transfer-encoding") or request.header("content-length") not in ("", "0"):
        raise ValueError("The request has a body, which would be taken for frames.")
    key = request.header("sec-websocket-key")
    try:
        size = len(base64.b64decode(key, validate=True))
    except (binascii.Error, ValueError):
        size = 0
    if size != 16:
        raise ValueError("The header Sec-WebSocket-Key is not 16 bytes in base64.")
    return base64.b64encode(hashlib.sha1(key.encode() + _GUID, usedforsecurity=False).digest()).decode()


def identity_of(request: RequestHead) -> str:
    """The id of a request, by which a problem is found in the logs."""
    return request_id(request.header("x-request-id"))


def plain(context: GatewayContext, request: RequestHead, *, is_admin: bool = False) -> bytes:
    """The answer to a plain request: a probe, or a refusal."""
    found = probe(context, request.path, is_admin=is_admin)
    identity, is_head = identity_of(request), request.method == "HEAD"
    if found is None and request.path != PATH:
        return refusal(identity, Problem("not_found", f"Here are {PATH} and the probes."), is_head=is_head)
    if found is None or request.method not in ("GET", "HEAD"):
        allow = {"Allow": "GET" if found is None else "GET, HEAD"}
        return refusal(identity, Problem("method_not_allowed", "Only GET."), allow, is_head=is_head)
    status, body, media_type = found
    return answer(status, body, media_type, is_head=is_head)
