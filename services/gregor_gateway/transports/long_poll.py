"""`GET /v1/poll`: the frames of a session, one answer at a time (protocol.md, "Gateway: SSE … and long poll")."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from gregor.core.errors import Problem
from gregor.core.items.announcement import CreationFrame
from gregor.store.contract.store import Unavailable
from gregor_gateway.connection.connection import DeviceConnection
from gregor_gateway.protocol.deadlines import REFRESH_S
from gregor_gateway.protocol.hello import VOID, Hello
from gregor_gateway.protocol.server_frames import REFRESH, close_frame, encode

from .http_connections import StreamConnections, send_json
from .stream_auth import StreamRejected, StreamRequest, next_ticket, open_request

MOST_WAIT_S: Final = 55
"""Below the minute after which many proxies give up."""
WAIT_S: Final = 25
_NUMBER: Final = re.compile(r"[0-9]{1,3}(\.[0-9]{1,9})?")
JOIN_S: Final = 10.0
"""How long the first read may take."""


class PollTransport:
    """The transport of one poll: what was written until it is answered."""

    def __init__(self, *, is_late: bool = False) -> None:
        """``is_late``: the token ends soon, as the client has known since an earlier poll or from its start."""
        self.frames: list[bytes] = []
        self._is_late = is_late
        self.is_confirmed = asyncio.Event()
        self.has_news = asyncio.Event()
        self.code: int | None = None

    def pack(self, frame: bytes, tag: str, seq: int) -> bytes:
        """See ``Transport.pack``."""
        return frame

    def write_run(self, run: Sequence[CreationFrame], tag: str) -> int:
        """See ``Transport.write_run``."""
        return self.write([plain.frame for plain in run])

    def write(self, packed: Sequence[bytes]) -> int:
        """See ``Transport.write``."""
        self.frames += packed
        self.is_confirmed.set()
        # That the token ends soon would else end each poll of its last minute at once: it goes along with the answer.
        if not self._is_late or any(not frame.startswith(REFRESH) for frame in packed):
            self.has_news.set()
        return sum(map(len, packed))

    def close(self, code: int, reason: str) -> None:
        """See ``Transport.close``."""
        self.code = code
        self.write([close_frame(code, reason)])

    def confirmed(self) -> None:
        """See ``Transport.settled``."""
        self.is_confirmed.set()

    def hold_reading(self, is_held: bool) -> None:
        """See ``Transport.hold_reading``: a poll sends nothing."""


class PollEndpoint:
    """The endpoint, as an ASGI application."""

    def __init__(self, streaming: StreamConnections) -> None:
        self._streaming = streaming
        self._rules = streaming.context.rules(pings=False, welcomes=False, tells_unchanged=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer as soon as there is a frame, or when the time is up."""
        scope["gregor.operation"] = "poll"
        context, request = self._streaming.context, Request(scope, receive)
        wait_s = read_wait(request.query_params.get("wait"))
        try:
            stream_request = await open_request(request, context, self._streaming.terminal_closes)
        except StreamRejected as ended:
            await send_json(send, 410, close_frame(ended.code, ended.reason))
            return
        hello = await self._as_before(stream_request, request.query_params)
        basket = PollTransport(is_late=context.authenticator.lives_s(stream_request.admitted.caller) < REFRESH_S)
        connection = DeviceConnection(context, basket, self._rules, "poll")
        # Between two polls of a named session its device is still there: the lease ends by itself.
        connection.keeps_session = hello.session is not None
        with self._streaming.holding(connection):
            connection.open(stream_request.admitted, hello)
            await _wait(basket, wait_s, receive)
            # What is written from here on is not of this answer: its cursor would not know of it.
            frames, cursor = tuple(basket.frames), connection.cursor or _own(hello)
            rests = connection.keeps_session and connection.is_present and basket.code is None
        uncounted = context.registry.current.uncounted
        if rests:
            await context.presence.park(connection)
        await self._streaming.note(stream_request, basket.code, connection)
        ticket = await next_ticket(stream_request, context)
        await send_json(send, 200, _answer(frames, cursor, uncounted, ticket))

    async def _as_before(self, stream_request: StreamRequest, query: QueryParams) -> Hello:
        """A poll that does not say whether its device is in the foreground leaves that as it was."""
        hello, caller = stream_request.hello, stream_request.admitted.caller
        if hello.session is None or stream_request.admitted.observes or "foreground" in query:
            return hello
        devices, now_us = self._streaming.context.store.devices, self._streaming.context.clock.now_us()
        before = await devices.session(caller.uid, caller.device, hello.session, now_us)
        return hello if before is None else replace(hello, foreground=before.foreground)


def read_wait(text: str | None) -> float:
    """Seconds to wait, 0 to 55. ``Problem`` ``invalid``."""
    if text is None:
        return WAIT_S
    if _NUMBER.fullmatch(text) is None or float(text) > MOST_WAIT_S:
        raise Problem("invalid", f"wait is a number of seconds, 0 to {MOST_WAIT_S}.")
    return float(text)


def _own(hello: Hello) -> str:
    """Where the client stands by its own word: it stays there where the answer is a close alone."""
    given = hello.position.cursor
    return str(given) if given not in (None, VOID) else ""


async def _wait(basket: PollTransport, wait_s: float, receive: Receive) -> None:
    """Until the copy is known to be good or not, then until there is a frame, the time is up, or nobody listens."""
    try:
        async with asyncio.timeout(JOIN_S):
            await basket.is_confirmed.wait()
    except TimeoutError:
        raise Unavailable("the first read takes too long") from None
    if basket.has_news.is_set() or not wait_s:
        return
    gone = asyncio.ensure_future(_gone(receive))
    news = asyncio.ensure_future(basket.has_news.wait())
    try:
        await asyncio.wait((gone, news), timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        gone.cancel()
        news.cancel()


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _answer(frames: Sequence[bytes], cursor: str, uncounted: Sequence[str], ticket: str | None) -> bytes:
    context = [b'{"frames":[%s]' % b",".join(frames)]
    if cursor:
        context.append(b',"cursor":"%s"' % cursor.encode())
    context.append(b',"uncounted":' + encode(uncounted))
    if ticket is not None:
        context.append(b',"ticket":"%s"' % ticket.encode())
    return b"".join(context) + b"}"
