"""One connection of the fake APNs."""

import asyncio
import struct
from typing import TYPE_CHECKING, cast

import msgspec
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import ConnectionTerminated, DataReceived, RequestReceived, StreamEnded, StreamReset
from h2.exceptions import ProtocolError, StreamClosedError
from h2.settings import SettingCodes, Settings

from .apns_actions import TOKEN_RENEWAL_S, ApnsAction

if TYPE_CHECKING:
    from .apns import FakeApns


_GOAWAY = 7
"""The type of the frame (RFC 9113 §6.8)."""


class FakeApnsConnection(asyncio.Protocol):
    """A client's connection. A request is handled when it is complete."""

    def __init__(self, fake: "FakeApns") -> None:
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
