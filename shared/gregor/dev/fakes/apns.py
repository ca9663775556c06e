"""A fake APNs: HTTP/2 over TLS, with Apple's rules and every failure on demand.

A request is checked by Apple's rules (headers, payload size, provider token). Then the script of its device token
decides: the n-th request for a token gets the n-th action, and 200 after the end of the script.
"""

from __future__ import annotations

import asyncio
import ssl
import struct
import time
from collections import defaultdict, deque
from dataclasses import dataclass, field
from typing import Any, cast

import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric import ec
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import ConnectionTerminated, DataReceived, RequestReceived, StreamEnded, StreamReset
from h2.exceptions import ProtocolError, StreamClosedError
from h2.settings import SettingCodes, Settings

from .apns_actions import TOKEN_RENEWAL_S, ApnsAction
from .tls import CertificateAuthority

ANY_TOKEN = "*"  # noqa: S105 - key of the script for device tokens without their own
UNASSIGNED_TOKEN = "0" * 64
MAX_PAYLOAD_BYTES = 4_096
MAX_TOKEN_AGE_S = 3_600
PUSH_TYPES = frozenset(
    {"alert", "background", "voip", "complication", "fileprovider", "mdm", "liveactivity", "location"}
)


@dataclass(frozen=True, slots=True)
class ReceivedApnsPush:
    """One request, and whether the device received the push."""

    token: str
    headers: dict[str, str]
    payload: Any
    connection: int
    is_delivered: bool
    action: ApnsAction

    @property
    def collapse_id(self) -> str | None:
        """The `apns-collapse-id` header."""
        return self.headers.get("apns-collapse-id")


@dataclass(slots=True)
class FakeApns:
    """The server. `keys`: public keys of provider tokens by key id; without any, no token is required.

    `received`: every request in order, including rejected ones. `most_streams`, `window_bytes`: its initial SETTINGS.
    `goaways`: error codes of the GOAWAY frames of clients.
    """

    authority: CertificateAuthority
    keys: dict[str, ec.EllipticCurvePublicKey] = field(default_factory=dict)
    team_id: str | None = None
    topics: frozenset[str] | None = None
    most_streams: int = 500
    window_bytes: int = 65_535
    clock_ahead_s: float = 0.0
    keeps_payloads: bool = True
    received: list[ReceivedApnsPush] = field(default_factory=list)
    connections: int = 0
    provider_tokens: set[str] = field(default_factory=set)
    goaways: list[int] = field(default_factory=list)
    _scripts: dict[str, deque[ApnsAction]] = field(default_factory=lambda: defaultdict(deque))
    _open: set[FakeApnsConnection] = field(default_factory=set)
    _server: asyncio.Server | None = None
    _verified: dict[str, ApnsAction | None] = field(default_factory=dict)

    async def start(self, port: int = 0) -> None:
        """Listen on loopback; port 0 takes a free one."""
        tls: ssl.SSLContext = self.authority.server_context("h2", takes_client_certificates=True)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: FakeApnsConnection(self), "127.0.0.1", port, ssl=tls)

    async def close(self) -> None:
        """Close every connection and stop listening."""
        if self._server is None:
            return
        self._server.close()
        for connection in list(self._open):
            connection.cut()
        await self._server.wait_closed()
        self._server = None

    @property
    def url(self) -> str:
        """Value for GREGOR_APNS_URL."""
        assert self._server is not None  # noqa: S101 - a misuse of the fake, not of the product
        return f"https://localhost:{self._server.sockets[0].getsockname()[1]}"

    # --- scripts and records ---

    def script(self, token: str, *actions: ApnsAction) -> None:
        """Set the actions of the next requests for `token`; `ANY_TOKEN`: for tokens without a script."""
        self._scripts[token].extend(actions)

    def delivered(self) -> list[ReceivedApnsPush]:
        """Return the pushes that reached a device, in order."""
        return [each for each in self.received if each.is_delivered]

    def visible(self, token: str) -> dict[str, Any]:
        """Return the notifications on the screen of a device: the last alert of each collapse id."""
        pushes = [each for each in self.delivered() if each.token == token]
        return {
            each.collapse_id or "": each.payload for each in pushes if each.headers.get("apns-push-type") == "alert"
        }

    def cut_connections(self) -> None:
        """Abort all connections, as a network failure does."""
        for connection in list(self._open):
            connection.cut()

    def freeze(self) -> None:
        """Stop reading and answering on the open connections without closing them, as a dead network does."""
        for connection in self._open:
            connection.freeze()

    # --- called by connections ---

    def register(self, connection: FakeApnsConnection) -> int:
        """Register a connection; returns its number, from 1."""
        self._open.add(connection)
        self.connections += 1
        return self.connections

    def unregister(self, connection: FakeApnsConnection) -> None:
        """Unregister a connection."""
        self._open.discard(connection)

    def decide(self, headers: dict[str, str], body: bytes, connection: FakeApnsConnection) -> ApnsAction:
        """Record a request and return the action: a rejection by Apple's rules, else the script's."""
        token = headers.get(":path", "").removeprefix("/3/device/")
        action = self._check_provider_token(headers, connection) or self._check_request(headers, body)
        if action is None:
            script = self._scripts.get(token) or self._scripts.get(ANY_TOKEN)
            action = script.popleft() if script else ApnsAction()
        payload = msgspec.json.decode(body) if self.keeps_payloads and body else None
        self.received.append(ReceivedApnsPush(token, headers, payload, connection.number, action.is_delivered, action))
        return action

    def _check_request(self, headers: dict[str, str], body: bytes) -> ApnsAction | None:
        priority, push_type = headers.get("apns-priority", "10"), headers.get("apns-push-type", "alert")
        topic = headers.get("apns-topic")
        faults = (
            (headers.get(":method") != "POST", 405, "MethodNotAllowed"),
            (not headers.get(":path", "").startswith("/3/device/"), 404, "BadPath"),
            (headers.get(":path") == "/3/device/", 400, "MissingDeviceToken"),
            (headers.get(":path") == "/3/device/" + UNASSIGNED_TOKEN, 400, "BadDeviceToken"),
            (topic is None, 400, "MissingTopic"),
            (self.topics is not None and topic not in self.topics, 400, "TopicDisallowed"),
            (not body, 400, "PayloadEmpty"),
            (len(body) > MAX_PAYLOAD_BYTES, 413, "PayloadTooLarge"),
            (len(headers.get("apns-collapse-id", "").encode()) > 64, 400, "BadCollapseId"),
            (push_type not in PUSH_TYPES, 400, "InvalidPushType"),
            (priority not in ("1", "5", "10"), 400, "BadPriority"),
            (push_type == "background" and priority == "10", 400, "BadPriority"),
            (not headers.get("apns-expiration", "0").isdigit(), 400, "BadExpirationDate"),
        )
        return next((ApnsAction(status, reason) for is_wrong, status, reason in faults if is_wrong), None)

    def _check_provider_token(self, headers: dict[str, str], connection: FakeApnsConnection) -> ApnsAction | None:
        if connection.has_client_certificate or not self.keys:
            return None
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            return ApnsAction(403, "MissingProviderToken")
        self.provider_tokens.add(token)
        now_s = time.time() + self.clock_ahead_s
        if token not in self._verified:
            self._verified[token] = self._verify(token)
        rejection = self._verified[token]
        if rejection is not None:
            return rejection
        issued_s = jwt.decode(token, options={"verify_signature": False})["iat"]
        if issued_s < now_s - MAX_TOKEN_AGE_S:
            return ApnsAction(403, "ExpiredProviderToken")
        if issued_s > now_s + 60:
            return ApnsAction(403, "InvalidProviderToken")
        return connection.check_renewal(token, now_s)

    def _verify(self, token: str) -> ApnsAction | None:
        try:
            key = self.keys[jwt.get_unverified_header(token)["kid"]]
            claims = jwt.decode(
                token, key, algorithms=["ES256"], options={"verify_iat": False, "require": ["iat", "iss"]}
            )
        except (jwt.InvalidTokenError, KeyError):
            return ApnsAction(403, "InvalidProviderToken")
        return None if self.team_id in (None, claims["iss"]) else ApnsAction(403, "InvalidProviderToken")


_GOAWAY = 7
"""The type of the frame (RFC 9113 §6.8)."""


class FakeApnsConnection(asyncio.Protocol):
    """A client's connection. A request is handled when it is complete."""

    def __init__(self, fake: FakeApns) -> None:
        self._fake = fake
        self._h2 = H2Connection(
            H2Configuration(client_side=False, header_encoding="latin-1", validate_inbound_headers=False)
        )
        self._requests: dict[int, tuple[dict[str, str], bytearray]] = {}
        self._transport: asyncio.Transport | None = None
        self._token: str | None = None
        self._token_since_s = 0.0
        self._last_accepted = 0
        self._gone_after: int | None = None
        self.number = 0
        self.has_client_certificate = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send SETTINGS at once, as Apple does."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's class is not a subclass of it
        self.number = self._fake.register(self)
        tls = transport.get_extra_info("ssl_object")
        self.has_client_certificate = bool(tls is not None and tls.getpeercert())
        self._h2.local_settings = Settings(
            client=False,
            initial_values={
                SettingCodes.MAX_CONCURRENT_STREAMS: self._fake.most_streams,
                SettingCodes.INITIAL_WINDOW_SIZE: self._fake.window_bytes,
                SettingCodes.MAX_HEADER_LIST_SIZE: 8_000,
            },
        )
        self._h2.initiate_connection()
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        """Unregister the connection."""
        self._transport = None
        self._fake.unregister(self)

    def data_received(self, data: bytes) -> None:
        """Handle frames of the client."""
        try:
            events = self._h2.receive_data(data)
        except ProtocolError:
            self._flush()
            self.cut()
            return
        for event in events:
            if isinstance(event, RequestReceived):
                headers = {str(name): str(value) for name, value in event.headers}
                self._requests[event.stream_id] = (headers, bytearray())
            elif isinstance(event, DataReceived):
                self._handle_data(event)
            elif isinstance(event, StreamEnded):
                self._handle_request(event.stream_id)
            elif isinstance(event, ConnectionTerminated):
                self._fake.goaways.append(int(event.error_code or 0))
            elif isinstance(event, StreamReset):
                self._requests.pop(event.stream_id, None)
        self._flush()

    def cut(self) -> None:
        """Abort the connection without a GOAWAY."""
        if self._transport is not None:
            self._transport.abort()

    def freeze(self) -> None:
        """Stop reading."""
        if self._transport is not None:
            self._transport.pause_reading()

    def check_renewal(self, token: str, now_s: float) -> ApnsAction | None:
        """Apple accepts a new provider token on a connection once in 20 minutes."""
        if token == self._token:
            return None
        if self._token is not None and now_s - self._token_since_s < TOKEN_RENEWAL_S:
            return ApnsAction(429, "TooManyProviderTokenUpdates")
        self._token, self._token_since_s = token, now_s
        return None

    def _handle_data(self, event: DataReceived) -> None:
        if event.stream_id in self._requests:
            self._requests[event.stream_id][1].extend(event.data)
        if event.flow_controlled_length:
            self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)

    def _handle_request(self, stream_id: int) -> None:
        headers, body = self._requests.pop(stream_id, ({}, bytearray()))
        if self._gone_after is not None and stream_id > self._gone_after:
            return  # sent before the client received the GOAWAY that excludes it (RFC 9113 §6.8)
        action = self._fake.decide(headers, bytes(body), self)
        if action.goaway != "refused":
            self._last_accepted = max(self._last_accepted, stream_id)
        if action.most_streams is not None:
            self._h2.update_settings({SettingCodes.MAX_CONCURRENT_STREAMS: action.most_streams})
        if action.goaway is not None:
            self._go_away()
        if action.is_malformed:
            self._write_malformed_frame()
        elif action.drops:
            self.cut()
        elif action.delay_s:
            asyncio.get_running_loop().call_later(action.delay_s, self._respond_later, stream_id, headers, action)
        elif not action.is_silent and action.goaway != "refused":
            self._respond(stream_id, headers, action)

    def _respond_later(self, stream_id: int, headers: dict[str, str], action: ApnsAction) -> None:
        if self._transport is not None:
            self._respond(stream_id, headers, action)
            self._flush()

    def _respond(self, stream_id: int, headers: dict[str, str], action: ApnsAction) -> None:
        try:
            if action.reset is not None:
                self._h2.reset_stream(stream_id, ErrorCodes(action.reset))
                return
            self._send(stream_id, headers, action)
        except (StreamClosedError, ProtocolError):
            return  # the client has reset the stream

    def _send(self, stream_id: int, headers: dict[str, str], action: ApnsAction) -> None:
        headers_out = [(":status", str(action.status)), ("apns-id", headers.get("apns-id", ""))]
        if action.retry_after is not None:
            headers_out.append(("retry-after", action.retry_after))
        body = b"" if action.status == 200 or action.is_empty else _body_of(action)
        self._h2.send_headers(stream_id, headers_out, end_stream=not body and not action.trails)
        if action.is_split and body:
            self._h2.send_data(stream_id, body[:9])
            body = body[9:]
        if body or action.trails:
            self._h2.send_data(stream_id, body, end_stream=True)

    def _go_away(self) -> None:
        """Write a GOAWAY frame by hand: h2 sends no responses after a GOAWAY that it wrote itself."""
        self._flush()
        self._gone_after = self._last_accepted
        payload = struct.pack(">II", self._last_accepted, ErrorCodes.NO_ERROR) + b'{"reason":"Shutdown"}'
        frame = struct.pack(">I", len(payload))[1:] + bytes([_GOAWAY, 0]) + bytes(4) + payload
        if self._transport is not None:
            self._transport.write(frame)

    def _write_malformed_frame(self) -> None:
        self._flush()
        if self._transport is not None:
            self._transport.write(struct.pack(">I", 1)[1:] + bytes([0, 0]) + bytes(4) + b"x")

    def _flush(self) -> None:
        if self._transport is not None and (data := self._h2.data_to_send()):
            self._transport.write(data)


def _body_of(action: ApnsAction) -> bytes:
    body: dict[str, object] = {"reason": action.reason} if action.reason is not None else {}
    if action.timestamp_ms is not None:
        body["timestamp"] = action.timestamp_ms
    return msgspec.json.encode(body) if body else b""
