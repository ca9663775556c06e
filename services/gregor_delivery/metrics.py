"""Metrics of a delivery process, labelled by channel and verdict, never by token or address."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


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
            "gregor_delivery_send_seconds", "Duration of one provider request.", ("channel",), registry=registry
        )
        self.age_seconds = Histogram(
            "gregor_delivery_age_seconds",
            "Time from the decision to notify to the provider's response.",
            ("channel",),
            buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15, 30, 60, 300, 1_800, 21_600),
            registry=registry,
        )
        self.stopped = Gauge(
            "gregor_delivery_stopped",
            "1 if the provider rejects our credentials or configuration: an operator must fix it.",
            ("channel",),
            registry=registry,
        )
        self.parked = Gauge(
            "gregor_delivery_parked", "1 while the circuit breaker is open.", ("channel",), registry=registry
        )
        self.tokens_forgotten = Counter(
            "gregor_delivery_tokens_forgotten", "Dead push tokens deleted.", ("channel",), registry=registry
        )
        self.failures = Counter(
            "gregor_delivery_failures", "Internal errors of attempts, retried later.", ("channel",), registry=registry
        )
