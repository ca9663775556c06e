"""Export of spans to a collector: OTLP/HTTP with JSON, in batches, without ever blocking the work that is traced.

The queue is bounded. A collector that is away, slow or full costs the spans, which are counted, and nothing else.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

import httpx
import msgspec
import structlog
from prometheus_client import CollectorRegistry, Counter

from gregor import __version__
from gregor.net.outgoing.http_clients import bounded_client

from .tracer import TRACING_OFF, Span, Tracer

log = structlog.get_logger(__name__)

PATH: Final = "/v1/traces"
MAX_QUEUED: Final = 2_048
BATCH_SIZE: Final = 512
INTERVAL_S: Final = 1.0
"""Time for which spans are collected before a request."""
TIMEOUT_S: Final = 5.0
"""Time for a request, with its answer."""
MAX_ANSWER_BYTES: Final = 16_384
"""Limit of an answer, which is not used: a longer one ends the connection."""
CLOSE_TIMEOUT_S: Final = 1.0
"""Time that the end of a process grants to the last batch."""
_ERROR_STATUS: Final = 2


class OtlpExporter:
    """Sends spans to ``url`` + ``/v1/traces``. ``registry``: of the metrics of the process.

    The background task runs only while spans are queued.
    """

    def __init__(self, url: str, service: str, registry: CollectorRegistry, interval_s: float = INTERVAL_S) -> None:
        self._url = url.rstrip("/") + PATH
        self._resource = _attributes(
            {
                "service.name": f"gregor-{service}",
                "service.version": __version__,
                "service.instance.id": f"{socket.gethostname()}:{os.getpid()}",
            }
        )
        self._interval_s = interval_s
        self._queue: deque[Span] = deque()
        self._task: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()
        self._is_failing = False
        self._http: httpx.AsyncClient | None = None
        spans = Counter(
            "gregor_trace_spans",
            "Spans by outcome: exported, refused or lost (collector), dropped (queue full).",
            ("outcome",),
            registry=registry,
        )
        self._count = {each: spans.labels(each) for each in ("exported", "refused", "lost", "dropped")}

    def add(self, span: Span) -> None:
        """Queue a span; drop it if the queue is full."""
        if len(self._queue) >= MAX_QUEUED:
            self._count["dropped"].inc()
            return
        self._queue.append(span)
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """Send the queued spans, if the collector takes them within a second."""
        self._closing.set()
        if self._task is not None:
            await asyncio.wait([self._task], timeout=CLOSE_TIMEOUT_S)
            self._task.cancel()
            await asyncio.wait([self._task])
        if self._http is not None:
            await self._http.aclose()

    async def _run(self) -> None:
        while self._queue:
            if len(self._queue) < BATCH_SIZE:
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._interval_s):
                        await self._closing.wait()
            await self._send_batch()

    async def _send_batch(self) -> None:
        batch = [self._queue.popleft() for _ in range(min(BATCH_SIZE, len(self._queue)))]
        outcome, reason = "lost", "cancelled"
        try:
            outcome, reason = await self._post(encode_spans(self._resource, batch))
        except (httpx.HTTPError, TimeoutError) as error:
            reason = str(error) or type(error).__name__
        finally:
            self._count[outcome].inc(len(batch))
        if (outcome != "exported") != self._is_failing:
            self._is_failing = outcome != "exported"
            if self._is_failing:
                fix = "check that the collector of GREGOR_TRACE_URL runs and accepts OTLP over HTTP"
                log.warning("traces.not_exported", reason=reason, fix=fix)
            else:
                log.info("traces.exported_again")

    async def _post(self, content: bytes) -> tuple[str, str]:
        if self._http is None:
            self._http = bounded_client(timeout=TIMEOUT_S)
        headers, size = {"Content-Type": "application/json"}, 0
        async with (
            asyncio.timeout(TIMEOUT_S),
            self._http.stream("POST", self._url, content=content, headers=headers) as response,
        ):
            # Only a connection whose answer was read can be used again. It is read as it came, not decompressed.
            async for chunk in response.aiter_raw():
                size += len(chunk)
                if size > MAX_ANSWER_BYTES:
                    break
        if response.is_success:
            return "exported", ""
        return "refused", f"the collector answered {response.status_code}"


def encode_spans(resource: Sequence[Any], spans: Sequence[Span]) -> bytes:
    """Return the request of OTLP/HTTP in JSON. ``resource``: attributes of the process."""
    scope = {"name": "gregor", "version": __version__}
    scoped = {"scope": scope, "spans": [_span_document(span) for span in spans]}
    return msgspec.json.encode({"resourceSpans": [{"resource": {"attributes": resource}, "scopeSpans": [scoped]}]})


def _span_document(span: Span) -> dict[str, Any]:
    document: dict[str, Any] = {
        "traceId": span.context.trace_id.hex(),
        "spanId": span.context.span_id.hex(),
        "name": span.name,
        "kind": span.kind.value,
        "startTimeUnixNano": str(span.start_ns),
        "endTimeUnixNano": str(span.end_ns),
        "attributes": _attributes(span.attributes),
    }
    if span.parent_id:
        document["parentSpanId"] = span.parent_id.hex()
    if span.error:
        document["status"] = {"code": _ERROR_STATUS, "message": span.error}
    return document


def _attributes(values: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"key": name, "value": _value(value)} for name, value in values.items()]


def _value(value: str | int | bool) -> dict[str, Any]:
    if isinstance(value, bool):
        return {"boolValue": value}
    return {"intValue": str(value)} if isinstance(value, int) else {"stringValue": value}


def open_tracer(url: str | None, sample: float, service: str, registry: CollectorRegistry) -> Tracer:
    """Return the tracer of a process. ``url``: of the collector; None if traces are off."""
    return TRACING_OFF if url is None else Tracer(OtlpExporter(url, service, registry), sample)
