"""HTTP middleware: request ids, CORS, metrics, and problem responses for exceptions."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NoReturn

from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gregor.auth.access_problem import failure_reason
from gregor.core.errors import Problem, drop_tracebacks
from gregor.metrics.process import Metrics
from gregor.net.origins import Origins
from gregor.store.contract.store import Unavailable
from gregor.store.deleted_users import user_id_hash
from gregor.telemetry import LimitedLog, request_id, traceback_log

from .http_admission import CALLER, AnonymousLimit
from .problems import ClientDisconnected, send_problem
from .rate_limit_fields import NOTED, rate_limit_fields
from .readiness import Readiness
from .request import headers_of, path_of

EXPOSED: Final = b"ETag, Gregor-Cursor, Link, Location, RateLimit, RateLimit-Policy, Retry-After"
_PREFLIGHT: Final = (
    (b"access-control-allow-methods", b"GET, HEAD, POST, PUT, PATCH, DELETE"),
    (
        b"access-control-allow-headers",
        b"Authorization, Content-Type, Gregor-Durability, Idempotency-Key, If-None-Match, Last-Event-ID, X-Request-Id",
    ),
    (b"access-control-max-age", b"7200"),
)
SECURITY_HEADERS: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"content-security-policy", b"frame-ancestors 'none'"),
    (b"cache-control", b"no-store"),
)
"""Headers of every response, unless it sets its own value.

Browsers then do not guess the media type, send no address in Referer, and allow no frame. Caches store no copy: a proxy
could serve the data of one user to another.
"""
_SECURITY_NAMES: Final = frozenset(name for name, _ in SECURITY_HEADERS)
REFUSALS: Final = frozenset({401, 403, 429})
"""Statuses of requests that are refused for their caller. Each is a line of the log, up to a rate."""
METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class ResponseSender:
    """Sends the response of one request: adds the common headers, and records the status once it is sent."""

    __slots__ = ("_extra", "_is_head", "_limits", "_send", "status")

    def __init__(
        self, send: Send, extra: list[tuple[bytes, bytes]], is_head: bool, limits: Mapping[str, tuple[bytes, bytes]]
    ) -> None:
        self._send = send
        self._limits = limits
        self._extra = extra
        self._is_head = is_head
        self.status = 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = message.get("headers", ())
            if self._limits:
                headers = [*headers, *rate_limit_fields(self._limits)]
            message["headers"] = [*headers, *self._extra, *security_headers(headers)]
        elif self._is_head:
            message = {**message, "body": b""}
        await self._send(message)


def security_headers(headers: Iterable[tuple[bytes, bytes]]) -> Iterable[tuple[bytes, bytes]]:
    """Return the security headers that a response does not set itself."""
    own = _SECURITY_NAMES.intersection([name for name, _ in headers])
    return [pair for pair in SECURITY_HEADERS if pair[0] not in own] if own else SECURITY_HEADERS


class HttpMiddleware:
    """The outermost ASGI application, around routing and handlers."""

    def __init__(
        self,
        app: ASGIApp,
        origins: Origins,
        metrics: Metrics,
        methods: Callable[[str], Sequence[str]],
        readiness: Readiness,
        limit: AnonymousLimit,
        *,
        allow_credentials: bool = False,
        any_origin_prefixes: tuple[str, ...] = (),
    ) -> None:
        """``methods`` returns the methods of a path. ``allow_credentials`` lets allowed origins send cookies.

        Below ``any_origin_prefixes`` every origin is allowed: these paths are public, or contain their own secret.
        While the process stops, responses close their connection: the next request of the client then finds another
        process.
        """
        self._readiness = readiness
        self._limit = limit
        self._any_origin_prefixes = any_origin_prefixes
        self._app = app
        self._methods = methods
        self._allow_credentials = allow_credentials
        self._origins = origins
        self._requests = metrics.requests
        self._seconds = metrics.request_seconds
        self._metrics = metrics
        self._outages = LimitedLog()
        self._failures = traceback_log()
        self._children: dict[tuple[str, str, int], tuple[Any, Any]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one HTTP request, or pass on another ASGI scope such as ``lifespan``."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = time.perf_counter()
        headers = headers_of(scope)
        identity = request_id(headers.get(b"x-request-id", b"").decode("latin-1") or None)
        # Without `Vary`, a cache could serve a response without CORS headers to a web page.
        extra = [(b"x-request-id", identity.encode()), (b"vary", b"Origin")]
        if self._readiness.stopping:
            extra.append((b"connection", b"close"))
        method = scope["method"]
        # A HEAD request runs the GET handler; ResponseSender drops the body.
        limits: dict[str, tuple[bytes, bytes]] = {}
        response = ResponseSender(send, extra, method == "HEAD", limits)
        inner = {
            **scope,
            "method": "GET" if method == "HEAD" else method,
            "gregor.headers": headers,
            "gregor.request_id": identity,
            "gregor.is_head": method == "HEAD",
            NOTED: limits,
        }
        self._metrics.in_flight += 1
        try:
            self._admit(inner, extra)
            if method == "OPTIONS":
                await _options(response, self._methods(inner["path"]))
            else:
                await self._app(inner, receive, response)
        except ClientDisconnected:
            pass  # a response would go nowhere
        except Exception as error:
            begun += await self._answer_error(error, inner, identity, receive, response)
        finally:
            self._metrics.in_flight -= 1
        self._limit.count(inner, response.status)
        self._count(inner.get("gregor.operation", "none"), method, response.status, time.perf_counter() - begun)

    def _admit(self, scope: Scope, extra: list[tuple[bytes, bytes]]) -> None:
        """Check the limit of the client and the origin, and decode the path. Raises ``Problem``."""
        headers = scope["gregor.headers"]
        # Before the limit: a page must be able to read its refusal.
        is_allowed = scope["path"].startswith(self._any_origin_prefixes) or self._allow_origin(headers, extra)
        self._limit.check(scope)
        scope["path"] = path_of(scope)
        if not is_allowed:
            self._refuse_origin(headers)

    def _allow_origin(self, headers: Mapping[bytes, bytes], extra: list[tuple[bytes, bytes]]) -> bool:
        """Return whether the origin of a request is allowed, and add the CORS headers of its response to ``extra``."""
        origin = headers.get(b"origin")
        if origin is None:
            return True
        if not self._origins.allows(origin.decode("latin-1"), headers.get(b"host", b"").decode("latin-1")):
            return False
        extra.append((b"access-control-allow-origin", origin))
        extra.append((b"access-control-expose-headers", EXPOSED))
        if self._allow_credentials:
            extra.append((b"access-control-allow-credentials", b"true"))
        return True

    def _refuse_origin(self, headers: Mapping[bytes, bytes]) -> NoReturn:
        shown = headers[b"origin"].decode("latin-1")[:200]
        self._metrics.refuse_origin(shown)
        raise Problem("origin_not_allowed", f"The origin {shown} is not in the setting GREGOR_ORIGINS. Add it there.")

    async def _answer_error(
        self, error: Exception, scope: Scope, identity: str, receive: Receive, response: ResponseSender
    ) -> float:
        """Answer with a problem, after a delay if the address of the client has many. Returns the delay in seconds."""
        try:
            delay_s = await self._limit.pace(scope, receive)  # the histogram must not count it
            await self._send_problem(error, scope, identity, response)
        finally:
            drop_tracebacks(error)
        return delay_s

    async def _send_problem(self, error: Exception, scope: Scope, identity: str, response: ResponseSender) -> None:
        if isinstance(error, Unavailable):
            problem = error.problem()
            self._log_outage(error, scope, identity)
        elif isinstance(error, Problem):
            problem = error
        else:
            # A client may cause the same error again and again.
            self._failures.record("request.failed", time.monotonic(), "error", request_id=identity, exc_info=error)
            problem = Problem("internal", "Internal server error. Search the server log for the request id.")
        if problem.status in REFUSALS and problem.code != "origin_not_allowed":
            self._log_refusal(problem, scope, identity)
        if response.status:
            # The response has started. Only a broken connection can signal to the client that it is incomplete.
            raise ConnectionAbortedError("the response was aborted after an error")
        has_token = scope["gregor.headers"].get(b"authorization", b"").lower().startswith(b"bearer ")
        await send_problem(response, problem, identity, has_token=has_token)

    def _log_refusal(self, problem: Problem, scope: Scope, identity: str) -> None:
        peer, client = scope.get("client"), self._limit.address_of(scope)
        # A valid key without the permission has no caller yet: the problem names it.
        kind, identity_of_caller = scope.get(CALLER, ("key_id", getattr(problem, "key_id", None)))
        # Logs must not contain user ids.
        caller = user_id_hash(identity_of_caller) if kind == "user" else identity_of_caller
        self._metrics.refusals.record(
            "request.refused",
            time.monotonic(),
            status=problem.status,
            code=problem.code,
            reason=failure_reason(problem, problem.code),
            operation=scope.get("gregor.operation", "none"),
            request_id=identity,
            peer=peer[0] if peer else None,
            client=None if client is None else str(client),
            **{kind: caller},
        )

    def _log_outage(self, error: Unavailable, scope: Scope, identity: str) -> None:
        """Log why the store did not answer: the client gets a text without the name of a server."""
        operation = scope.get("gregor.operation", "none")
        fields = {"reason": str(error), "operation": operation, "request_id": identity}
        self._outages.record("request.unavailable", time.monotonic(), "warning", **fields)

    def _count(self, operation: str, method: str, status: int, seconds: float) -> None:
        # Clients can send any method; each would become a new label value.
        method = method if method in METHODS else "other"
        key = (operation, method, status)
        # `labels()` takes a lock on every call, hence its results are cached.
        if (children := self._children.get(key)) is None:
            counter = self._requests.labels(operation, method, str(status))
            children = self._children[key] = (counter, self._seconds.labels(operation))
        children[0].inc()
        children[1].observe(seconds)


def allowed_methods(routes: Iterable[BaseRoute], path: str) -> list[str]:
    """Return the methods of a path, sorted, including ``HEAD`` and ``OPTIONS``. Empty if no route matches."""
    matching = [route for route in routes if isinstance(route, Route) and route.path_regex.match(path)]
    # A fixed path, such as /v1/categories/rollback, hides the pattern {name} beside it.
    matching = [route for route in matching if route.path == path] or matching
    methods = {method for route in matching for method in route.methods or ()}
    if not methods:
        return []
    return sorted(methods | {"OPTIONS"} | ({"HEAD"} if "GET" in methods else set()))


async def _options(response: ResponseSender, methods: Sequence[str]) -> None:
    headers = [(b"allow", ", ".join(methods or ["OPTIONS"]).encode()), *_PREFLIGHT]
    await response({"type": "http.response.start", "status": 204, "headers": headers})
    await response({"type": "http.response.body", "body": b""})
