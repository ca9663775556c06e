"""Logging without secrets, and the request id of each HTTP request."""

import logging
import re
import secrets
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any, Final, Literal

import structlog

from gregor.core.rate_limit import RateLimiter

log = structlog.get_logger(__name__)

REDACTED = "…"
REFUSAL_LINES_PER_S: Final = 10.0
"""Lines a second about refused requests and connections of a process."""
REFUSAL_LINES_BURST: Final = 100
FAILURE_LINES_PER_S: Final = 0.1
"""Lines a second about failures of one kind that repeat. They may have tracebacks; metrics count all failures."""
FAILURE_LINES_BURST: Final = 20

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
_EVENT_FORMAT = re.compile(r"[a-z_]+(?:\.[a-z_]+)+(?: [a-z_]+=\S+)+")


class LimitedLog:
    """Logs events that clients can cause. A flood of them does not flood the log."""

    def __init__(self, lines_per_s: float = REFUSAL_LINES_PER_S, burst: int = REFUSAL_LINES_BURST) -> None:
        self._limiter = RateLimiter(lines_per_s, burst)
        self._suppressed = 0

    def record(self, event: str, now_s: float, level: str = "info", /, **fields: object) -> None:
        """Log one event, or count it in ``suppressed`` of the next line. ``now_s``: monotonic time."""
        if not self._limiter.try_acquire(now_s):
            self._suppressed += 1
            return
        getattr(log, level)(event, suppressed=self._suppressed, **fields)
        self._suppressed = 0


def traceback_log() -> LimitedLog:
    """Return a log for internal errors: one line a second, because each has a traceback of some KiB."""
    return LimitedLog(1.0)


def failure_log() -> LimitedLog:
    """Return a log for failures of one kind that repeat."""
    return LimitedLog(FAILURE_LINES_PER_S, FAILURE_LINES_BURST)


def request_id(offered: str | None = None) -> str:
    """Return the ``X-Request-Id`` of the caller if it is well formed and no secret; otherwise 16 random hex digits."""
    is_usable = offered and _REQUEST_ID.fullmatch(offered) and redact_text(offered) == offered
    return offered if offered and is_usable else secrets.token_hex(8)


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


def split_fields(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Turn ``redis.disconnected server=%s`` of the standard library into a constant event with fields.

    This is a structlog processor. Modules that must not import structlog log in this form.
    """
    args = event.get("positional_args")
    if not isinstance(args, tuple) or _EVENT_FORMAT.fullmatch(event["event"]) is None:
        return event
    name, *pairs = event["event"].split(" ")
    if sum(pair.count("%") for pair in pairs) != len(args):
        return event
    event["event"], left = name, list(args)
    for pair in pairs:
        field, _, form = pair.partition("=")
        taken = [left.pop(0) for _ in range(form.count("%"))]
        event[field] = taken[0] if form == "%d" else form % tuple(taken)
    del event["positional_args"]
    return event


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
            foreign_pre_chain=[split_fields, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *closing],
            use_get_message=False,
            pass_foreign_args=True,
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # The URLs that HTTP clients log contain tokens. arq logs a line for every tick, picows two for every connection.
    # Services log their own start and stop.
    for noisy in ("httpx", "httpcore", "hpack", "h2", "arq", "picows"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    # uvicorn warns of each malformed request, with which any client could flood the log.
    logging.getLogger("uvicorn").setLevel(logging.ERROR)


def _named(service: str) -> structlog.typing.Processor:
    def add_service(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event.setdefault("service", service)
        return event

    return add_service
