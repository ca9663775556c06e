"""Spans, and the decision about which traces are recorded (parent-based sampling).

A process without a collector has ``TRACING_OFF``. A message that is not sampled has no span: the code tests for
``None`` and does nothing else.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from contextlib import nullcontext
from contextvars import ContextVar, Token
from enum import IntEnum
from types import TracebackType
from typing import Final, Protocol, Self

import structlog

from gregor.core.errors import Problem
from gregor.core.trace_context import TraceContext, parse_traceparent, unpack_trace

from . import names

Attribute = str | int | bool
_current: ContextVar[Span | None] = ContextVar("gregor_span", default=None)


class SpanKind(IntEnum):
    """The role of a span; the numbers are those of OTLP."""

    INTERNAL = 1
    SERVER = 2
    CLIENT = 3
    PRODUCER = 4
    CONSUMER = 5


class SpanSink(Protocol):
    """Receives ended spans."""

    def add(self, span: Span) -> None:
        """Queue a span for the export. Never blocks, and never raises."""

    async def close(self) -> None:
        """Export the queued spans, within a short time."""


class Span:
    """One timed step of a recorded trace. As a context manager it is current inside, and ends with the block.

    An exception ends it with an error. Log events inside have ``trace_id``.
    """

    __slots__ = (
        "_sink",
        "_token",
        "attributes",
        "context",
        "end_ns",
        "error",
        "kind",
        "name",
        "parent_id",
        "start_ns",
    )

    def __init__(
        self,
        sink: SpanSink,
        name: str,
        kind: SpanKind,
        parent: TraceContext | None,
    ) -> None:
        trace_id = parent.trace_id if parent is not None else random.randbytes(16)
        self.context = TraceContext(trace_id, random.randbytes(8))
        self.parent_id = parent.span_id if parent is not None else b""
        self.name = name
        self.kind = kind
        self.attributes: dict[str, Attribute] = {}
        self.error = ""
        self.start_ns = time.time_ns()
        self.end_ns = 0
        self._sink = sink
        self._token: Token[Span | None] | None = None

    def child(self, name: str, kind: SpanKind) -> Span:
        """Begin a child span: a step of this one."""
        return Span(self._sink, name, kind, self.context)

    def end(self) -> None:
        """End the span and export it; a second call does nothing."""
        if not self.end_ns:
            self.end_ns = time.time_ns()
            self._sink.add(self)

    def __enter__(self) -> Self:
        self._token = _current.set(self)
        structlog.contextvars.bind_contextvars(trace_id=self.context.trace_id.hex())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._token is not None:
            _current.reset(self._token)
        if _current.get() is None:
            structlog.contextvars.unbind_contextvars("trace_id")
        if error is not None:
            self.error = error.code if isinstance(error, Problem) else type(error).__name__
            self.attributes[names.ERROR_TYPE] = self.error
        self.end()


def current_span() -> Span | None:
    """Return the innermost span whose block is running in this task; None if the work is not sampled."""
    return _current.get()


class Tracer:
    """Begins the spans of a process. ``sink``: None if traces are off; ``ratio``: share of new traces to record."""

    def __init__(self, sink: SpanSink | None, ratio: float = 0.0, draw: Callable[[], float] = random.random) -> None:
        self._sink = sink
        self._ratio = ratio
        self._draw = draw
        self.is_on = sink is not None

    def start(self, name: str, kind: SpanKind, traceparent: str | None = None) -> Span | None:
        """Begin a step for a caller; None if it is not sampled.

        With a valid ``traceparent`` the caller has decided. Otherwise a random share is a new trace.
        """
        if self._sink is None:
            return None
        parent = None if traceparent is None else parse_traceparent(traceparent)
        if not (parent.is_sampled if parent is not None else self._draw() < self._ratio):
            return None
        return Span(self._sink, name, kind, parent)

    def resume(self, context: TraceContext | None, name: str, kind: SpanKind) -> Span | None:
        """Begin a step of a trace that another process records; None if this process has no collector."""
        if self._sink is None or context is None or not context.is_sampled:
            return None
        return Span(self._sink, name, kind, context)

    def resume_packed(self, packed: bytes, name: str, kind: SpanKind) -> Span | None:
        """Begin a step of the trace in an announcement; see ``resume``."""
        return self.resume(unpack_trace(packed), name, kind)

    async def close(self) -> None:
        """Export the last spans, at the end of the process."""
        if self._sink is not None:
            await self._sink.close()


NOT_SAMPLED: Final = nullcontext()
"""The block of a message without a span: ``with span or NOT_SAMPLED``."""
TRACING_OFF: Final = Tracer(None)
