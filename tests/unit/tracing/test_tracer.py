"""Which traces are recorded, and how spans follow from one another."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.contextvars import get_contextvars

from gregor.core.errors import Problem
from gregor.core.trace_context import parse_traceparent
from gregor.tracing import names
from gregor.tracing.tracer import NOT_SAMPLED, TRACING_OFF, Span, SpanKind, Tracer, current_span

TRACE = "0af7651916cd43dd8448eb211c80319c"
SAMPLED = f"00-{TRACE}-b7ad6b7169203331-01"
NOT_RECORDED = f"00-{TRACE}-b7ad6b7169203331-00"


class Spans:
    """A sink that keeps the spans."""

    def __init__(self) -> None:
        self.ended: list[Span] = []

    def add(self, span: Span) -> None:
        self.ended.append(span)

    async def close(self) -> None:
        pass


def start(tracer: Tracer, traceparent: str | None = None) -> Span | None:
    return tracer.start(names.SEND_MESSAGE, SpanKind.SERVER, traceparent)


@given(drawn=st.floats(0, 1, exclude_max=True), ratio=st.floats(0, 1))
def test_share_of_new_traces_is_the_ratio(drawn: float, ratio: float) -> None:
    assert (start(Tracer(Spans(), ratio, lambda: drawn)) is not None) == (drawn < ratio)


@pytest.mark.parametrize("ratio", [0.0, 1.0])
def test_caller_decides_for_its_trace(ratio: float) -> None:
    tracer = Tracer(Spans(), ratio)
    span = start(tracer, SAMPLED)

    assert span is not None and span.context.trace_id.hex() == TRACE and span.parent_id.hex() == "b7ad6b7169203331"
    assert start(tracer, NOT_RECORDED) is None


def test_malformed_header_starts_a_new_trace() -> None:
    span = start(Tracer(Spans(), 1.0), "nonsense")

    assert span is not None and span.parent_id == b""


def test_process_without_a_collector_records_nothing() -> None:
    assert start(TRACING_OFF, SAMPLED) is None
    assert TRACING_OFF.resume(parse_traceparent(SAMPLED), names.FANOUT, SpanKind.CONSUMER) is None


def test_block_sets_current_span_and_log_field() -> None:
    spans = Spans()
    root = start(Tracer(spans, 1.0))
    assert root is not None
    with root:
        with root.child(names.COMMIT, SpanKind.CLIENT) as child:
            assert current_span() is child
        assert current_span() is root
        assert get_contextvars()["trace_id"] == root.context.trace_id.hex()

    assert current_span() is None and "trace_id" not in get_contextvars()
    assert [span.name for span in spans.ended] == [names.COMMIT, names.SEND_MESSAGE]
    assert child.parent_id == root.context.span_id and child.context.trace_id == root.context.trace_id


def test_error_is_recorded_by_its_code() -> None:
    spans = Spans()
    for error in (Problem("state_full", "The state of alice is full."), KeyError("alice")):
        span = start(Tracer(spans, 1.0))
        with pytest.raises(type(error)), span or NOT_SAMPLED:
            raise error

    assert [span.error for span in spans.ended] == ["state_full", "KeyError"]
    assert "alice" not in str([span.attributes for span in spans.ended])


async def test_tasks_have_their_own_span() -> None:
    tracer = Tracer(Spans(), 1.0)

    async def work() -> bool:
        span = start(tracer)
        with span or NOT_SAMPLED:
            await asyncio.sleep(0)
            return current_span() is span

    assert await asyncio.gather(*(work() for _ in range(5))) == [True] * 5
