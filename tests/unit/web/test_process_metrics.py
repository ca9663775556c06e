"""Metrics that are read at each scrape: connections, phase, settings, and the lag of the event loop."""

from __future__ import annotations

import asyncio
import time

from prometheus_client import CollectorRegistry

from gregor.config.live_settings import LiveSettings
from gregor.config.settings import load_settings
from gregor.core.limits import Limits
from gregor.metrics.event_loop import INTERVAL_S, measure_event_loop
from gregor.metrics.process import Metrics
from gregor.metrics.reading import Reading, by_label
from gregor.reference.store import MemoryStore
from gregor.store.connections import ConnectionReport, ServerReport
from gregor.web.process_metrics import publish_process, settings_hash
from gregor.web.readiness import Readiness
from tests.support.wait import wait_until

SECRET = "a secret of thirty-two characters!"


class ReportingStore(MemoryStore):
    """A store with connections that a test describes."""

    report = ConnectionReport()

    def connection_report(self) -> ConnectionReport:
        return self.report


def live(**settings: str) -> LiveSettings:
    return LiveSettings(load_settings({"GREGOR_TOKEN_SECRET": SECRET} | settings))


def test_reading_has_no_series_before_it_is_bound() -> None:
    registry = CollectorRegistry()
    reading = Reading("counter", "moves", "Moves.", "way", registry=registry)
    assert registry.get_sample_value("gregor_moves_total", {"way": "a"}) is None

    reading.read_from(lambda: by_label({"a": 3, "b": None}))

    assert registry.get_sample_value("gregor_moves_total", {"way": "a"}) == 3
    assert registry.get_sample_value("gregor_moves_total", {"way": "b"}) is None


async def test_process_publishes_its_connections() -> None:
    store, metrics, settings = ReportingStore(Limits()), Metrics(), live()
    readiness = Readiness(store, metrics)
    publish_process(metrics, settings, store, readiness)
    await readiness.check()
    assert b"\ngregor_redis_clock_offset_seconds " not in metrics.exposition()
    store.report = ConnectionReport({"a:1": ServerReport(7, 2)}, {"moved": 5}, 3, 16_000, -0.25)
    settings.reloads["refused"] += 1
    readiness.stopping = True

    shown = metrics.exposition().decode()

    for line in (
        'gregor_redis_ping_seconds{server="memory"} 0.0',
        'gregor_redis_commands_outstanding{server="a:1"} 7.0',
        'gregor_redis_reconnections_total{server="a:1"} 2.0',
        'gregor_redis_events_total{event="moved"} 5.0',
        "gregor_redis_commands_waiting 3.0",
        "gregor_redis_slots_covered 16000.0",
        "gregor_redis_clock_offset_seconds -0.25",
        'gregor_secret_reloads_total{outcome="refused"} 1.0',
        "gregor_stop_phase 1.0",
    ):
        assert line in shown.splitlines(), line


def test_every_route_and_status_stay_within_the_series() -> None:
    """75 routes with five statuses each are more than ingest has; a process may have 2,000 series."""
    metrics = Metrics()
    for route in map(str, range(75)):
        metrics.request_seconds.labels(route).observe(0.01)
        for status in ("200", "400", "401", "429", "503"):
            metrics.requests.labels(route, "POST", status).inc()

    assert sum(not line.startswith("#") for line in metrics.exposition().decode().splitlines()) <= 1_800


def test_hash_shows_other_settings_but_no_secrets() -> None:
    plain = settings_hash(live().current)

    assert settings_hash(live(GREGOR_PING_INTERVAL="20s").current) != plain
    assert settings_hash(live(GREGOR_REDIS_URL="redis://other:6379").current) != plain
    assert settings_hash(live(GREGOR_TOKEN_SECRET="another secret, of forty characters or so").current) == plain
    assert settings_hash(live(GREGOR_GATEWAY_PORT="9999").current) == plain
    url = "redis://user:{}@host:6379"
    first, second = (live(GREGOR_REDIS_URL=url.format(password)) for password in ("one", "two"))
    assert settings_hash(first.current) == settings_hash(second.current)


async def test_blocked_event_loop_is_measured() -> None:
    metrics = Metrics()
    measuring = asyncio.create_task(measure_event_loop(metrics.event_loop_lag))
    await asyncio.sleep(0)
    # Blocks the loop on purpose.
    time.sleep(INTERVAL_S + 0.2)

    await wait_until(
        lambda: "gregor_event_loop_lag_seconds_count 1.0" in metrics.exposition().decode(), "a measurement"
    )

    assert metrics.registry.get_sample_value("gregor_event_loop_lag_seconds_sum") >= 0.2  # type: ignore[operator]
    measuring.cancel()
