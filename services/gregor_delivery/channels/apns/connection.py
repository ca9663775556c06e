"""One HTTP/2 connection to APNs: aioapns' TLS protocol, with what is in flight kept by stream.

Each request ends in exactly one outcome, by itself, at its own deadline at the latest; what befalls one never touches
another (docs/decisions/0006-apns.md says which failures of aioapns this mends).
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
    WindowUpdated,
)
from h2.exceptions import ProtocolError

from .exchange import ApnsRequest, NotProcessed
from .headers import ApnsEncoder

MOST_STREAMS = 1_000
"""In flight on one connection at most, whatever the provider allows."""
MOST_ANSWER_BYTES = 16_384
"""Of an answer so much is kept; APNs sends under 100."""
LAST_STREAM_ID = 2**31 - 1_001
KEEPALIVE_S = 30.0
"""A connection silent for so long is asked for a sign of life, and given up after as long again without one."""
TIDY_EVERY = 64
"""h2 drops ended streams only when it counts the open ones, one by one: so many requests share one count."""


_TRANSITIONS = {
    **H2ConnectionStateMachine._transitions,
    (ConnectionState.CLIENT_OPEN, ConnectionInputs.RECV_GOAWAY): (None, ConnectionState.CLIENT_OPEN),
    (ConnectionState.IDLE, ConnectionInputs.RECV_GOAWAY): (None, ConnectionState.IDLE),
}


class _DrainingStateMachine(H2ConnectionStateMachine):
    """h2 takes GOAWAY for the end; RFC 9113 §6.8 lets the streams that the provider took still be answered."""

    def __init__(self) -> None:
        super().__init__()
        self._transitions = _TRANSITIONS


class _ClientConnection(H2Connection):
    """An h2 connection that does not count all its streams for each new one: who uses it keeps the bound itself."""

    def __init__(self) -> None:
        super().__init__(
            H2Configuration(
                header_encoding=None,
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
                validate_inbound_headers=False,
            )
        )
        self.state_machine = _DrainingStateMachine()
        self.encoder = ApnsEncoder()

    @property
    def open_outbound_streams(self) -> int:
        """Streams open as far as the bound of h2 needs to know: none."""
        return 0

    def tidy(self) -> None:
        """Forget the streams that have ended."""
        _ = super().open_outbound_streams


class ApnsConnection(APNsTLSClientProtocol):
    """One connection. `on_room` is called when another request may begin, `on_end` once, when it is gone."""

    def __init__(
        self, on_room: Callable[[], None], on_end: Callable[["ApnsConnection"], None], keepalive_s: float = KEEPALIVE_S
    ) -> None:
        super().__init__(apns_topic="")
        self._keepalive_s = keepalive_s
        self.conn: _ClientConnection = _ClientConnection()
        self.ready: asyncio.Future[None] = self.loop.create_future()
        """Done when the provider has said how much it takes; fails where the connection ends before."""
        self._on_room, self._on_end = on_room, on_end
        self._streams: dict[int, ApnsRequest] = {}
        self._unsent: dict[int, ApnsRequest] = {}
        self._is_flushing = self._is_paused = self._is_suspect = self._is_retired = self._is_gone = False
        self._heard_at = self.loop.time()
        self._pinged_at: float | None = None
        self._begun = 0

    @property
    def in_flight(self) -> int:
        """Requests begun and not over."""
        return len(self._streams)

    @property
    def kept_streams(self) -> int:
        """Streams that h2 still holds: bounded, however many requests there were."""
        return len(self.conn.streams)

    @property
    def has_room(self) -> bool:
        """Whether a request may begin now."""
        if not self.is_usable or self._is_paused or not self.ready.done():
            return False
        return len(self._streams) < min(self.conn.remote_settings.max_concurrent_streams, MOST_STREAMS)

    @property
    def is_usable(self) -> bool:
        """Whether it counts: not retired, and not suspected to be dead."""
        return not self._is_retired and not self._is_suspect

    def begin(self, exchange: ApnsRequest) -> None:
        """Put a request on its way; only where `has_room`."""
        stream_id = self.conn.get_next_available_stream_id()
        self.conn.send_headers(stream_id, exchange.headers)
        exchange.connection, exchange.stream_id, exchange.begun_at = self, stream_id, self.loop.time()
        self._streams[stream_id] = exchange
        self._send_body(stream_id, exchange)
        self._flush_soon()
        self._begun += 1
        if self._begun % TIDY_EVERY == 0:
            self.conn.tidy()
        if stream_id >= LAST_STREAM_ID:
            self.retire()

    def give_up(self, exchange: ApnsRequest) -> None:
        """Free the stream of a request that is over.

        Where nothing came since it began, the connection may be dead: no other begins here before it gives a sign.
        """
        if self._streams.pop(exchange.stream_id, None) is None:
            return
        self._unsent.pop(exchange.stream_id, None)
        if not self._is_gone:
            self.conn.reset_stream(exchange.stream_id, ErrorCodes.CANCEL)
            if self._heard_at < exchange.begun_at:
                self._is_suspect = True
                self._ask_for_a_sign()
            self._flush_soon()
        self._after_end()

    def retire(self) -> None:
        """Begin nothing more; close when what is in flight is over."""
        self._is_retired = True
        self._after_end()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """TLS stands: send the preface, and wait for what the provider takes."""
        super().connection_made(transport)
        self.loop.call_later(self._keepalive_s, self._keep_alive)

    def data_received(self, data: bytes) -> None:
        """Frames of the provider, in any pieces."""
        self._heard_at = self.loop.time()
        self._pinged_at, self._is_suspect = None, False
        self.flush()  # h2 forgets what waits to be written when a GOAWAY comes
        try:
            events = self.conn.receive_data(data)
        except ProtocolError as error:
            self.end(f"protocol error: {type(error).__name__}")
            return
        for event in events:
            self._take(event)
        self.flush()
        self._after_end()

    def pause_writing(self) -> None:
        """The provider takes no more bytes for now."""
        self._is_paused = True

    def resume_writing(self) -> None:
        """It does again."""
        self._is_paused = False
        self._on_room()

    def flush(self) -> None:
        """Write what h2 has to say."""
        if self.transport is not None and (data := self.conn.data_to_send()) and not self._is_gone:
            self.transport.write(data)

    def refresh_inactivity_timer(self) -> None:
        """Nothing: Apple wants connections kept open; `_keep_alive` finds the dead ones."""

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone: every request in flight learns what that means for it."""
        self.end(f"connection lost: {type(exc).__name__}" if exc is not None else "connection closed by the provider")

    def _take(self, event: Event) -> None:
        if isinstance(event, ResponseReceived):
            if (exchange := self._streams.get(event.stream_id)) is not None:
                exchange.answer_headers = dict(event.headers)
        elif isinstance(event, DataReceived):
            self._take_data(event)
        elif isinstance(event, StreamEnded):
            if (exchange := self._streams.pop(event.stream_id, None)) is not None:
                self._unsent.pop(event.stream_id, None)
                exchange.finish(exchange.answer())
        elif isinstance(event, StreamReset):
            self._take_reset(event)
        elif isinstance(event, RemoteSettingsChanged | WindowUpdated):
            if not self.ready.done() and isinstance(event, RemoteSettingsChanged):
                self.ready.set_result(None)
            self._send_unsent()
        elif isinstance(event, ConnectionTerminated):
            self._take_goaway(event)

    def _take_data(self, event: DataReceived) -> None:
        if event.flow_controlled_length:
            self.conn.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        exchange = self._streams.get(event.stream_id)
        if exchange is not None and len(exchange.answer_body) < MOST_ANSWER_BYTES:
            exchange.answer_body += event.data

    def _take_reset(self, event: StreamReset) -> None:
        exchange = self._streams.pop(event.stream_id, None)
        if exchange is None:
            return
        self._unsent.pop(event.stream_id, None)
        if event.error_code == ErrorCodes.REFUSED_STREAM:
            exchange.finish(NotProcessed("stream refused", is_turned_away=True))
        else:
            exchange.finish(exchange.broken(f"stream reset: {_name(event.error_code)}"))

    def _take_goaway(self, event: ConnectionTerminated) -> None:
        """What the provider has not taken goes elsewhere; what it has may still be answered."""
        self._is_retired = True
        last = event.last_stream_id or 0
        for stream_id in [each for each in self._streams if each > last]:
            self._unsent.pop(stream_id, None)
            self._streams.pop(stream_id).finish(NotProcessed("connection going away", is_turned_away=True))

    def _send_body(self, stream_id: int, exchange: ApnsRequest) -> None:
        while exchange.rest:
            size = min(
                self.conn.local_flow_control_window(stream_id), self.conn.max_outbound_frame_size, len(exchange.rest)
            )
            if size <= 0:
                self._unsent[stream_id] = exchange
                return
            chunk, exchange.rest = exchange.rest[:size], exchange.rest[size:]
            self.conn.send_data(stream_id, chunk, end_stream=not exchange.rest)
        self._unsent.pop(stream_id, None)

    def _send_unsent(self) -> None:
        for stream_id, exchange in list(self._unsent.items()):
            self._send_body(stream_id, exchange)

    def _flush_soon(self) -> None:
        """One write for all that begins in this turn of the loop."""
        if not self._is_flushing:
            self._is_flushing = True
            self.loop.call_soon(self._flush_now)

    def _flush_now(self) -> None:
        self._is_flushing = False
        self.flush()

    def _after_end(self) -> None:
        if self._is_gone:
            return
        if self._is_retired and not self._streams:
            self.flush()
            self.end("retired")
        else:
            self._on_room()

    def _keep_alive(self) -> None:
        if self._is_gone:
            return
        now = self.loop.time()
        if self._pinged_at is not None and now - self._pinged_at >= self._keepalive_s:
            self.end("no sign of life")
            return
        if now - self._heard_at >= self._keepalive_s:
            self._ask_for_a_sign()
            self.flush()
        self.loop.call_later(self._keepalive_s, self._keep_alive)

    def _ask_for_a_sign(self) -> None:
        if self._pinged_at is None:
            self._pinged_at = self.loop.time()
            self.conn.ping(b"gregor..")

    def end(self, detail: str) -> None:
        """Over, once: tell all in flight, let go of the socket."""
        if self._is_gone:
            return
        self._is_gone = self._is_retired = True
        if not self.ready.done():
            self.ready.set_exception(ConnectionError(detail))
        in_flight, self._streams, self._unsent = list(self._streams.values()), {}, {}
        for exchange in in_flight:
            exchange.finish(exchange.broken(detail))
        if self.transport is not None:
            self.transport.close()
        self._on_end(self)


def _name(code: ErrorCodes | int | None) -> str:
    return code.name if isinstance(code, ErrorCodes) else str(code)
