"""A fake OpenTelemetry collector: keeps the spans that it gets over OTLP/HTTP, or hangs, or refuses."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self

from tests.support.wait import wait_until


@dataclass(frozen=True)
class CollectedSpan:
    """A span as the collector got it."""

    service: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    attributes: dict[str, Any]
    links: list[str]
    document: dict[str, Any]


class FakeCollector:
    """A collector on a port of this machine. ``status``: of its answers; ``hangs``: it never answers."""

    def __init__(self) -> None:
        self.spans: list[CollectedSpan] = []
        self.bodies: list[bytes] = []
        self.requests = 0
        self.status = 200
        self.hangs = False
        self._connections: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def trace_with(self, *names: str, timeout_s: float = 20) -> dict[str, CollectedSpan]:
        """Wait for a trace that has all these spans, and return them by name."""

        def found() -> dict[str, CollectedSpan] | None:
            for trace_id in {span.trace_id for span in self.spans}:
                of_trace = {span.name: span for span in self.spans if span.trace_id == trace_id}
                if set(names) <= set(of_trace):
                    return of_trace
            return None

        spans: dict[str, CollectedSpan] = await wait_until(
            found,
            lambda: f"a trace with {names}; came: {[(each.service, each.name) for each in self.spans]}",
            timeout_s,
        )
        return spans

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = next(
                    int(line.split(":")[1]) for line in head.split("\r\n") if line.lower().startswith("content-l")
                )
                body = await reader.readexactly(length)
                self.requests += 1
                assert head.startswith("POST /v1/traces ") and "application/json" in head
                if self.hangs:
                    await asyncio.Event().wait()
                if self.status == 200:
                    self.bodies.append(body)
                    self.spans += read_spans(json.loads(body))
                writer.write(f"HTTP/1.1 {self.status} X\r\nContent-Length: 2\r\n\r\n{{}}".encode())
                await writer.drain()
        self._connections.discard(task)
        writer.close()


def read_spans(request: dict[str, Any]) -> list[CollectedSpan]:
    """Return the spans of a request."""
    found = []
    for resource in request["resourceSpans"]:
        service = _values(resource["resource"]["attributes"])["service.name"]
        for scoped in resource["scopeSpans"]:
            for span in scoped["spans"]:
                assert int(span["startTimeUnixNano"]) <= int(span["endTimeUnixNano"])
                found.append(
                    CollectedSpan(
                        service,
                        span["name"],
                        span["traceId"],
                        span["spanId"],
                        span.get("parentSpanId", ""),
                        _values(span["attributes"]),
                        [link["traceId"] for link in span.get("links", ())],
                        span,
                    )
                )
    return found


def _values(attributes: list[dict[str, Any]]) -> dict[str, Any]:
    return {each["key"]: next(iter(each["value"].values())) for each in attributes}
