"""Logging without secrets, Prometheus metrics without user ids, and the request id of each HTTP request.

Every label has a small, fixed set of values. A label with user, device or item ids would create millions of series.
"""

import logging
import math
import re
import secrets
import sys
import time
from collections.abc import Mapping, MutableMapping
from typing import Any, Final, Literal

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from gregor.core.rate_limit import RateLimiter

log = structlog.get_logger(__name__)

REDACTED = "…"
ORIGIN_LOG_INTERVAL_S = 10.0
"""Anybody can cause a line about a refused origin, and therefore the lines have a limit."""
REFUSAL_LINES_PER_S: Final = 10.0
"""Lines a second about refused requests and connections of a process, for the same reason."""
REFUSAL_LINES_BURST: Final = 100
METRICS_CONTENT_TYPE = CONTENT_TYPE_LATEST

# Every expression takes linear time: the text of a log line may be written by a client.
_SUSPICIOUS = re.compile(r"gk_|whsec_|eyJ|/unsubscribe/|[?&]|://")
# Service keys, secrets of webhooks, and unsubscribe tokens.
_SECRET_VALUE = re.compile(r"gk_[A-Za-z0-9]+_[A-Za-z0-9_-]+|whsec_[A-Za-z0-9+/=_-]+|(?<=/unsubscribe/)[^/?#\s\"']+")
_SECRET_PARAMETER = re.compile(
    r"(?i)([?&][\w-]{0,32}?(?:token|ticket|key|secret|password|signature)[\w-]{0,32}=)[^&\s\"']+"
)
_JWT_CHARACTERS = re.compile(r"[\w.-]{16,}+")
_WORD = re.compile(r"\S++")
_SECRET_NAME = re.compile(r"(?i)token|secret|passw|authorization|ticket|cookie|credential|api_?key|^key$")
_MAX_DEPTH = 8
_REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

# In seconds: a commit takes 0.2 ms; the documented p99 from the HTTP request to the device is 25 ms.
_FAST_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)


class RefusalLog:
    """Logs refused requests and connections. A flood of them does not flood the log: see ``REFUSAL_LINES_PER_S``."""

    def __init__(self) -> None:
        self._limiter = RateLimiter(REFUSAL_LINES_PER_S, REFUSAL_LINES_BURST)
        self._suppressed = 0

    def record(self, event: str, now_s: float, **fields: object) -> None:
        """Log one refusal, or count it in ``suppressed`` of the next line. ``now_s``: monotonic time."""
        if not self._limiter.try_acquire(now_s):
            self._suppressed += 1
            return
        log.info(event, suppressed=self._suppressed, **fields)
        self._suppressed = 0


class Metrics:
    """The metrics that all services share, in their own registry, which keeps processes and tests apart."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = self._counter("http_requests", "HTTP requests.", "route", "method", "status")
        self.request_seconds = self._histogram("http_request_seconds", "Duration of a request.", "route")
        self.messages = self._counter(
            "messages", "Messages, by outcome: effect, unchanged, delayed, or a problem code.", "outcome"
        )
        self.auth_failures = self._counter("auth_failures", "Requests without a valid right, by reason.", "reason")
        self.unconfirmed_keys = self._counter(
            "unconfirmed_service_keys", "Calls with a known service key while Redis could not be asked for it."
        )
        self.refusals = RefusalLog()
        self._origin_logged_s = -math.inf
        self.origins_refused = self._counter("origins_refused", "Requests from an origin that is not allowed.")
        self.limits_reached = self._counter("limits_reached", "Requests above a rate limit, by limit.", "limit")
        self.connections = self._gauge("connections", "Connected devices.", "transport")
        self.closes = self._counter("closes", "Connections closed, by close code.", "code")
        self.connections_refused = self._counter("connections_refused", "Connections refused by a limit.", "limit")
        self.frames_out = self._counter("frames_out", "Frames written to devices.")
        self.bytes_out = self._counter("bytes_out", "Bytes written to devices.")
        self.syncs = self._counter("syncs", "Sync objects sent, by kind: full, delta, unchanged.", "kind")
        self.overflows = self._counter(
            "queue_overflows", "Send queues of slow consumers replaced by a resync (backpressure)."
        )
        self.gaps = self._counter(
            "gaps", "Missed announcements, by how the gap was detected: gap, fork, compare.", "found"
        )
        self.deliver_seconds = self._histogram(
            "deliver_seconds", "Time from the arrival of an announcement to the last write."
        )
        self.render_failures = self._counter("render_failures", "Failed renderings, by template field.", "field")
        self.jobs = self._counter("jobs", "Jobs that this process ended, by kind and state.", "kind", "state")
        self.formats = self._gauge("format", "Format that this process writes, and those that it reads.", "use")
        self.ready = self._gauge("ready", "1 if the process is ready.")
        self.shards_reachable = self._gauge("redis_shards_reachable", "Redis servers of the state that answer.")
        self.redis_events = self._counter(
            "redis_events", "Events of the connection to Redis: redirects, reads of the slot map, switches.", "event"
        )
        self.degraded = self._gauge("degraded", "1 while a shard is unreachable: its users are not served.")

    def refuse_origin(self, origin: str) -> None:
        """Count a request from an origin that is not allowed, and log one of them at most every 10 seconds."""
        self.origins_refused.inc()
        now_s = time.monotonic()
        if now_s - self._origin_logged_s >= ORIGIN_LOG_INTERVAL_S:
            self._origin_logged_s = now_s
            log.warning("origin.refused", origin=origin)

    def refuse_connection(self, limit: str) -> None:
        """Count and log a connection that a limit refused before authentication."""
        self.connections_refused.labels(limit).inc()
        self.refusals.record("connection.refused", time.monotonic(), limit=limit)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"gregor_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"gregor_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, *labels: str) -> Histogram:
        return Histogram(f"gregor_{name}", text, labels, buckets=_FAST_S, registry=self.registry)

    def exposition(self) -> bytes:
        """Return all metrics in the Prometheus text format. The media type is ``METRICS_CONTENT_TYPE``."""
        return generate_latest(self.registry)


def request_id(offered: str | None = None) -> str:
    """Return the ``X-Request-Id`` of the caller if it is well formed; otherwise 16 random hex digits."""
    return offered if offered and _REQUEST_ID.fullmatch(offered) else secrets.token_hex(8)


def redact(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Replace secrets in a log event, by field name and by value. This is a structlog processor."""
    for name, value in event.items():
        event[name] = _redact_member(name, value, 0)
    return event


def _redact_member(name: object, value: object, depth: int) -> object:
    return REDACTED if value is not None and _SECRET_NAME.search(str(name)) else _redact_value(value, depth)


def _redact_value(value: object, depth: int) -> object:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return redact_text(value)
    if depth < _MAX_DEPTH and isinstance(value, Mapping):
        return {redact_text(str(name)): _redact_member(name, each, depth + 1) for name, each in value.items()}
    if depth < _MAX_DEPTH and isinstance(value, list | tuple | set | frozenset):
        return [_redact_value(each, depth + 1) for each in value]
    # The renderer would print the representation of the object, such as an exception with a URL.
    return redact_text(repr(value))


def redact_text(text: str) -> str:
    """Return a text without keys, tokens, tickets, and credentials in URLs. Takes linear time."""
    return _WORD.sub(_redact_word, text) if _SUSPICIOUS.search(text) else text


def _redact_word(found: re.Match[str]) -> str:
    word = found[0]
    scheme, separator, rest = word.partition("://")
    if "@" in rest:
        # A password may contain an unescaped @ or /, hence everything up to the last @ goes.
        word = f"{scheme}{separator}{REDACTED}@{rest.rpartition('@')[2]}"
    word = _SECRET_VALUE.sub(REDACTED, word)
    word = _SECRET_PARAMETER.sub(rf"\1{REDACTED}", word)
    return _JWT_CHARACTERS.sub(_redact_jwt, word)


def _redact_jwt(found: re.Match[str]) -> str:
    start = found[0].find("eyJ")
    return found[0][:start] + REDACTED if start >= 0 and found[0].count(".", start) >= 2 else found[0]


def configure_logging(service: str, level: str = "info", form: Literal["json", "console"] = "json") -> None:
    """Write the events of structlog and of the standard library to stderr, one line each.

    Call it once, at the start.
    """
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
    # Redaction runs after the traceback is rendered, because an exception message may hold a secret.
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
    # The URLs that HTTP clients log contain tokens, and arq logs a line for every tick.
    # Services log their own start and stop.
    for noisy in ("httpx", "httpcore", "hpack", "h2", "arq"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    # uvicorn warns of each malformed request, with which any client could flood the log.
    logging.getLogger("uvicorn").setLevel(logging.ERROR)


def _named(service: str) -> structlog.typing.Processor:
    def add_service(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event.setdefault("service", service)
        return event

    return add_service
