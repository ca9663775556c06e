"""What a process says of itself: a log without secrets, Prometheus figures without user ids, an id for each request.

Labels have few values each: never a uid, a device or an item id, so that a million users make no million series.
"""

import logging
import re
import secrets
import sys
from collections.abc import MutableMapping
from typing import Any, Literal

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

REDACTED = "…"
METRICS_CONTENT_TYPE = CONTENT_TYPE_LATEST

# A service key, a JWT, or a token or ticket in a query: whatever lets somebody in, wherever it stands in a line.
_SECRET_VALUE = re.compile(
    r"gk_[A-Za-z0-9]+_[A-Za-z0-9_-]+|eyJ[\w-]+\.[\w-]+\.[\w-]*|(?<=[?&]token=)[^&\s\"]+|(?<=[?&]ticket=)[^&\s\"]+"
    r"|(?<=://)[^/@\s]*:[^/@\s]*(?=@)"
)
_SECRET_NAME = re.compile(r"(?i)token|secret|password|authorization|ticket|cookie|^key$")
_REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

# Upper bounds in seconds: a commit takes 0.2 ms, the contract's tail is 25 ms (p99 from acceptance to device).
_FAST_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)


class Metrics:
    """The figures of one process, in a registry of its own, so that tests and processes never share one."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = self._counter("http_requests", "HTTP requests answered.", "route", "method", "status")
        self.request_seconds = self._histogram("http_request_seconds", "Time to answer a request.", "route")
        self.messages = self._counter(
            "messages", "Messages, by outcome: effect, unchanged, delayed, a problem's code.", "outcome"
        )
        self.connections = self._gauge("connections", "Devices connected now.", "transport")
        self.closes = self._counter("closes", "Connections closed, by close code.", "code")
        self.frames_out = self._counter("frames_out", "Frames written to devices.")
        self.bytes_out = self._counter("bytes_out", "Bytes written to devices.")
        self.syncs = self._counter("syncs", "Sync objects sent, by kind: full, delta, unchanged.", "kind")
        self.overflows = self._counter("queue_overflows", "Queues of slow devices that one resync replaced.")
        self.gaps = self._counter("gaps", "Announcements missed, by how it was found: gap, fork, compare.", "found")
        self.deliver_seconds = self._histogram("deliver_seconds", "From an announcement's arrival to the last write.")
        self.render_failures = self._counter("render_failures", "Templates that failed for an item, by field.", "field")
        self.ready = self._gauge("ready", "1 where the process can do its job now.")

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"gregor_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"gregor_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, *labels: str) -> Histogram:
        return Histogram(f"gregor_{name}", text, labels, buckets=_FAST_S, registry=self.registry)

    def exposition(self) -> bytes:
        """All figures as Prometheus text; its type is METRICS_CONTENT_TYPE."""
        return generate_latest(self.registry)


def request_id(offered: str | None = None) -> str:
    """The id of a request: the caller's `X-Request-Id` where it is well formed, else 16 random hex digits."""
    return offered if offered and _REQUEST_ID.fullmatch(offered) else secrets.token_hex(8)


def redact(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A structlog processor: what lets somebody in never leaves, by the name of its field or by its form."""
    for name, value in event.items():
        if _SECRET_NAME.search(name) and value is not None:
            event[name] = REDACTED
        elif isinstance(value, str):
            event[name] = _SECRET_VALUE.sub(REDACTED, value)
    return event


def configure_logging(service: str, level: str = "info", form: Literal["json", "console"] = "json") -> None:
    """Send structlog and the standard library's log to stderr, one line an event; call once, at the start."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _named(service),
    ]
    last: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if form == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    # After the traceback is text, so that a secret in an exception's message goes too.
    closing: list[structlog.typing.Processor] = [structlog.processors.format_exc_info, redact, last]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *closing]
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # The services say themselves when they start and stop; lines of HTTP clients hold URLs, and those hold tokens; a
    # line for each tick of arq says nothing.
    for noisy in ("httpx", "httpcore", "hpack", "h2", "uvicorn", "arq"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def _named(service: str) -> structlog.typing.Processor:
    def add_service(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event.setdefault("service", service)
        return event

    return add_service
