"""The log lets no secret out, figures know no user, each request has an id."""

import io
import json
import logging
import re
from collections.abc import Iterator
from contextlib import redirect_stderr
from pathlib import Path

import pytest
import structlog
from prometheus_client import CollectorRegistry

import gregor_delivery.metrics
import gregor_scheduler.metrics
from gregor.telemetry import Metrics, configure_logging, redact, request_id

DOCS = Path(__file__).parents[2] / "docs"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbGljZSJ9.c2ln"


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """What a process that set up its log writes to stderr; afterwards logging is as it was."""
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


def test_our_events_and_those_of_libraries_are_json_lines_of_one_form(log: io.StringIO) -> None:
    structlog.get_logger().info("started", port=8700)
    logging.getLogger("uvicorn.error").warning("slow %s", "client")

    ours, theirs = lines_of(log)

    assert (ours["event"], ours["port"], ours["service"], ours["level"]) == ("started", 8700, "ingest", "info")
    assert (theirs["event"], theirs["service"], theirs["level"]) == ("slow client", "ingest", "warning")


def test_what_is_below_the_level_is_not_written(log: io.StringIO) -> None:
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
    ],
)
def test_a_secret_is_taken_out_wherever_it_stands(log: io.StringIO, text: str) -> None:
    structlog.get_logger().info(text, path=text)
    logging.getLogger("other").warning("%s", text)
    try:
        raise ValueError(text)
    except ValueError:
        structlog.get_logger().exception("failed")

    written = log.getvalue()

    assert len(lines_of(log)) == 3
    assert not any(secret in written for secret in (JWT, "c2VjcmV0", "abcdef"))


def test_a_field_that_is_named_as_a_secret_is_taken_out_whatever_it_holds() -> None:
    event = redact(None, "info", {"token": "x", "Authorization": "y", "key": 3, "keys": 3, "password": None})

    assert event == {"token": "…", "Authorization": "…", "key": "…", "keys": 3, "password": None}


def test_no_figure_has_a_label_for_a_user() -> None:
    metrics = Metrics()

    labels = {name for metric in vars(metrics).values() for name in getattr(metric, "_labelnames", ())}

    assert labels == {"route", "method", "status", "outcome", "transport", "code", "kind", "found", "field"}


def test_every_figure_begins_with_the_name_of_the_house() -> None:
    metrics = Metrics()
    metrics.messages.labels("effect").inc()

    written = metrics.exposition().decode()

    assert 'gregor_messages_total{outcome="effect"} 1.0' in written
    assert {line.split()[2].startswith("gregor_") for line in written.splitlines() if line.startswith("# TYPE")} == {
        True
    }


def test_a_request_keeps_the_id_of_its_caller_where_it_is_well_formed() -> None:
    assert request_id("abc-1.2_3") == "abc-1.2_3"
    assert request_id("a b") != "a b"
    assert request_id(None) != request_id(None)
    assert len(request_id("x" * 65)) == 16


def test_each_figure_is_in_the_docs() -> None:
    registry = CollectorRegistry()
    gregor_scheduler.metrics.Figures(registry)
    gregor_delivery.metrics.DeliveryMetrics(registry)
    told = set(re.findall(r"gregor_[a-z_]+", "".join(page.read_text() for page in DOCS.rglob("*.md"))))

    kept = [figure for each in (registry, Metrics().registry) for figure in each.collect()]
    names = {f"{figure.name}_total" if figure.type == "counter" else figure.name for figure in kept}

    assert names - told == set()
