"""Long poll, ``GET /v1/poll``: the frames of a session, one response at a time."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from gregor.core.close_codes import CloseCode
from gregor.core.errors import Problem
from gregor.core.ids import intersect
from gregor.core.items.announcement import CreationFrame
from gregor.core.rate_limit import Allowance
from gregor.store.contract.devices import DeviceSession
from gregor.store.contract.store import Unavailable
from gregor.web.rate_limit_fields import note_limit
from gregor_gateway.connection.connection import DeviceConnection
from gregor_gateway.protocol.deadlines import REFRESH_S
from gregor_gateway.protocol.hello import VOID, Hello
from gregor_gateway.protocol.server_frames import REFRESH, close_frame, encode

from .http_connections import StreamConnections, send_json
from .stream_auth import JoinRefused, StreamRejected, StreamRequest, next_ticket, open_request

MAX_WAIT_S: Final = 55
"""Below the timeout of one minute that many proxies have."""
WAIT_S: Final = 25
_NUMBER: Final = re.compile(r"[0-9]{1,3}(\.[0-9]{1,9})?")
JOIN_S: Final = 10.0
"""How long the first read may take."""


# ---- transport


class PollTransport:
    """The transport of one poll: collects frames until the response is sent."""

    def __init__(self, *, is_late: bool = False) -> None:
        """``is_late``: the token expires soon, which the client has learned from an earlier poll."""
        self.frames: list[bytes] = []
        self._is_late = is_late
        self.is_confirmed = asyncio.Event()
        self.has_frames = asyncio.Event()
        self.code: int | None = None

    def pack(self, frame: bytes, tag: str, seq: int) -> bytes:
        """See ``Transport.pack``."""
        return frame

    def write_run(self, run: Sequence[CreationFrame], tag: str) -> int:
        """See ``Transport.write_run``."""
        return self.write([creation.frame for creation in run])

    def write(self, packed: Sequence[bytes]) -> int:
        """See ``Transport.write``."""
        self.frames += packed
        self.is_confirmed.set()
        # A refresh alone does not end the wait: otherwise every poll of the token's last minute would return at once.
        if not self._is_late or any(not frame.startswith(REFRESH) for frame in packed):
            self.has_frames.set()
        return sum(map(len, packed))

    def close(self, code: int, reason: str) -> None:
        """See ``Transport.close``."""
        self.code = code
        self.write([close_frame(code, reason)])

    def confirmed(self) -> None:
        """See ``Transport.confirmed``."""
        self.is_confirmed.set()

    def hold_reading(self, is_held: bool) -> None:
        """See ``Transport.hold_reading``: a poll sends no frames."""


# ---- endpoint


class PollEndpoint:
    """The endpoint, as an ASGI application."""

    def __init__(self, streams: StreamConnections) -> None:
        self._streams = streams
        self._rules = streams.context.rules(pings=False, welcomes=False, sends_unchanged=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Respond when there is a frame or the wait has passed."""
        scope["gregor.operation"] = "poll"
        context, request = self._streams.context, Request(scope, receive)
        wait_s = read_wait(request.query_params.get("wait"))
        try:
            stream_request = await open_request(request, context, self._streams.terminal_closes)
        except JoinRefused as refused:
            await self._refuse(scope, refused, send)
            return
        except StreamRejected as rejected:
            await send_json(send, 410, close_frame(rejected.code, rejected.reason))
            return
        hello, kept = stream_request.hello, await self._kept_foreground(stream_request, request.query_params)
        transport = PollTransport(
            is_late=context.authenticator.lives_s(stream_request.authenticated.caller) < REFRESH_S
        )
        connection = DeviceConnection(context, transport, self._rules, "poll")
        connection.request_id = scope["gregor.request_id"]
        connection.is_join_taken = True
        # The session of a named poll stays present until its lease expires.
        connection.keeps_session = hello.session is not None
        if kept is not None:
            hello = replace(hello, foreground=True)
            connection.limit_foreground(kept.issued_us)
        with self._streams.holding(connection):
            connection.open(stream_request.authenticated, hello)
            await _wait(transport, wait_s, receive)
            # Frames written from here on belong to the next response: the cursor of this one does not cover them.
            frames, transport.frames = transport.frames, []
            cursor = connection.cursor or _requested_cursor(hello)
            is_parked = connection.keeps_session and connection.is_present and transport.code is None
        # Before the response: the next poll may arrive as soon as the client has it.
        if is_parked:
            await context.presence.park(connection)
        await self._streams.note(stream_request, transport.code, connection)
        # A new ticket would let the client of a revoked token poll on, instead of getting the final 410.
        ticket = None if transport.code == CloseCode.REVOKED else await next_ticket(stream_request, context)
        await self._respond(scope, stream_request, frames, cursor, ticket, send)

    async def _respond(
        self,
        scope: Scope,
        stream_request: StreamRequest,
        frames: list[bytes],
        cursor: str,
        ticket: str | None,
        send: Send,
    ) -> None:
        """Send the frames, and wait until the client has read a large response. Empties ``frames``."""
        context, authenticated = self._streams.context, stream_request.authenticated
        uid, holder, limits = authenticated.caller.uid, authenticated.holder, authenticated.caller.category_filter
        note_limit(
            scope, "joins", (context.join_rates.of_device,), context.join_rates.left(uid, holder, context.timers.now)
        )
        uncounted, now_ms = context.registry.current.uncounted_within(limits), context.clock.now_us() // 1_000
        with context.unread_responses.counting(uid, holder):
            await send_json(send, 200, _response_body(frames, cursor, uncounted, now_ms, ticket))

    async def _refuse(self, scope: Scope, refused: JoinRefused, send: Send) -> None:
        """Answer a poll of a device that polls too often, at the position of its request.

        The connection is closed: each further poll needs a new one, which counts for the limits of its address.
        """
        context, wait_s = self._streams.context, refused.wait_s
        note_limit(scope, "joins", (context.join_rates.of_device,), Allowance(wait_s, 0, wait_s))
        close = self._streams.refuse_join(refused)
        uncounted, now_ms = context.registry.current.uncounted_within(refused.limits), context.clock.now_us() // 1_000
        body = _response_body([close], _requested_cursor(refused.hello), uncounted, now_ms, None)
        await send_json(send, 200, body, ((b"connection", b"close"),))

    async def _kept_foreground(self, stream_request: StreamRequest, query: QueryParams) -> DeviceSession | None:
        """Return the stored session if it is in the foreground, and the poll does not say otherwise.

        Also returns ``None`` if the session sees fewer categories than the poll, or if its token is revoked: otherwise
        another token could suppress pushes that it must not suppress.
        """
        hello, caller = stream_request.hello, stream_request.authenticated.caller
        if hello.session is None or stream_request.authenticated.observes or "foreground" in query:
            return None
        devices, now_us = self._streams.context.store.devices, self._streams.context.clock.now_us()
        before = await devices.session(caller.uid, caller.device, hello.session, now_us)
        if before is None or not before.foreground:
            return None
        category_filter = intersect(caller.category_filter, hello.prefixes)
        if intersect(category_filter, before.category_filter) != category_filter:
            return None
        if before.issued_us < caller.iat_us:
            revoked_us = await devices.revoked_before(caller.uid, caller.device)
            if revoked_us is not None and before.issued_us <= revoked_us:
                return None
        return before


# ---- helpers of the endpoint


def read_wait(text: str | None) -> float:
    """Return the seconds to wait, 0 to 55. Raises ``Problem`` ``invalid``."""
    if text is None:
        return WAIT_S
    if _NUMBER.fullmatch(text) is None or float(text) > MAX_WAIT_S:
        raise Problem("invalid", f"wait must be a number of seconds from 0 to {MAX_WAIT_S}.")
    return float(text)


def _requested_cursor(hello: Hello) -> str:
    """Return the cursor of the request: a response with only a close leaves the client there."""
    given = hello.position.cursor
    return str(given) if given not in (None, VOID) else ""


async def _wait(transport: PollTransport, wait_s: float, receive: Receive) -> None:
    """Wait for the sync, then until there is a frame, the time has passed, or the client disconnects."""
    try:
        async with asyncio.timeout(JOIN_S):
            await transport.is_confirmed.wait()
    except TimeoutError:
        raise Unavailable("the first read took too long") from None
    if transport.has_frames.is_set() or not wait_s:
        return
    disconnected = asyncio.ensure_future(_disconnected(receive))
    frames_written = asyncio.ensure_future(transport.has_frames.wait())
    try:
        await asyncio.wait((disconnected, frames_written), timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        disconnected.cancel()
        frames_written.cancel()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _response_body(
    frames: list[bytes], cursor: str, uncounted: Sequence[str], now_ms: int, ticket: str | None
) -> bytes:
    """Return the body of a response. Empties ``frames``."""
    members = [b'{"frames":[%s]' % b",".join(frames)]
    # The client may read for minutes; meanwhile one copy is enough, in the buffer of the server.
    frames.clear()
    if cursor:
        members.append(b',"cursor":"%s"' % cursor.encode())
    members.append(b',"uncounted":' + encode(uncounted) + b',"now":%d' % now_ms)
    if ticket is not None:
        members.append(b',"ticket":"%s"' % ticket.encode())
    return b"".join(members) + b"}"
