"""One HTTP/2 connection to APNs: the TLS protocol of aioapns, with the requests in flight tracked by stream.

Each request ends with exactly one outcome, at its deadline at the latest, and never affects another request
(docs/decisions/0006-apns.md lists the failures of aioapns that this fixes).
"""

import asyncio
from collections.abc import Callable

from aioapns.connection import APNsTLSClientProtocol
from h2.config import H2Configuration
from h2.connection import ConnectionInputs, ConnectionState, H2Connection, H2ConnectionStateMachine
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    RemoteSettingsChanged,
    ResponseReceived,
    StreamEnded,
    StreamReset,
)
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes
from hyperframe.frame import DataFrame, Frame

from .exchange import READ_HEADERS, ApnsRequest, NotProcessed
from .headers import ApnsEncoder

MAX_STREAMS = 1_000
"""Concurrent requests on one connection, even if the provider allows more."""
MAX_RESPONSE_BYTES = 16_384
"""Bytes of a response body that are kept; APNs sends fewer than 100."""
MAX_UNSENT_BYTES = 8_388_608
"""Bytes that may wait for a provider that does not read. 1,000 requests with full payloads are 5 MB."""
LAST_STREAM_ID = 2**31 - 1_001
CLOSE_S = 2.0
"""How long a closing connection may wait for a provider that neither reads nor closes TLS; it is then aborted."""
KEEPALIVE_S = 30.0
"""A connection that is silent for this long is pinged, and closed after the same time without an answer."""
UNANSWERED_S = 10.0
"""A connection is replaced at a timeout or a reset if none of its requests was answered for this long.

It therefore lives at least this long: Apple treats many connections in a short time as an attack.
"""
IDLE_EVENTS = 1_000
"""Events (`EVENT_BYTES`) that a provider may cause in `keepalive_s` without a request. Apple sends one ping an hour."""
REQUEST_EVENTS = 50
"""Further events for each request. A response and its window updates count as about fifteen."""
MAX_EVENTS = 20_000
"""Most events that a provider may save up."""
EVENT_BYTES = 16
"""A frame counts as one event, and except for DATA as one more for each 16 bytes. h2 takes 10 to 50 µs for each."""
CLEANUP_INTERVAL = 64
"""Requests between two cleanups: h2 drops ended streams only when it counts the open ones, one by one."""


_TRANSITIONS = {
    **H2ConnectionStateMachine._transitions,
    (ConnectionState.CLIENT_OPEN, ConnectionInputs.RECV_GOAWAY): (None, ConnectionState.CLIENT_OPEN),
    (ConnectionState.IDLE, ConnectionInputs.RECV_GOAWAY): (None, ConnectionState.IDLE),
}


class _DrainingStateMachine(H2ConnectionStateMachine):
    """Keeps the connection open after a received GOAWAY: RFC 9113 §6.8 allows responses on the accepted streams."""

    def __init__(self) -> None:
        super().__init__()
        self._transitions = _TRANSITIONS


class _ClientConnection(H2Connection):
    """An h2 connection that does not count all its streams for each new one: `ApnsConnection` enforces the limit."""

    def __init__(self) -> None:
        super().__init__(
            H2Configuration(
                header_encoding=None,
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
                validate_inbound_headers=False,
            )
        )
        # No server push: h2 keeps 0.5 KB for each promised stream until the connection closes. Initial settings are in
        # effect at once, without an acknowledgement of the server.
        self.local_settings[SettingCodes.ENABLE_PUSH] = 0
        self.local_settings.acknowledge()
        self.state_machine = _DrainingStateMachine()
        self.encoder = ApnsEncoder()
        self.received = 0
        """Cost of all received frames, in events (`EVENT_BYTES`)."""

    @property
    def open_outbound_streams(self) -> int:
        """Always 0, which disables the limit of h2."""
        return 0

    def drop_ended_streams(self) -> None:
        """Free the streams that have ended."""
        _ = super().open_outbound_streams

    def _receive_frame(self, frame: Frame) -> list[Event]:
        # The number of h2 events does not show the cost: one event may carry 64 KiB of headers, and a frame of a closed
        # stream causes none. `body_len` does not include CONTINUATION frames, which h2 has appended to `data`.
        size = 0 if isinstance(frame, DataFrame) else max(frame.body_len, len(getattr(frame, "data", b"")))
        self.received += 1 + size // EVENT_BYTES
        return super()._receive_frame(frame)


class ApnsConnection(APNsTLSClientProtocol):
    """One connection. `on_capacity` is called when another request may start, `on_end` once, at the end."""

    def __init__(
        self,
        on_capacity: Callable[[], None],
        on_end: Callable[["ApnsConnection"], None],
        keepalive_s: float = KEEPALIVE_S,
    ) -> None:
        super().__init__(apns_topic="")
        self._keepalive_s = keepalive_s
        self.conn: _ClientConnection = _ClientConnection()
        self.ready: asyncio.Future[None] = self.loop.create_future()
        """Done when the provider's settings have arrived; fails if the connection ends before."""
        self._on_capacity, self._on_end = on_capacity, on_end
        self._streams: dict[int, ApnsRequest] = {}
        self._blocked: dict[int, ApnsRequest] = {}
        self._is_flushing = self._is_paused = self._is_suspect = self._is_draining = self._is_closed = False
        self._heard_at = self.loop.time()
        self._pinged_at: float | None = None
        self._unanswered_since: float | None = None
        """Start of the first request since the last response; None if none was sent since."""
        self._begun = 0
        self._events_left = IDLE_EVENTS
        self._keepalive_timer: asyncio.TimerHandle | None = None
        self._abort_timer: asyncio.TimerHandle | None = None

    # --- requests ---

    @property
    def in_flight(self) -> int:
        """Number of requests that have no outcome yet."""
        return len(self._streams)

    @property
    def kept_streams(self) -> int:
        """Number of streams that h2 holds: bounded, however many requests there were."""
        return len(self.conn.streams)

    @property
    def has_capacity(self) -> bool:
        """Whether a request may start now."""
        if not self.is_usable or self._is_paused or not self.ready.done():
            return False
        return len(self._streams) < min(self.conn.remote_settings.max_concurrent_streams, MAX_STREAMS)

    @property
    def is_usable(self) -> bool:
        """Whether the connection accepts requests: it is not draining, and not suspected to be dead."""
        return not self._is_draining and not self._is_suspect

    def start(self, request: ApnsRequest) -> None:
        """Start a request; the caller checks `has_capacity`."""
        stream_id = self.conn.get_next_available_stream_id()
        self.conn.send_headers(stream_id, request.headers)
        request.connection, request.stream_id, request.begun_at = self, stream_id, self.loop.time()
        self._streams[stream_id] = request
        if self._unanswered_since is None:
            self._unanswered_since = request.begun_at
        self._send_body(stream_id, request)
        self._flush_soon()
        self._begun += 1
        self._events_left = min(self._events_left + REQUEST_EVENTS, MAX_EVENTS)
        if self._begun % CLEANUP_INTERVAL == 0:
            self.conn.drop_ended_streams()
        if stream_id >= LAST_STREAM_ID:
            self.drain()

    def cancel(self, request: ApnsRequest) -> None:
        """Reset the stream of a request that has timed out or was cancelled.

        If nothing was received since the request started, the connection may be dead: it accepts no request before it
        answers a ping. A connection that answers pings but no requests is drained.
        """
        if self._streams.pop(request.stream_id, None) is None:
            return
        self._blocked.pop(request.stream_id, None)
        if not self._is_closed:
            self.conn.reset_stream(request.stream_id, ErrorCodes.CANCEL)
            if self._heard_at < request.begun_at:
                self._is_suspect = True
                self._ping()
            self._flush_soon()
        self._drain_if_unanswered()
        self._after_end()

    def drain(self) -> None:
        """Accept no further requests, and close when those in flight have ended."""
        self._is_draining = True
        self._after_end()

    # --- asyncio.Protocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the HTTP/2 preface, once TLS is established."""
        super().connection_made(transport)
        self._keepalive_timer = self.loop.call_later(self._keepalive_s, self._keep_alive)

    def data_received(self, data: bytes) -> None:
        """Handle frames of the provider, however they are split."""
        self._heard_at = self.loop.time()
        self._pinged_at, self._is_suspect = None, False
        self.flush()  # h2 drops unwritten data when it receives a GOAWAY
        received = self.conn.received
        try:
            events = self.conn.receive_data(data)
        except ProtocolError as error:
            self.flush()  # h2 has prepared a GOAWAY that names the error
            self.end(f"protocol error: {type(error).__name__}")
            return
        for event in events:
            self._handle(event)
        # Once for all events: a flood of window updates must not search the blocked requests for each of them.
        self._send_blocked()
        self.flush()
        self._events_left -= self.conn.received - received
        # Pings and settings are answered. A peer that sends them but reads nothing would fill the memory.
        if self.transport is not None and self.transport.get_write_buffer_size() > MAX_UNSENT_BYTES:
            self._abort("the provider does not read")
        elif self._events_left < 0:
            self._abort("the provider sends too many frames")
        else:
            self._after_end()

    def pause_writing(self) -> None:
        """Stop accepting requests: the socket buffer is full."""
        self._is_paused = True

    def resume_writing(self) -> None:
        """Accept requests again."""
        self._is_paused = False
        self._on_capacity()

    def flush(self) -> None:
        """Write the frames that h2 has prepared."""
        if self.transport is not None and (data := self.conn.data_to_send()) and not self._is_closed:
            self.transport.write(data)

    def refresh_inactivity_timer(self) -> None:
        """Do nothing: Apple asks clients to keep connections open, and `_keep_alive` finds the dead ones."""

    def connection_lost(self, exc: Exception | None) -> None:
        """End every request in flight with the outcome that the loss means for it."""
        self.end(f"connection lost: {type(exc).__name__}" if exc is not None else "connection closed by the provider")
        if self._abort_timer is not None:
            self._abort_timer.cancel()

    # --- HTTP/2 events ---

    def _handle(self, event: Event) -> None:
        if isinstance(event, ResponseReceived):
            self._unanswered_since = None
            if (request := self._streams.get(event.stream_id)) is not None:
                request.response_headers = {name: value for name, value in event.headers if name in READ_HEADERS}
        elif isinstance(event, DataReceived):
            self._handle_data(event)
        elif isinstance(event, StreamEnded):
            if (request := self._streams.pop(event.stream_id, None)) is not None:
                self._stop_sending(event.stream_id)
                request.finish(request.response())
        elif isinstance(event, StreamReset):
            self._handle_reset(event)
        elif isinstance(event, RemoteSettingsChanged):
            if not self.ready.done():
                self.ready.set_result(None)
        elif isinstance(event, ConnectionTerminated):
            self._handle_goaway(event)

    def _handle_data(self, event: DataReceived) -> None:
        if event.flow_controlled_length:
            self.conn.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        request = self._streams.get(event.stream_id)
        if request is not None and len(request.response_body) < MAX_RESPONSE_BYTES:
            request.response_body += event.data

    def _handle_reset(self, event: StreamReset) -> None:
        request = self._streams.pop(event.stream_id, None)
        if request is None:
            return
        self._blocked.pop(event.stream_id, None)
        self._drain_if_unanswered()
        if event.error_code == ErrorCodes.REFUSED_STREAM:
            request.finish(NotProcessed("stream refused", is_resendable=True))
        else:
            request.finish(request.outcome_if_lost(f"stream reset: {_error_name(event.error_code)}"))

    def _handle_goaway(self, event: ConnectionTerminated) -> None:
        """Drain: requests that the provider did not accept go to another connection; the others are still answered."""
        self._is_draining = True
        last = event.last_stream_id or 0
        for stream_id in [each for each in self._streams if each > last]:
            self._blocked.pop(stream_id, None)
            self._streams.pop(stream_id).finish(NotProcessed("connection going away", is_resendable=True))

    # --- writing ---

    def _stop_sending(self, stream_id: int) -> None:
        """Reset the stream of a response that came before the whole request was sent. h2 would keep it for ever."""
        if self._blocked.pop(stream_id, None) is None:
            return
        stream = self.conn.streams.get(stream_id)
        if stream is not None and not stream.closed:
            self.conn.reset_stream(stream_id, ErrorCodes.CANCEL)

    def _send_body(self, stream_id: int, request: ApnsRequest) -> None:
        while request.rest:
            size = min(
                self.conn.local_flow_control_window(stream_id), self.conn.max_outbound_frame_size, len(request.rest)
            )
            if size <= 0:
                self._blocked[stream_id] = request
                return
            chunk, request.rest = request.rest[:size], request.rest[size:]
            self.conn.send_data(stream_id, chunk, end_stream=not request.rest)
        self._blocked.pop(stream_id, None)

    def _send_blocked(self) -> None:
        for stream_id, request in list(self._blocked.items()):
            self._send_body(stream_id, request)

    def _flush_soon(self) -> None:
        """Schedule one write for all requests that start in this iteration of the event loop."""
        if not self._is_flushing:
            self._is_flushing = True
            self.loop.call_soon(self._flush_now)

    def _flush_now(self) -> None:
        self._is_flushing = False
        self.flush()

    def _after_end(self) -> None:
        if self._is_closed:
            return
        if self._is_draining and not self._streams:
            self.flush()
            self.end("drained")
        else:
            self._on_capacity()

    # --- keepalive and the end ---

    def _drain_if_unanswered(self) -> None:
        since = self._unanswered_since
        if since is not None and self.loop.time() - since >= UNANSWERED_S:
            self._is_draining = True

    def _keep_alive(self) -> None:
        if self._is_closed:
            return
        now = self.loop.time()
        self._events_left = max(self._events_left, IDLE_EVENTS)
        if self._pinged_at is not None and now - self._pinged_at >= self._keepalive_s:
            self.end("no answer to a ping")
            return
        if self.ready.done() and not self._streams and not self.has_capacity:
            self.end("no capacity")  # for example, SETTINGS that allow no streams
            return
        if now - self._heard_at >= self._keepalive_s:
            self._ping()
            self.flush()
        self._keepalive_timer = self.loop.call_later(self._keepalive_s, self._keep_alive)

    def _ping(self) -> None:
        if self._pinged_at is None:
            self._pinged_at = self.loop.time()
            self.conn.ping(b"gregor..")

    def _send_goaway(self) -> None:
        """Notify the provider that the connection ends (RFC 9113 §5.4.1, §6.8); one of h2's own is already written."""
        if self.transport is None or self.transport.is_closing():
            return
        if self.conn.state_machine.state is not ConnectionState.CLOSED:
            self.conn.close_connection()
        self.flush()

    def end(self, detail: str) -> None:
        """Send a GOAWAY and close the connection; every request in flight gets its outcome."""
        if self._is_closed:
            return
        self._send_goaway()
        self._is_closed = self._is_draining = True
        if self._keepalive_timer is not None:
            self._keepalive_timer.cancel()
        if not self.ready.done():
            self.ready.set_exception(ConnectionError(detail))
        in_flight, self._streams, self._blocked = list(self._streams.values()), {}, {}
        for request in in_flight:
            request.finish(request.outcome_if_lost(detail))
        if self.transport is not None:
            self.transport.close()
            self._abort_timer = self.loop.call_later(CLOSE_S, self.transport.abort)
        self._on_end(self)

    def _abort(self, detail: str) -> None:
        """End the connection without waiting until the provider reads."""
        transport = self.transport
        self.end(detail)
        if transport is not None:
            transport.abort()


def _error_name(code: ErrorCodes | int | None) -> str:
    return code.name if isinstance(code, ErrorCodes) else str(code)
