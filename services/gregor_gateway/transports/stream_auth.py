"""Authentication of streams and polls: bearer token, ticket or cookie."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from starlette.requests import Request

from gregor.auth.access_problem import AccessProblem
from gregor.auth.device_tokens import Caller, KeyNotLoaded
from gregor.core.errors import Problem
from gregor.core.ids import Prefixes, intersect
from gregor.store.contract.access import is_ticket
from gregor.web.http_admission import CALLER
from gregor.web.problems import HttpProblem
from gregor.web.request import CONFIRM_AFTER_S
from gregor_gateway.context import GatewayContext
from gregor_gateway.protocol.hello import Hello, read_query
from gregor_gateway.protocol.server_frames import close_of
from gregor_gateway.sessions.authenticator import (
    NO_END_US,
    AuthenticatedCaller,
    category_filter_of,
    close_for,
    invalid_ticket,
    revoked_token,
)
from gregor_gateway.sessions.terminal_closes import StreamCredential, TerminalCloses

UNREAD_RETRY_S: Final = 5.0
"""Delay before a device with too many unread responses may join. Each ends within minutes (``http_limits``)."""
COOKIE: Final = "gregor_token"
HOST_COOKIE: Final = "__Host-gregor_token"
"""The same cookie under a name that no other host of the domain can set (RFC 6265bis, 4.1.3.2)."""
MAX_COOKIE_BYTES: Final = 8_192
"""Largest Cookie header that is read: a token of the usual size beside the other cookies of a site."""
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


class JoinRefused(Exception):
    """The device joins too often, or does not read its responses: it may join again in ``wait_s``.

    ``limits``: the categories of its token. ``limit``: the label of the metric, ``joins`` or ``unread``.
    """

    def __init__(self, wait_s: float, hello: Hello, limits: Prefixes, limit: str = "joins") -> None:
        super().__init__(wait_s)
        self.wait_s = wait_s
        self.hello = hello
        self.limits = limits
        self.limit = limit


async def open_request(request: Request, context: GatewayContext, terminal_closes: TerminalCloses) -> StreamRequest:
    """Parse and authenticate a request, and take one join of its device.

    Raises ``Problem``, ``StreamRejected``, ``JoinRefused`` or ``Unavailable``.
    """
    try:
        stream_request = await _open_request(request, context, terminal_closes)
    except Problem as problem:
        context.authenticator.count_failure(problem)
        # The answer is 401, which is final for a client unless it has a close that is not.
        if isinstance(problem, KeyNotLoaded):
            code = close_for(problem)
            problem.extra["close"] = {"code": int(code), "reason": code.reason}
        raise
    request.scope[CALLER] = "user", stream_request.authenticated.caller.uid
    return stream_request


async def _open_request(request: Request, context: GatewayContext, terminal_closes: TerminalCloses) -> StreamRequest:
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
    # The cookie comes last: a page may send it without being asked (CSRF), so it opens only streams.
    token, ticket = bearer(request), query.get("ticket")
    if token is None and ticket is None:
        token = read_cookie(request.headers.get("cookie", ""))
        if token is not None:
            _check_page(request, context)
    if token is None and ticket is not None:
        return await _with_ticket(ticket, request, context, terminal_closes)
    caller = await _verified(token, context)
    # Only for a known caller: a query has room for 200 long filters.
    hello = _read_hello(request)
    # Before the request costs a command of Redis.
    if (wait_s := context.join_rates.wait_s(caller.uid, caller.device, context.timers.now)) > 0:
        raise JoinRefused(wait_s, hello, caller.category_filter)
    credential = await _not_closed(token or "", hello, terminal_closes)
    await _check_revocation(caller, context)
    _take_join(caller.uid, caller.device, caller.category_filter, hello, context)
    return StreamRequest(AuthenticatedCaller(caller), hello, credential)


async def _with_ticket(
    ticket: str, request: Request, context: GatewayContext, terminal_closes: TerminalCloses
) -> StreamRequest:
    # A text that cannot be a ticket must not cost a command of Redis.
    if not is_ticket(ticket):
        raise invalid_ticket()
    # Before the ticket is spent: a mistake in the query must not use it up.
    hello = _read_hello(request)
    unspent = await context.authenticator.unspent(ticket)
    if unspent is None:
        await _not_closed(ticket, hello, terminal_closes)
        raise invalid_ticket()
    # Before the ticket is spent: a refused client repeats it. A next ticket would cost Redis more than the refusal.
    key_rate = unspent.claims.get("rate")
    _take_join(unspent.uid, unspent.holder, category_filter_of(unspent), hello, context, key_rate)
    authenticated = await context.authenticator.spend(ticket)
    return StreamRequest(authenticated, _narrowed(hello, authenticated), StreamCredential.of(ticket, hello.session))


def _take_join(
    uid: str, holder: str, limits: Prefixes, hello: Hello, context: GatewayContext, key_rate: float | None = None
) -> None:
    """Take a join of a device, or of the service key of an observer (``key_rate``: its ``rate``).

    Raises ``JoinRefused`` if none is left, or if too many of its responses are unread.
    """
    if context.unread_responses.count(uid, holder) >= context.limits.connections:
        raise JoinRefused(UNREAD_RETRY_S, hello, limits, "unread")
    # Taken, not only checked: otherwise all requests pass that arrive before one of them joins.
    wait_s = context.join_rates.take(uid, holder, context.timers.now, key_rate)
    if wait_s > 0:
        raise JoinRefused(wait_s, hello, limits)


def _read_hello(request: Request) -> Hello:
    """Return the hello in the query. Raises ``Problem`` if it is invalid."""
    return read_query(request.query_params.multi_items(), request.headers.get("last-event-id"))


async def _not_closed(text: str, hello: Hello, terminal_closes: TerminalCloses) -> StreamCredential:
    """Return the credential of a token or ticket. Raises ``StreamRejected`` if it was closed for good."""
    credential = StreamCredential.of(text, hello.session)
    code = await terminal_closes.find(credential)
    if code is not None:
        raise StreamRejected(code)
    return credential


async def authenticate_token(token: str | None, context: GatewayContext) -> Caller:
    """Return the caller of a device token.

    Raises ``Problem``: ``unauthorised``, or ``forbidden`` for a service key.
    """
    try:
        caller = await _verified(token, context)
        await _check_revocation(caller, context)
    except Problem as problem:
        context.authenticator.count_failure(problem)
        raise
    return caller


class RequestToken:
    """The device token of a request, which is authenticated again while the request is served."""

    def __init__(self, token: str | None, context: GatewayContext) -> None:
        self._token = token
        self._context = context
        self._authenticated_s = 0.0
        self._refusal: Problem | None = None

    async def authenticate(self) -> Caller:
        """See ``authenticate_token``."""
        began_s = self._context.clock.monotonic()
        caller = await authenticate_token(self._token, self._context)
        self._authenticated_s = began_s
        return caller

    async def confirm(self) -> None:
        """Authenticate again if the last time is longer ago than ``CONFIRM_AFTER_S``. Call it before each act.

        Raises ``Problem`` as ``authenticate_token``: from then on at each call, without another read.
        """
        if self._refusal is not None:
            raise replace(self._refusal)
        if self._context.clock.monotonic() - self._authenticated_s >= CONFIRM_AFTER_S:
            try:
                await self.authenticate()
            except Problem as problem:
                # A copy, because the traceback of the problem refers to this object: a reference cycle.
                self._refusal = replace(problem)
                raise


async def _verified(token: str | None, context: GatewayContext) -> Caller:
    """Return the caller of a signed token. It costs no command of Redis: a stranger can send any number of them."""
    if token is None:
        detail = "Send a device token: Authorization: Bearer <token>, or a ticket."
        raise AccessProblem("unauthorised", detail, reason="missing")
    if token.startswith("gk_"):
        detail = "A service key opens a stream with a ticket: POST /v1/tickets."
        raise AccessProblem("forbidden", detail, reason="key_scope")
    return await context.authenticator.verify(token)


async def _check_revocation(caller: Caller, context: GatewayContext) -> None:
    if await context.authenticator.is_revoked(caller):
        raise revoked_token()


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


# ---- cookies


def read_cookie(header: str) -> str | None:
    """Return the token in a Cookie header; ``None`` without one. Raises ``Problem`` if the header is too large.

    If a name is repeated, its last value counts, as in ``http.cookies``.
    """
    # By hand: SimpleCookie takes quadratic time for escaped quotes (CVE-2024-7592: 2.4 s for 60 KB).
    if len(header) > MAX_COOKIE_BYTES:
        detail = f"The header Cookie has {len(header)} bytes; the limit is {MAX_COOKIE_BYTES}. Delete other cookies."
        raise Problem("invalid", detail)
    found: dict[str, str] = {}
    for part in header.split(";"):
        name, is_pair, value = part.partition("=")
        if is_pair and name.strip() in (COOKIE, HOST_COOKIE):
            found[name.strip()] = _unquoted(value.strip())
    return found.get(HOST_COOKIE) or found.get(COOKIE) or None


def _unquoted(value: str) -> str:
    return value[1:-1] if len(value) >= 2 and value[0] == value[-1] == '"' else value


def _check_page(request: Request, context: GatewayContext) -> None:
    """Check that a page of ours sends the cookie. Raises ``Problem`` ``origin_not_allowed``.

    Browsers add the cookie to the images, scripts and links of foreign pages too, without an Origin.
    """
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    if site == "same-origin":
        return
    if origin is not None and context.origins.lists(origin):
        return
    # Browsers that send no Sec-Fetch-Site. The scheme counts: anybody in the network can alter a page over http.
    if site is None and origin is not None and _is_own_secure_page(origin, request, context):
        return
    raise Problem(
        "origin_not_allowed",
        "The cookie is accepted only from pages of this host (Sec-Fetch-Site: same-origin) or of GREGOR_ORIGINS. "
        "Other clients send the token in the header Authorization.",
    )


def _is_own_secure_page(origin: str, request: Request, context: GatewayContext) -> bool:
    scheme = "http" if (context.settings.public_url or "").startswith("http://") else "https"
    host = request.headers.get("host", "")
    return origin.lower().startswith(f"{scheme}://") and context.origins.allows(origin, host)


def _narrowed(hello: Hello, authenticated: AuthenticatedCaller) -> Hello:
    """Narrow the view of a ticket by the query."""
    return replace(
        hello,
        prefixes=intersect(authenticated.prefixes, hello.prefixes),
        systems=intersect(authenticated.systems, hello.systems),
    )
