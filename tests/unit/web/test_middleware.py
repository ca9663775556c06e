"""The HTTP middleware: memory of a request that was answered with an error."""

from __future__ import annotations

from starlette.types import Message, Receive, Scope, Send

from gregor.clock import SystemClock
from gregor.core.errors import Problem
from gregor.core.limits import Limits
from gregor.metrics.process import Metrics
from gregor.net.client_address import ClientAddresses
from gregor.net.connection_limits import ConnectionLimiter, ConnectionLimits
from gregor.net.origins import Origins
from gregor.reference.store import MemoryStore
from gregor.store.contract.store import Unavailable
from gregor.web.http_admission import AnonymousLimit, HttpAdmission
from gregor.web.middleware import HttpMiddleware
from gregor.web.readiness import Readiness
from tests.support.kept_errors import garbage_collection_off, kept_errors


async def refuse(_scope: Scope, _receive: Receive, _send: Send) -> None:
    """Raise an error with a cause and a context. Stack frames refer to all three."""
    context, cause, error = Unavailable("first"), Problem("invalid", "second"), Problem("not_found", "third")
    try:
        raise context
    except Unavailable:
        try:
            raise cause
        except Problem:
            raise error from cause


async def test_answered_errors_are_freed() -> None:
    metrics, statuses = Metrics(), list[int]()
    admission = HttpAdmission(ConnectionLimiter(ConnectionLimits()), ClientAddresses(()), print)
    limit, readiness = AnonymousLimit(admission, SystemClock()), Readiness(MemoryStore(Limits()), metrics)
    application = HttpMiddleware(refuse, Origins(()), metrics, lambda _: ("GET",), readiness, limit)

    async def receive() -> Message:
        return {"type": "http.request", "body": b""}

    async def send(message: Message) -> None:
        statuses.append(message.get("status", 0))

    with garbage_collection_off():
        before = kept_errors()
        scope: Scope = {"type": "http", "method": "GET", "path": "/", "raw_path": b"/", "headers": [], "client": None}
        await application(scope, receive, send)

        assert (statuses, kept_errors()) == ([404, 0], before)
