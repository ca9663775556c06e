"""Logs without secrets, metrics without user ids, and request ids."""

import io
import json
import logging
import time
from collections.abc import Iterator
from contextlib import redirect_stderr
from random import Random

import pytest
import structlog
from structlog.testing import capture_logs

from gregor.telemetry import REFUSAL_LINES_BURST, LimitedLog, configure_logging, redact, redact_text, request_id

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbGljZSJ9.c2ln"


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """The stderr of a process with configured logging; restores the logging configuration afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    with redirect_stderr(io.StringIO()) as written:
        configure_logging("ingest")
        yield written
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def lines_of(written: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in written.getvalue().splitlines()]


def test_own_and_library_events_share_one_json_form(log: io.StringIO) -> None:
    structlog.get_logger().info("started", port=8700)
    logging.getLogger("asyncio").warning("slow %s", "client")

    ours, theirs = lines_of(log)

    assert (ours["event"], ours["port"], ours["service"], ours["level"]) == ("started", 8700, "ingest", "info")
    assert (theirs["event"], theirs["service"], theirs["level"]) == ("slow client", "ingest", "warning")


def test_event_of_the_standard_library_has_fields(log: io.StringIO) -> None:
    """An operator searches for `event == "redis.disconnected"`, also if the module does not use structlog."""
    library = logging.getLogger("gregor.redis.client")
    library.warning("sentinel.primary_switched name=%s to=%s:%d", "my primary", "10.0.0.5", 6379)
    library.info("redis.slots_changed slots=%d reason=redirect", 12)

    switched, changed = lines_of(log)

    assert (switched["event"], switched["name"], switched["to"]) == (
        "sentinel.primary_switched",
        "my primary",
        "10.0.0.5:6379",
    )
    assert (changed["event"], changed["slots"], changed["reason"]) == ("redis.slots_changed", 12, "redirect")


def test_malformed_requests_do_not_fill_the_log(log: io.StringIO) -> None:
    logging.getLogger("uvicorn.error").warning("Invalid HTTP request received.")
    logging.getLogger("uvicorn.error").error("Exception in ASGI application")

    assert [line["event"] for line in lines_of(log)] == ["Exception in ASGI application"]


def test_events_below_the_level_are_dropped(log: io.StringIO) -> None:
    structlog.get_logger().debug("detail")

    assert log.getvalue() == ""


@pytest.mark.parametrize(
    "text",
    [
        f"Bearer {JWT}",
        "gk_ab12_c2VjcmV0LXNlY3JldA",
        "/v1/stream?cursor=a-1&ticket=abcdef",
        "/v1/connect?token=abcdef",
        "redis://user:abcdef@host:6379/0",
        "redis://:abc/d@abcdef@host:6379/0",
        "https://abcdef@idp.example/keys",
        "GET https://idp.example/keys?api_key=abcdef failed",
        "whsec_abcdefabcdefabcdef",
        "/v1/unsubscribe/abcdef.abcdef",
    ],
)
def test_secret_values_are_redacted_anywhere(log: io.StringIO, text: str) -> None:
    structlog.get_logger().info(text, path=text)
    logging.getLogger("other").warning("%s", text)
    try:
        raise ValueError(text)
    except ValueError:
        structlog.get_logger().exception("failed")

    written = log.getvalue()

    assert len(lines_of(log)) == 3
    assert not any(secret in written for secret in (JWT, "c2VjcmV0", "abcdef"))


def test_nested_values_and_objects_are_redacted() -> None:
    event = {
        "request": {"headers": [("authorization", f"Bearer {JWT}")], "password": "abcdef", "size": 3},
        "reason": ValueError("redis://:abcdef@host"),
        "raw": b"whsec_abcdefabcdef",
        "found": [{"url": "https://h/?ticket=abcdef"}],
    }

    shown = str(redact(None, "info", event))

    assert "abcdef" not in shown and JWT not in shown
    assert "'size': 3" in shown


@pytest.mark.parametrize(
    "unit",
    ["a:", "://", "eyJ", "gk_", "gk_a", "?token", "&key=", "/unsubscribe/", "whsec_", "eyJ.", "@", "?tokentoken"],
)
def test_redaction_takes_linear_time(unit: str) -> None:
    def seconds(size: int) -> float:
        text = "://" + unit * (size // len(unit))
        begun = time.thread_time()
        redact_text(text)
        return time.thread_time() - begun

    # 3.4 s for 40 KB before. A quadratic expression takes minutes for this size.
    assert min(seconds(1_000_000) for _ in range(2)) < 2


PLANTED = (
    f"Bearer {JWT[:20]}.CANARYclaims.CANARYsig",
    "gk_ab12_CANARY-secret",
    "whsec_CANARY/abc+12=",
    "redis://user:CANARY@host:6379/0",
    "rediss://:p@CANARY@host/1?ssl_keyfile=x",
    "https://h/v1/stream?cursor=a-1&ticket=CANARY",
    "https://idp/jwks?api_key=CANARY",
    "POST /v1/unsubscribe/CANARY.CANARY",
)


def wrapped(random: Random, text: str, depth: int = 3) -> object:
    """Return a text inside of nested values of random shapes."""
    match random.randrange(7) if depth else 0:
        case 1:
            return {random.choice(["a", "url", "detail"]): wrapped(random, text, depth - 1), "n": 1}
        case 2:
            return [1, wrapped(random, text, depth - 1), None]
        case 3:
            return (wrapped(random, text, depth - 1),)
        case 4:
            return ValueError(text)
        case 5:
            return {random.choice(["token", "Cookie", "link_secret", "password"]): "CANARY"}
        case 6:
            return text.encode()
        case _:
            noise = "".join(random.choices('ab:/@.?&= _-{}"', k=random.randrange(12)))
            return f"{noise} {text} {noise}"


def test_planted_secrets_never_reach_the_log(log: io.StringIO) -> None:
    """100,000 events of random shape, each with a secret somewhere."""
    random, logger = Random(9), structlog.get_logger()
    for number in range(100_000):
        planted = random.choice(PLANTED)
        match number % 4:
            case 0:
                logger.info("event", value=wrapped(random, planted))
            case 1:
                logger.warning(f"failed at {planted}")
            case 2:
                logging.getLogger("library").warning("%s and %s", planted, number)
            case 3:
                logger.info("event", **{random.choice(["token", "password", "api_key"]): planted, "n": number})
        if number % 1_000 == 0:
            try:
                raise RuntimeError(planted)
            except RuntimeError:
                logger.exception("failed")

    written = log.getvalue()
    assert written.count("\n") >= 100_000
    assert "CANARY" not in written


def test_fields_with_secret_names_are_redacted() -> None:
    event = redact(None, "info", {"token": "x", "Authorization": "y", "key": 3, "keys": 3, "password": None})

    assert event == {"token": "…", "Authorization": "…", "key": "…", "keys": 3, "password": None}


def test_well_formed_request_id_of_the_caller_is_kept() -> None:
    assert request_id("abc-1.2_3") == "abc-1.2_3"
    assert request_id("a b") != "a b"
    assert request_id(None) != request_id(None)
    assert len(request_id("x" * 65)) == 16


def test_secret_is_not_used_as_request_id() -> None:
    """The audit trail keeps request ids for months."""
    key = f"gk_{'a' * 12}_{'b' * 43}"
    assert key not in request_id(key)


def test_flood_of_refusals_is_counted_in_the_next_line() -> None:
    refusals = LimitedLog()
    with capture_logs() as logs:
        for _ in range(REFUSAL_LINES_BURST + 5):
            refusals.record("request.refused", 0.0, status=401)
        refusals.record("request.refused", 1.0, status=403)

    assert len(logs) == REFUSAL_LINES_BURST + 1
    assert (logs[-1]["status"], logs[-1]["suppressed"], logs[0]["suppressed"]) == (403, 5, 0)
