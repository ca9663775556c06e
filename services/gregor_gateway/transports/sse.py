"""Server-sent events, ``GET /v1/stream``: the frames of a session as a stream of events."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from typing import Final

from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from gregor.core.items.announcement import CreationFrame
from gregor_gateway.connection.connection import DeviceConnection
from gregor_gateway.protocol.server_frames import close_frame

from .http_connections import StreamConnections
from .stream_auth import JoinRefused, StreamRejected, next_ticket, open_request

HEARTBEAT_S: Final = 25.0
"""Heartbeat interval: proxies close connections that are silent for 30 to 60 s."""
HIGH_WATER_BYTES: Final = 65_536
RETRY_MS: Final = (1_000, 5_000)
_HEADERS: Final = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]


class SseTransport:
    """The transport of one stream: buffers events until the request sends them."""

    def __init__(self) -> None:
        self._buffered: list[bytes] = []
        self._size = 0
        self._has_events = asyncio.Event()
        self.connection: DeviceConnection | None = None
        self.is_over = False
        self.code: int | None = None
        self.on_end: Callable[[], object] = int

    def pack(self, frame: bytes, tag: str, seq: int) -> bytes:
        """See ``Transport.pack``."""
        if not tag:
            return b"data: %s\n\n" % frame
        return b"id: %s-%d\ndata: %s\n\n" % (tag.encode(), seq, frame)

    def write_run(self, run: Sequence[CreationFrame], tag: str) -> int:
        """See ``Transport.write_run``."""
        return self.write([self.pack(creation.frame, tag, creation.seq) for creation in run])

    def write(self, packed: Sequence[bytes]) -> int:
        """See ``Transport.write``."""
        size = sum(map(len, packed))
        self._buffered += packed
        self._size += size
        self._has_events.set()
        if self._size > HIGH_WATER_BYTES and self.connection is not None:
            self.connection.pause()
        return size

    def close(self, code: int, reason: str) -> None:
        """See ``Transport.close``: the close is the last event of the stream."""
        self.code = code
        self._buffered.append(self.pack(close_frame(code, reason), "", 0))
        self.end()

    def confirmed(self) -> None:
        """See ``Transport.confirmed``: a stream gets an ``unchanged`` event."""

    def hold_reading(self, is_held: bool) -> None:
        """See ``Transport.hold_reading``: a stream sends no frames."""

    def end(self) -> None:
        """End the stream after the buffered events."""
        if not self.is_over:
            self.on_end()
        self.is_over = True
        self._has_events.set()

    async def take(self) -> bytes:
        """Return the next bytes to send; empty at the end.

        If there were no events for a while, a comment is sent as heartbeat.
        """
        if not self._buffered and not self.is_over:
            self._has_events.clear()
            try:
                async with asyncio.timeout(HEARTBEAT_S):
                    await self._has_events.wait()
            except TimeoutError:
                return b":\n\n"
        data = b"".join(self._buffered)
        was_full = self._size > HIGH_WATER_BYTES
        self._buffered, self._size = [], 0
        # The events are with the HTTP server now, which blocks the next send while its own buffer is full.
        if was_full and self.connection is not None:
            self.connection.resume()
        return data


class StreamEndpoint:
    """The endpoint, as an ASGI application."""

    def __init__(self, streams: StreamConnections) -> None:
        self._streams = streams
        self._rules = streams.context.rules(pings=False, welcomes=True, sends_unchanged=True)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send events until either side ends the stream."""
        scope["gregor.operation"] = "stream"
        context = self._streams.context
        try:
            stream_request = await open_request(Request(scope, receive), context, self._streams.terminal_closes)
        except JoinRefused as refused:
            await self._refuse(refused, send)
            return
        except StreamRejected:
            await send({"type": "http.response.start", "status": 204, "headers": [(b"cache-control", b"no-store")]})
            await send({"type": "http.response.body", "body": b""})
            return
        stream = SseTransport()
        connection = DeviceConnection(context, stream, self._rules, "sse")
        stream.connection = connection
        connection.request_id = scope["gregor.request_id"]
        connection.is_join_taken = True
        connection.session.ticket = await next_ticket(stream_request, context)
        authenticated = stream_request.authenticated
        with ExitStack() as unread, self._streams.holding(connection):
            counting = context.unread_responses.counting(authenticated.caller.uid, authenticated.holder)
            stream.on_end = lambda: unread.enter_context(counting)
            connection.open(authenticated, stream_request.hello)
            watching = asyncio.ensure_future(_end_on_disconnect(receive, stream))
            try:
                await _serve(stream, send, lambda: self._streams.note(stream_request, stream.code, connection))
            finally:
                watching.cancel()
                # A later end must not be counted: this context would not end it.
                stream.end()
                # Otherwise the two form a reference cycle, which keeps the send queue until a garbage collection.
                stream.connection = None

    async def _refuse(self, refused: JoinRefused, send: Send) -> None:
        """Close a stream of a device that joins too often, with its only event. An ``EventSource`` then reconnects.

        The connection is closed: each further stream needs a new one, which counts for the limits of its address.
        """
        retry_ms = round(1_000 * refused.wait_s) + random.randint(*RETRY_MS)
        body = b"retry: %d\n\ndata: %s\n\n" % (retry_ms, self._streams.refuse_join(refused))
        more = [(b"content-length", b"%d" % len(body)), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": 200, "headers": [*_HEADERS, *more]})
        await send({"type": "http.response.body", "body": body})


async def _serve(stream: SseTransport, send: Send, note: Callable[[], Awaitable[None]]) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
    first = b"retry: %d\n\n" % random.randint(*RETRY_MS)
    await send({"type": "http.response.body", "body": first, "more_body": True})
    while data := await stream.take():
        # Before the last event is sent: the browser reconnects as soon as it has the close.
        if stream.is_over:
            await note()
        await send({"type": "http.response.body", "body": data, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def _end_on_disconnect(receive: Receive, stream: SseTransport) -> None:
    """End the stream when the client disconnects."""
    while (await receive())["type"] != "http.disconnect":
        pass
    stream.end()
