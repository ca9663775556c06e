"""What a delivery process counts: by channel and verdict, never by token or address."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


class DeliveryMetrics:
    """The figures of one delivery process, in the registry of its process."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.attempts = Counter(
            "gregor_delivery_attempts", "Calls of providers, by verdict.", ("channel", "verdict"), registry=registry
        )
        self.held = Counter(
            "gregor_delivery_held", "What was not sent, by reason.", ("channel", "reason"), registry=registry
        )
        self.send_seconds = Histogram(
            "gregor_delivery_send_seconds", "Time of one call of a provider.", ("channel",), registry=registry
        )
        self.age_seconds = Histogram(
            "gregor_delivery_age_seconds",
            "From the decision to tell to the provider's answer.",
            ("channel",),
            buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15, 60, 300, 1_800, 21_600),
            registry=registry,
        )
        self.stopped = Gauge(
            "gregor_delivery_stopped",
            "1 where a provider refuses our credentials or set-up: somebody must mend it.",
            ("channel",),
            registry=registry,
        )
        self.parked = Gauge(
            "gregor_delivery_parked",
            "1 where nothing is sent for now: the provider fails.",
            ("channel",),
            registry=registry,
        )
        self.tokens_forgotten = Counter(
            "gregor_delivery_tokens_forgotten", "Push tokens that were dead.", ("channel",), registry=registry
        )
        self.failures = Counter(
            "gregor_delivery_failures",
            "Work that failed by itself and is tried again.",
            ("channel",),
            registry=registry,
        )
