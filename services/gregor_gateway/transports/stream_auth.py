"""Authentication of streams and polls: bearer token, ticket or cookie."""

from __future__ import annotations

from dataclasses import dataclass, replace
from http.cookies import CookieError, SimpleCookie
from typing import Final

from starlette.requests import Request

from gregor.auth.device_tokens import Caller
from gregor.core.errors import Problem
from gregor.core.ids import intersect
from gregor.web.problems import HttpProblem
from gregor_gateway.context import GatewayContext
from gregor_gateway.protocol.hello import Hello, read_query
from gregor_gateway.protocol.server_frames import close_of
from gregor_gateway.sessions.authenticator import NO_END_US, AuthenticatedCaller
from gregor_gateway.sessions.terminal_closes import StreamCredential, TerminalCloses

COOKIE: Final = "gregor_token"
HOUR_US: Final = 3_600_000_000


@dataclass(frozen=True, slots=True)
class StreamRequest:
    """An authenticated request for a stream or poll."""

    authenticated: AuthenticatedCaller
    hello: Hello
    credential: StreamCredential


class StreamRejected(Exception):
    """The credential and session were closed for good with ``code``: the stream is not opened again."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code

    @property
    def reason(self) -> str:
        """The reason of the close code."""
        return close_of(self.code)


async def open_request(request: Request, context: GatewayContext, terminal_closes: TerminalCloses) -> StreamRequest:
    """Parse and authenticate a request. Raises ``Problem``, ``StreamRejected`` or ``Unavailable``."""
    if request.scope.get("gregor.is_head"):
        detail = "Streams support only GET, not HEAD."
        raise HttpProblem("method_not_allowed", detail, headers=((b"allow", b"GET, OPTIONS"),))
    if context.readiness.draining:
        raise Problem("unavailable", "This gateway is shutting down; retry to reach another one.", retry_after_s=1)
    query = request.query_params
    if "token" in query:
        raise Problem(
            "unauthorised", "Do not send a token in a URL: use the header Authorization, the cookie, or a ticket."
        )
    hello = read_query(query.multi_items(), request.headers.get("last-event-id"))
    # The cookie comes last: a page may send it without being asked (CSRF), so it opens only streams.
    token, ticket = bearer(request), query.get("ticket")
    if token is None and ticket is None:
        token = _cookie(request)
    credential = StreamCredential.of(token or ticket or "", hello.session)
    code = await terminal_closes.find(credential) if token or ticket else None
    if code is not None:
        raise StreamRejected(code)
    if token is None and ticket is not None:
        authenticated = await context.authenticator.spend(ticket)
        return StreamRequest(authenticated, _narrowed(hello, authenticated), credential)
    return StreamRequest(AuthenticatedCaller(await authenticate_token(token, context)), hello, credential)


async def authenticate_token(token: str | None, context: GatewayContext) -> Caller:
    """Return the caller of a device token.

    Raises ``Problem``: ``unauthorised``, or ``forbidden`` for a service key.
    """
    if token is None:
        raise Problem("unauthorised", "Send a device token: Authorization: Bearer <token>, or a ticket.")
    if token.startswith("gk_"):
        raise Problem("forbidden", "A service key opens a stream with a ticket: POST /v1/tickets.")
    caller = await context.authenticator.verify(token)
    if await context.authenticator.is_revoked(caller):
        raise Problem("unauthorised", "The token was revoked.")
    return caller


def bearer(request: Request) -> str | None:
    """Return the bearer token, ``None`` without the header. Raises ``Problem`` if the header is not a bearer token."""
    header: bytes | None = request.scope["gregor.headers"].get(b"authorization")
    if header is None:
        return None
    scheme, _, token = header.decode("latin-1").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Problem("unauthorised", "The header Authorization must be: Bearer <token>.")
    return token.strip()


async def next_ticket(stream_request: StreamRequest, context: GatewayContext) -> str | None:
    """Return the ticket that replaces the spent one: it can be used once, until the token expires."""
    spent = stream_request.authenticated.ticket
    if spent is None:
        return None
    now_us = context.clock.now_us()
    exp_us = stream_request.authenticated.caller.exp_us
    lives_us = HOUR_US if exp_us >= NO_END_US else max(1, exp_us - now_us)
    return await context.store.access.create_ticket(spent, now_us, lives_us)


def _cookie(request: Request) -> str | None:
    jar: SimpleCookie = SimpleCookie()
    try:
        jar.load(request.headers.get("cookie", ""))
    except CookieError:
        return None
    return jar[COOKIE].value if COOKIE in jar else None


def _narrowed(hello: Hello, authenticated: AuthenticatedCaller) -> Hello:
    """Narrow the view of a ticket by the query."""
    return replace(
        hello,
        prefixes=intersect(authenticated.prefixes, hello.prefixes),
        systems=intersect(authenticated.systems, hello.systems),
    )
