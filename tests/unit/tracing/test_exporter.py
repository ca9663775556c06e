"""The exporter sends batches, and a collector that is away, hangs or refuses costs only the spans."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

import pytest
from prometheus_client import CollectorRegistry

from gregor.tracing import names
from gregor.tracing.exporter import MAX_QUEUED, OtlpExporter
from gregor.tracing.tracer import Span, SpanKind, Tracer
from tests.support.fake_collector import FakeCollector
from tests.support.ports import free_port
from tests.support.wait import wait_until

INTERVAL_S = 0.01
ENDLESS_BYTES = 64 * 1_048_576


class Traced:
    """A tracer that records everything, with its exporter and its metrics."""

    def __init__(self, url: str) -> None:
        self.registry = CollectorRegistry()
        self.exporter = OtlpExporter(url, "ingest", self.registry, INTERVAL_S)
        self.tracer = Tracer(self.exporter, 1.0)

    def record(self, count: int = 1) -> Span:
        ended = []
        for _ in range(count):
            span = self.tracer.start(names.SEND_MESSAGE, SpanKind.SERVER)
            assert span is not None
            span.end()
            ended.append(span)
        return ended[-1]

    def count(self, outcome: str) -> float:
        return self.registry.get_sample_value("gregor_trace_spans_total", {"outcome": outcome}) or 0


async def test_span_arrives_with_its_fields() -> None:
    async with FakeCollector() as collector:
        traced = Traced(collector.url)
        root = traced.record()
        child = root.child(names.COMMIT, SpanKind.CLIENT)
        child.attributes |= {names.CONNECTIONS: 3, names.EFFECT: "effect"}
        child.error = "unavailable"
        child.end()
        await wait_until(lambda: len(collector.spans) == 2, "both spans")
        await traced.tracer.close()

    first, second = collector.spans
    assert (first.service, first.name, first.trace_id) == (
        "gregor-ingest",
        names.SEND_MESSAGE,
        root.context.trace_id.hex(),
    )
    assert first.document["kind"] == SpanKind.SERVER and "parentSpanId" not in first.document
    assert second.document["parentSpanId"] == root.context.span_id.hex()
    assert second.attributes == {names.CONNECTIONS: "3", names.EFFECT: "effect"}
    assert second.document["status"] == {"code": 2, "message": "unavailable"}
    assert traced.count("exported") == 2


async def test_close_sends_what_is_queued() -> None:
    async with FakeCollector() as collector:
        traced = Traced(collector.url)
        traced.record(3)
        await traced.tracer.close()

        assert len(collector.spans) == 3


@pytest.mark.parametrize(("status", "outcome"), [(503, "refused"), (400, "refused")])
async def test_refused_spans_are_counted(status: int, outcome: str) -> None:
    async with FakeCollector() as collector:
        collector.status = status
        traced = Traced(collector.url)
        traced.record()
        await wait_until(lambda: traced.count(outcome) == 1, "the span is counted")
        collector.status = 200
        traced.record()
        await wait_until(lambda: len(collector.spans) == 1, "the next one arrives")
        await traced.tracer.close()


async def test_missing_collector_loses_spans_only() -> None:
    traced = Traced(f"http://127.0.0.1:{free_port()}")
    traced.record(2)
    await wait_until(lambda: traced.count("lost") == 2, "the spans are counted")
    await traced.tracer.close()


async def test_hanging_collector_bounds_the_queue() -> None:
    async with FakeCollector() as collector:
        collector.hangs = True
        traced = Traced(collector.url)
        traced.record()
        await wait_until(lambda: collector.requests == 1, "the request is sent")
        traced.record(MAX_QUEUED + 5)

        assert traced.count("dropped") == 5
        began = time.monotonic()
        await traced.tracer.close()
        assert time.monotonic() - began < 3


async def test_endless_answer_is_not_read() -> None:
    """A collector that never ends its answer must neither fill the memory nor hold the exporter."""
    sent = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        with suppress(ConnectionError):
            while sent < ENDLESS_BYTES:
                writer.write(b"10000\r\n" + bytes(65_536) + b"\r\n")
                sent += 65_536
                await writer.drain()
        writer.close()
        ended.set()

    ended = asyncio.Event()
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    traced = Traced(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    traced.record()
    await wait_until(lambda: traced.count("exported") == 1, "the span is counted")
    await traced.tracer.close()
    await ended.wait()
    server.close()

    assert sent < ENDLESS_BYTES
