"""HTTP connections that cost little: heads are bounded in bytes and in time, bodies in silence.

uvicorn waits for both for ever, and keeps a head of any size: whoever can dial, without a token, could fill a process.
"""

from __future__ import annotations

import asyncio
import re
import sys
from enum import Enum
from typing import Any, Final

import msgspec
from httptools import HttpParserInvalidMethodError
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from gregor.core.errors import Problem
from gregor.telemetry import request_id

from .problems import PROBLEM_JSON

MOST_HEAD_BYTES: Final = 65_536
"""The largest head of a request: a token of 8 KiB, a browser's cookies and a long query fit."""
HEAD_S: Final = 10.0
"""How long a head may take from its first byte, and the first one from the dialling."""
SILENCE_S: Final = 60.0
"""How long a body may stand still while it is read."""

LINGER_S: Final = 1.0
"""How long a client that was refused may go on sending, so that it gets to see why."""


class _Part(Enum):
    """What is expected of the client."""

    HEAD = "a head, or the rest of it"
    BODY = "the rest of a body"
    NOTHING = "nothing: an answer is made, or the connection is kept for the next request"


class LimitedHttpProtocol(HttpToolsProtocol):
    """uvicorn's connection, with bounds. ``look`` is called about once a second."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._part = _Part.HEAD
        self._head_bytes = 0
        self._latest = b""
        self._since = self.loop.time()
        self._is_refused = False
        self._answering: Any = None

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone. uvicorn tells only the last request that came: also the one that is being answered."""
        super().connection_lost(exc)
        if self._answering is not None and not self._answering.response_complete:
            self._answering.disconnected = True
            self._answering.message_event.set()

    def data_received(self, data: bytes) -> None:
        """Bytes of the client."""
        if self._is_refused:
            return
        self._latest = data
        super().data_received(data)
        if self._part is _Part.BODY:
            self._since = self.loop.time()
        elif self._part is _Part.HEAD:
            # The chunk in which it begins may hold the end of a body: it is let off.
            self._head_bytes += len(data) if self._head_bytes or self.cycle is None else 1
            if self._head_bytes > MOST_HEAD_BYTES:
                self._refuse(431, _TOO_LARGE)

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        super().on_message_begin()
        self._part, self._head_bytes, self._since = _Part.HEAD, 0, self.loop.time()

    def on_headers_complete(self) -> None:
        """Its head is whole."""
        self._part, self._since = _Part.BODY, self.loop.time()
        size, hosts = len(self.url), 0
        for name, value in self.headers:
            size += len(name) + len(value) + 4
            hosts += name == b"host"
        if size > MOST_HEAD_BYTES:
            self._refuse(431, _TOO_LARGE)
        elif hosts > 1 or (not hosts and self.parser.get_http_version() == "1.1"):
            self._refuse(400, "A request names one Host (RFC 9112, 3.2).")
        elif not self._is_refused:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A part of its body."""
        if not self._is_refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """It is whole."""
        self._part = _Part.NOTHING
        if not self._is_refused:
            super().on_message_complete()

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    def send_400_response(self, msg: str) -> None:
        """Refuse bytes that are not HTTP/1 with 400, and a method that the parser does not know with 501."""
        if isinstance(sys.exception(), HttpParserInvalidMethodError) and _REQUEST_LINE.match(self._latest):
            self._refuse(501, "This method is not implemented.")
        else:
            self._refuse(400, "This is not an HTTP/1 request.")

    def look(self, now: float) -> None:
        """End what has taken too long. ``now``: seconds of the event loop."""
        if self._is_refused or self._part is _Part.NOTHING:
            return
        if self._part is _Part.HEAD and now - self._since > HEAD_S:
            self._refuse(408, f"The head of a request may take {HEAD_S:g} s.")
        elif self._part is _Part.BODY and now - self._since > SILENCE_S and not self.flow.read_paused:
            self._refuse(408, f"Nothing more of the body came for {SILENCE_S:g} s.")

    def _refuse(self, status: int, detail: str) -> None:
        if self._is_refused:
            return
        self._is_refused = True
        if self._is_answering():
            self.transport.abort()
            return
        if self.cycle is None and not self._head_bytes and status == 408:
            self.transport.close()  # nothing was asked
            return
        identity = request_id()
        body = msgspec.json.encode(Problem("invalid", detail).document(identity) | {"status": status})
        fields = (
            b"content-type: " + PROBLEM_JSON,
            b"content-length: %d" % len(body),
            b"x-request-id: " + identity.encode(),
            b"cache-control: no-store",
            b"connection: close",
        )
        self.transport.write(STATUS_LINE[status] + b"\r\n".join(fields) + b"\r\n\r\n" + body)
        # What still comes is read away: a socket that is closed over unread bytes takes the answer with it.
        self.transport.write_eof()
        self.flow.resume_reading()
        self.loop.call_later(LINGER_S, self.transport.close)

    def _is_answering(self) -> bool:
        """Whether an answer is out, or may still come, that another one would spoil."""
        cycle = self.cycle
        if cycle is None:
            return False
        is_of_this = self._part is _Part.BODY and not self.pipeline
        return cycle.response_started if is_of_this else not cycle.response_complete


_REQUEST_LINE: Final = re.compile(rb"[A-Z-]{1,40} \S+ HTTP/1\.[01]\r\n")
_TOO_LARGE: Final = f"The head of a request has at most {MOST_HEAD_BYTES} bytes."


def check_timeouts(connections: Any, loop: asyncio.AbstractEventLoop) -> None:
    """Look at every connection of a server."""
    now = loop.time()
    for connection in tuple(connections):
        if isinstance(connection, LimitedHttpProtocol):
            connection.look(now)
