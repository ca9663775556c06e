"""What a scheduler counts: how late it is, and what became of what was due."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_LATE_S = (0.05, 0.1, 0.25, 0.5, 1, 1.5, 2.5, 5, 15, 60, 300, 1_800, 21_600)


class Figures:
    """The figures of one scheduler, in the registry of its process."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.lateness = Histogram(
            "gregor_timer_lateness_seconds",
            "From when something was due to when it was done, by kind.",
            ("kind",),
            buckets=_LATE_S,
            registry=registry,
        )
        self.timers = Counter(
            "gregor_timers", "What was due, by kind and outcome.", ("kind", "outcome"), registry=registry
        )
        self.due_lag = Gauge(
            "gregor_due_lag_seconds", "How long the user longest due waits whom nobody has taken.", registry=registry
        )
        self.handed_over = Counter(
            "gregor_intents", "Intents handed to the delivery streams, by channel.", ("channel",), registry=registry
        )
        self.put_off = Counter(
            "gregor_intents_put_off",
            "Intents that wait on the agenda because the stream of their channel is full.",
            ("channel",),
            registry=registry,
        )
        self.handed_over_again = Counter(
            "gregor_intents_again",
            "Intents handed over again because nothing became of them: what the queue lost.",
            ("channel",),
            registry=registry,
        )
        self.folded = Counter("gregor_folded_items", "Items that became part of a summary.", registry=registry)
        self.aggregator_failures = Counter(
            "gregor_aggregator_failures",
            "Aggregators that raised or made no body.",
            ("aggregator",),
            registry=registry,
        )
        self.delayed_refused = Counter(
            "gregor_delayed_refused", "Delayed messages refused at their time, by code.", ("code",), registry=registry
        )
        self.tick_seconds = Histogram("gregor_tick_seconds", "Time of one round over what is due.", registry=registry)
