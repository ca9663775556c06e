"""One connection of the fake APNs: frames in, judged, frames out."""

import asyncio
import struct
from typing import TYPE_CHECKING, cast

import msgspec
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import DataReceived, RequestReceived, StreamEnded, StreamReset
from h2.exceptions import ProtocolError, StreamClosedError
from h2.settings import SettingCodes, Settings

from .apns_actions import TOKEN_RENEWAL_S, ApnsAction

if TYPE_CHECKING:
    from .apns import FakeApns


_GOAWAY = 7
"""The type of the frame (RFC 9113 §6.8)."""


class FakeApnsConnection(asyncio.Protocol):
    """A client's connection. A stream is judged when its request is whole."""

    def __init__(self, fake: "FakeApns") -> None:
        self._fake = fake
        self._h2 = H2Connection(
            H2Configuration(client_side=False, header_encoding="latin-1", validate_inbound_headers=False)
        )
        self._requests: dict[int, tuple[dict[str, str], bytearray]] = {}
        self._transport: asyncio.Transport | None = None
        self._token: str | None = None
        self._token_since_s = 0.0
        self._last_taken = 0
        self._gone_after: int | None = None
        self.number = 0
        self.has_client_certificate = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say at once how much is taken, as Apple does."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass of it
        self.number = self._fake.entered(self)
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
        """The client is gone."""
        self._transport = None
        self._fake.left(self)

    def data_received(self, data: bytes) -> None:
        """Frames of the client."""
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
                self._take_data(event)
            elif isinstance(event, StreamEnded):
                self._judge(event.stream_id)
            elif isinstance(event, StreamReset):
                self._requests.pop(event.stream_id, None)
        self._flush()

    def cut(self) -> None:
        """End the connection without a word."""
        if self._transport is not None:
            self._transport.abort()

    def freeze(self) -> None:
        """Read nothing more."""
        if self._transport is not None:
            self._transport.pause_reading()

    def judge_renewal(self, token: str, now_s: float) -> ApnsAction | None:
        """Apple takes a new provider token on a connection once in 20 minutes."""
        if token == self._token:
            return None
        if self._token is not None and now_s - self._token_since_s < TOKEN_RENEWAL_S:
            return ApnsAction(429, "TooManyProviderTokenUpdates")
        self._token, self._token_since_s = token, now_s
        return None

    def _take_data(self, event: DataReceived) -> None:
        if event.stream_id in self._requests:
            self._requests[event.stream_id][1].extend(event.data)
        if event.flow_controlled_length:
            self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)

    def _judge(self, stream_id: int) -> None:
        headers, body = self._requests.pop(stream_id, ({}, bytearray()))
        if self._gone_after is not None and stream_id > self._gone_after:
            return  # sent before the client heard that it is left out (RFC 9113 §6.8): it is not looked at
        act = self._fake.judge(headers, bytes(body), self)
        if act.goaway != "refused":
            self._last_taken = max(self._last_taken, stream_id)
        if act.most_streams is not None:
            self._h2.update_settings({SettingCodes.MAX_CONCURRENT_STREAMS: act.most_streams})
        if act.goaway is not None:
            self._go_away()
        if act.drops:
            self.cut()
        elif act.delay_s:
            asyncio.get_running_loop().call_later(act.delay_s, self._answer_later, stream_id, headers, act)
        elif not act.is_silent and act.goaway != "refused":
            self._answer(stream_id, headers, act)

    def _answer_later(self, stream_id: int, headers: dict[str, str], act: ApnsAction) -> None:
        if self._transport is not None:
            self._answer(stream_id, headers, act)
            self._flush()

    def _answer(self, stream_id: int, headers: dict[str, str], act: ApnsAction) -> None:
        try:
            if act.reset is not None:
                self._h2.reset_stream(stream_id, ErrorCodes(act.reset))
                return
            self._send(stream_id, headers, act)
        except (StreamClosedError, ProtocolError):
            return  # the client has given it up

    def _send(self, stream_id: int, headers: dict[str, str], act: ApnsAction) -> None:
        answer = [(":status", str(act.status)), ("apns-id", headers.get("apns-id", ""))]
        if act.retry_after is not None:
            answer.append(("retry-after", act.retry_after))
        body = b"" if act.status == 200 or act.is_empty else _body_of(act)
        self._h2.send_headers(stream_id, answer, end_stream=not body and not act.trails)
        if act.is_split and body:
            self._h2.send_data(stream_id, body[:9])
            body = body[9:]
        if body or act.trails:
            self._h2.send_data(stream_id, body, end_stream=True)

    def _go_away(self) -> None:
        """GOAWAY by hand: h2 would close the connection with it, and answer nothing more."""
        self._flush()
        self._gone_after = self._last_taken
        payload = struct.pack(">II", self._last_taken, ErrorCodes.NO_ERROR) + b'{"reason":"Shutdown"}'
        frame = struct.pack(">I", len(payload))[1:] + bytes([_GOAWAY, 0]) + bytes(4) + payload
        if self._transport is not None:
            self._transport.write(frame)

    def _flush(self) -> None:
        if self._transport is not None and (data := self._h2.data_to_send()):
            self._transport.write(data)


def _body_of(act: ApnsAction) -> bytes:
    body: dict[str, object] = {"reason": act.reason} if act.reason is not None else {}
    if act.timestamp_ms is not None:
        body["timestamp"] = act.timestamp_ms
    return msgspec.json.encode(body) if body else b""
