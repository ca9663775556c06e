"""The door of the process: request ids, origins, figures; and whatever is raised inside leaves as a problem."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import structlog
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gregor.core.errors import Problem
from gregor.net.origins import Origins
from gregor.store.contract.store import Unavailable
from gregor.telemetry import Metrics, request_id

from .problems import ClientDisconnected, send_problem
from .request import headers_of, path_of

log = structlog.get_logger(__name__)

EXPOSED: Final = b"ETag, Gregor-Cursor, Link, Retry-After"
_PREFLIGHT: Final = (
    (b"access-control-allow-methods", b"GET, HEAD, POST, PUT, PATCH, DELETE"),
    (
        b"access-control-allow-headers",
        b"Authorization, Content-Type, Idempotency-Key, If-None-Match, Last-Event-ID, X-Request-Id",
    ),
    (b"access-control-max-age", b"7200"),
)
METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class ResponseSender:
    """The sending side of one request: adds the headers of every answer, and knows whether one has begun."""

    __slots__ = ("_extra", "_is_head", "_send", "status")

    def __init__(self, send: Send, extra: list[tuple[bytes, bytes]], is_head: bool) -> None:
        self._send = send
        self._extra = extra
        self._is_head = is_head
        self.status = 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [*message.get("headers", ()), *self._extra]
        elif self._is_head:
            message = {**message, "body": b""}
        await self._send(message)


class HttpMiddleware:
    """Wraps the application; the outermost thing that sees a request."""

    def __init__(
        self,
        app: ASGIApp,
        origins: Origins,
        metrics: Metrics,
        methods: Callable[[str], Sequence[str]],
        *,
        has_cookies: bool = False,
        anywhere: str = "",
    ) -> None:
        """``methods``: of a path, what it takes. ``has_cookies``: allowed pages may have theirs sent along.

        ``anywhere``: a beginning of paths that any page may lead to, since the path itself is the key.
        """
        self._anywhere = anywhere
        self._app = app
        self._methods = methods
        self._has_cookies = has_cookies
        self._origins = origins
        self._requests = metrics.requests
        self._seconds = metrics.request_seconds
        self._children: dict[tuple[str, str, int], tuple[Any, Any]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or whatever else the server asks."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = time.perf_counter()
        headers = headers_of(scope)
        identity = request_id(headers.get(b"x-request-id", b"").decode("latin-1") or None)
        # Vary always: an answer to no page lacks the headers that a page needs, and a cache must not give it to one.
        extra = [(b"x-request-id", identity.encode()), (b"vary", b"Origin")]
        method = scope["method"]
        # Whoever may GET may HEAD: the same answer without its body.
        answer = ResponseSender(send, extra, method == "HEAD")
        inner = {
            **scope,
            "path": path_of(scope),
            "method": "GET" if method == "HEAD" else method,
            "gregor.headers": headers,
            "gregor.is_head": method == "HEAD",
        }
        try:
            if not self._anywhere or not inner["path"].startswith(self._anywhere):
                self._admit_origin(headers, extra)
            if method == "OPTIONS":
                await _options(answer, self._methods(inner["path"]))
            else:
                await self._app(inner, receive, answer)
        except ClientDisconnected:
            pass
        except Exception as error:
            await self._refuse(error, inner, identity, answer)
        self._count(inner.get("gregor.operation", "none"), method, answer.status, time.perf_counter() - begun)

    def _admit_origin(self, headers: Mapping[bytes, bytes], extra: list[tuple[bytes, bytes]]) -> None:
        origin = headers.get(b"origin")
        if origin is None:
            return
        if not self._origins.allows(origin.decode("latin-1"), headers.get(b"host", b"").decode("latin-1")):
            raise Problem("origin_not_allowed", "This page's origin is not in the setting ORIGINS.")
        extra.append((b"access-control-allow-origin", origin))
        extra.append((b"access-control-expose-headers", EXPOSED))
        if self._has_cookies:
            extra.append((b"access-control-allow-credentials", b"true"))

    async def _refuse(self, error: Exception, scope: Scope, identity: str, answer: ResponseSender) -> None:
        if isinstance(error, Unavailable):
            problem = error.problem()
        elif isinstance(error, Problem):
            problem = error
        else:
            log.error("A request failed.", request_id=identity, exc_info=error)
            problem = Problem("internal", "A fault of the server; the request id finds it in the logs.")
        if answer.status:
            # Half an answer is out: all that is left is to break it off, so that nobody takes it for whole.
            raise ConnectionAbortedError("the answer was broken off")
        has_token = scope["gregor.headers"].get(b"authorization", b"").lower().startswith(b"bearer ")
        await send_problem(answer, problem, identity, has_token=has_token)

    def _count(self, operation: str, method: str, status: int, seconds: float) -> None:
        method = method if method in METHODS else "other"
        key = (operation, method, status)
        if (children := self._children.get(key)) is None:
            counter = self._requests.labels(operation, method, str(status))
            children = self._children[key] = (counter, self._seconds.labels(operation))
        children[0].inc()
        children[1].observe(seconds)


def methods_at(routes: Iterable[BaseRoute], path: str) -> list[str]:
    """What a path takes, sorted, ``HEAD`` and ``OPTIONS`` among it; nothing where no route has it."""
    matching = [route for route in routes if isinstance(route, Route) and route.path_regex.match(path)]
    # A path of its own, such as /v1/categories/rollback, hides the pattern {name} beside it.
    matching = [route for route in matching if route.path == path] or matching
    methods = {method for route in matching for method in route.methods or ()}
    if not methods:
        return []
    return sorted(methods | {"OPTIONS"} | ({"HEAD"} if "GET" in methods else set()))


async def _options(answer: ResponseSender, methods: Sequence[str]) -> None:
    headers = [(b"allow", ", ".join(methods or ["OPTIONS"]).encode()), *_PREFLIGHT]
    await answer({"type": "http.response.start", "status": 204, "headers": headers})
    await answer({"type": "http.response.body", "body": b""})
