"""The metrics that every service has: requests, refusals, the connection to Redis, and the process itself."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from typing import Final, Literal

import structlog
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from gregor.telemetry import LimitedLog

from .reading import Reading

log = structlog.get_logger(__name__)

# A series `…_created` for each counter would double the series of ingest; Prometheus does not use it.
disable_created_metrics()  # type: ignore[no-untyped-call]

METRICS_CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
ORIGIN_LOG_INTERVAL_S: Final = 10.0
"""Anybody can cause a line about a refused origin, and therefore the lines have a limit."""

# In seconds: a commit takes 0.2 ms; the documented p99 from the HTTP request to the device is 25 ms.
FAST_BUCKETS_S: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
_LAG_BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)


TEMPLATE_FIELDS: Final = ("title", "text", "link", "subject", "html", "collapse")
"""The fields of a notification type that are templates."""


class Metrics:
    """The metrics that all services share, in their own registry, which keeps processes and tests apart."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._add_requests()
        self._add_redis()
        self._add_process()

    # ---- requests and refusals

    def _add_requests(self) -> None:
        self.requests = self.counter("http_requests", "HTTP requests.", "route", "method", "status")
        self.request_seconds = self.histogram("http_request_seconds", "Duration of a request.", "route")
        self.in_flight = 0
        in_flight = self.reading("gauge", "http_requests_in_flight", "HTTP requests without a complete response.")
        in_flight.read_from(lambda: {(): self.in_flight})
        self.messages = self.counter(
            "messages", "Messages, by outcome: effect, unchanged, delayed, or a problem code.", "outcome"
        )
        self.auth_failures = self.counter(
            "auth_failures", "Requests that fail authentication or lack a permission, by reason.", "reason"
        )
        self.unconfirmed_keys = self.counter(
            "unconfirmed_service_keys", "Calls with a known service key that Redis could not confirm."
        )
        self.refusals = LimitedLog()
        self._origin_logged_s = -math.inf
        self.origins_refused = self.counter("origins_refused", "Requests from an origin that is not allowed.")
        self.limits_reached = self.counter("limits_reached", "Requests above a rate limit, by limit.", "limit")
        self.charged_afterwards = self.counter(
            "charged_afterwards", "Units charged for the excess of requests above their weight, by limit.", "limit"
        )
        self.connections_refused = self.counter("connections_refused", "Connections refused by a limit.", "limit")
        self.overload_refusals = self.reading("counter", "overload_refusals", "Requests that an overload refused.")
        self.render_failures = self.counter("render_failures", "Failed renderings, by template field.", "field")
        for field in TEMPLATE_FIELDS:
            # Prometheus sees the first failure as an increase only if the counter existed before.
            self.render_failures.labels(field)

    # ---- the connection to Redis

    def _add_redis(self) -> None:
        self.shards_reachable = self.gauge("redis_shards_reachable", "Redis servers of the state that answer.")
        self.degraded = self.gauge("degraded", "1 while a Redis server is unreachable, or data of the start is unread.")
        self.redis_events = self.reading(
            "counter",
            "redis_events",
            "Events of the connection to Redis: redirects, slot maps, switches.",
            "event",
        )
        self.redis_ping = self.reading("gauge", "redis_ping_seconds", "Round trip of the last ping.", "server")
        self.redis_outstanding = self.reading(
            "gauge", "redis_commands_outstanding", "Commands without a reply.", "server"
        )
        self.redis_reconnections = self.reading("counter", "redis_reconnections", "New connections.", "server")
        self.redis_waiting = self.reading(
            "gauge", "redis_commands_waiting", "Commands that wait for a server of their slot."
        )
        self.redis_slots = self.reading("gauge", "redis_slots_covered", "Hash slots with a connected server.")
        self.replications = self.reading(
            "counter", "replications", "Messages that asked for replicas, by outcome.", "outcome"
        )
        self.redis_clock_offset = self.reading(
            "gauge", "redis_clock_offset_seconds", "Clock of Redis minus the clock of this process."
        )

    # ---- the process

    def _add_process(self) -> None:
        self.ready = self.gauge("ready", "1 if the process is ready.")
        self.stop_phase = self.reading("gauge", "stop_phase", "0: serves, 1: is not ready but serves, 2: drains.")
        self.jobs = self.counter("jobs", "Jobs that this process ended, by kind and state.", "kind", "state")
        self.job_users = self.counter("job_users", "Users that jobs served, by kind and outcome.", "kind", "outcome")
        self.formats = self.gauge("format", "Format that this process writes, and those that it reads.", "use")
        self.event_loop_lag = Histogram(
            "gregor_event_loop_lag_seconds", "Lateness of a timer.", buckets=_LAG_BUCKETS_S, registry=self.registry
        )
        self.secret_reloads = self.reading("counter", "secret_reloads", "Changed files of secrets.", "outcome")
        self.build_info = self.gauge("build_info", "1, with the version of Gregor and Python.", "version", "python")
        self.config_info = self.gauge("config_info", "1, with a hash of all settings but secrets.", "hash")

    def expect_jobs(self, kinds: Iterable[str]) -> None:
        """Publish the counters of failed jobs. Prometheus sees the first failure as an increase only after a zero."""
        for kind in kinds:
            self.jobs.labels(kind, "failed")

    def count_job(self, kind: str, state: str) -> None:
        """Count a job that this process ended."""
        self.jobs.labels(kind, state).inc()

    def count_job_users(self, kind: str, outcome: str, number: int) -> None:
        """Count users that a job of this process served."""
        self.job_users.labels(kind, outcome).inc(number)

    # ---- refusals that are logged, too

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

    # ---- new metrics

    def counter(self, name: str, text: str, *labels: str) -> Counter:
        """Add a counter; its name gets the prefix ``gregor_`` and the suffix ``_total``."""
        return Counter(f"gregor_{name}", text, labels, registry=self.registry)

    def gauge(self, name: str, text: str, *labels: str) -> Gauge:
        """Add a gauge; its name gets the prefix ``gregor_``."""
        return Gauge(f"gregor_{name}", text, labels, registry=self.registry)

    def histogram(self, name: str, text: str, *labels: str) -> Histogram:
        """Add a histogram of short times in seconds; its name gets the prefix ``gregor_``."""
        return Histogram(f"gregor_{name}", text, labels, buckets=FAST_BUCKETS_S, registry=self.registry)

    def reading(self, kind: Literal["counter", "gauge"], name: str, text: str, *labels: str) -> Reading:
        """Add a metric that is read at each scrape; see ``Reading``."""
        return Reading(kind, name, text, *labels, registry=self.registry)

    def exposition(self) -> bytes:
        """Return all metrics in the Prometheus text format. The media type is ``METRICS_CONTENT_TYPE``."""
        return generate_latest(self.registry)
