"""Metrics of a delivery process, labelled by channel and verdict, never by token or address."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from gregor.core.notify.intents import CHANNELS
from gregor.metrics.reading import Reading
from gregor.store.contract.queue import QueueSizes


class DeliveryMetrics:
    """Metrics of one delivery process, registered in `registry`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.attempts = Counter(
            "gregor_delivery_attempts", "Calls of providers, by verdict.", ("channel", "verdict"), registry=registry
        )
        self.held = Counter(
            "gregor_delivery_held", "Sends skipped or postponed, by reason.", ("channel", "reason"), registry=registry
        )
        self.folded = Counter(
            "gregor_delivery_folded",
            "Deliveries above a user's push budget that were sent as a part of a later push.",
            ("channel",),
            registry=registry,
        )
        self.send_seconds = Histogram(
            "gregor_delivery_send_seconds",
            "Duration of one provider request, by verdict.",
            ("channel", "verdict"),
            buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
            registry=registry,
        )
        self.age_seconds = Histogram(
            "gregor_delivery_age_seconds",
            "Time from the decision to notify until the provider accepts, without deliveries that their user delayed.",
            ("channel",),
            buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15, 30, 60, 300, 1_800, 21_600),
            registry=registry,
        )
        self._add_state(registry)
        self._add_queue(registry)
        self.tokens_forgotten = Counter(
            "gregor_delivery_tokens_forgotten", "Dead push tokens deleted.", ("channel",), registry=registry
        )
        self.dead = Counter(
            "gregor_delivery_dead", "Deliveries that were given up: dead letters.", ("channel",), registry=registry
        )

    def _add_state(self, registry: CollectorRegistry) -> None:
        """Add the gauges of the workers of this process, and the counter of their internal errors."""
        self.in_flight = Gauge("gregor_delivery_in_flight", "Running attempts.", ("channel",), registry=registry)
        self.stopped = Gauge(
            "gregor_delivery_stopped",
            "1 if the provider rejects our credentials or configuration: an operator must fix it.",
            ("channel",),
            registry=registry,
        )
        self.parked = Gauge(
            "gregor_delivery_parked", "1 while the circuit breaker is open.", ("channel",), registry=registry
        )
        self.failures = Counter(
            "gregor_delivery_failures", "Internal errors of attempts, retried later.", ("channel",), registry=registry
        )
        clock_doc = "1 while this process takes no deliveries, because its clock and that of Redis differ."
        self.clock_refused = Reading("gauge", "delivery_clock_refused", clock_doc, registry=registry)
        for channel in CHANNELS:
            # Prometheus sees the first failure as an increase only if the counter existed before.
            self.failures.labels(channel)

    def _add_queue(self, registry: CollectorRegistry) -> None:
        """Add the metrics of the streams. Every delivery process publishes those of the whole deployment."""

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(f"gregor_queue_{name}", text, ("channel",), registry=registry)

        self.queue_unclaimed = gauge("unclaimed", "Deliveries in the stream that no worker has claimed: the lag.")
        self.queue_claimed = gauge("claimed", "Deliveries that workers have claimed and not finished.")
        self.queue_waiting = gauge("waiting", "Deliveries that wait for their next attempt.")
        self.queue_quarantined = gauge("quarantined", "Entries that no release of Gregor could read.")
        self.queue_oldest = gauge("oldest_seconds", "Age of the oldest delivery in the stream; 0 if it is empty.")

    def use_sizes(self, channel: str, sizes: QueueSizes) -> None:
        """Publish the sizes of the queue of a channel."""
        self.queue_unclaimed.labels(channel).set(sizes.unclaimed)
        self.queue_claimed.labels(channel).set(sizes.claimed)
        self.queue_waiting.labels(channel).set(sizes.waiting)
        self.queue_quarantined.labels(channel).set(sizes.quarantined)
        self.queue_oldest.labels(channel).set(sizes.oldest_s)
