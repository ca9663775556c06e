"""Metrics of a canary: rounds, failures by stage, and times. The labels are transports and stages."""

from __future__ import annotations

from typing import Final, get_args

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from .receivers import Transport
from .round import RoundResult

_BUCKETS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10)


class CanaryMetrics:
    """The metrics of one canary, in a registry without any other metric."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.rounds = Counter(
            "gregor_canary_rounds", "Rounds: ok or failed.", ("transport", "outcome"), registry=self.registry
        )
        self.failures = Counter(
            "gregor_canary_failures", "Failed rounds, by stage.", ("transport", "stage"), registry=self.registry
        )
        self.connect_seconds = self._histogram("connect", "Time until the device is connected and synchronized.")
        self.publish_seconds = self._histogram("publish", "Time until the response of ingest.")
        self.receive_seconds = self._histogram("receive", "Time from the request to the frame at the device.")
        self.timer_late_seconds = self._histogram("timer_late", "Lateness of an item that a scheduler creates.")
        for transport in get_args(Transport):
            self.rounds.labels(transport, "ok")  # a rate needs the zero before the first success

    def observe(self, result: RoundResult) -> None:
        """Count one round."""
        transport = result.transport
        self.rounds.labels(transport, "ok" if result.failure is None else "failed").inc()
        if result.failure is not None:
            self.failures.labels(transport, result.failure.stage.value).inc()
        for histogram, seconds in (
            (self.connect_seconds, result.connect_s),
            (self.publish_seconds, result.publish_s),
            (self.receive_seconds, result.receive_s),
            (self.timer_late_seconds, result.timer_late_s),
        ):
            if seconds is not None:
                histogram.labels(transport).observe(seconds)

    def exposition(self) -> bytes:
        """Return all metrics in the Prometheus text format."""
        return generate_latest(self.registry)

    def _histogram(self, name: str, text: str) -> Histogram:
        full = f"gregor_canary_{name}_seconds"
        return Histogram(full, text, ("transport",), buckets=_BUCKETS_S, registry=self.registry)
