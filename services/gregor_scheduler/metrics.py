"""Metrics of a scheduler: lateness of due work, and its outcomes."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from gregor.core.errors import ERRORS
from gregor.core.notify.intents import CHANNELS
from gregor.metrics.reading import Reading
from gregor.store.contract.agenda import WorkKind

_LATENESS_BUCKETS_S = (0.05, 0.1, 0.25, 0.5, 1, 1.5, 2.5, 5, 15, 60, 300, 1_800, 21_600)


class SchedulerMetrics:
    """The metrics of one scheduler process, registered in ``registry``."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.lateness = Histogram(
            "gregor_timer_lateness_seconds",
            "Time from the due time to the execution of due work, by kind.",
            ("kind",),
            buckets=_LATENESS_BUCKETS_S,
            registry=registry,
        )
        self.timers = Counter("gregor_timers", "Due work, by kind and outcome.", ("kind", "outcome"), registry=registry)
        self.due_lag = Gauge(
            "gregor_due_lag_seconds", "Waiting time of the user who is due longest and not claimed.", registry=registry
        )
        unknown_doc = "Partitions whose due work is unknown, because their Redis server is unreachable."
        self.due_unknown = Gauge("gregor_due_unknown_partitions", unknown_doc, registry=registry)
        polled_doc = "Partitions whose due times are polled, because the Redis server does not report their changes."
        self.due_polled = Gauge("gregor_due_polled_partitions", polled_doc, registry=registry)
        owned_doc = "Partitions that this scheduler serves first, of those that all schedulers share."
        self.owned_partitions = Gauge("gregor_owned_partitions", owned_doc, registry=registry)
        self._add_process(registry)
        self._add_intents(registry)
        self.folded = Counter("gregor_folded_items", "Items replaced by a summary (aggregation).", registry=registry)
        failures_doc = "Calls of aggregators that failed, timed out or returned an invalid body."
        self.aggregator_failures = Counter(
            "gregor_aggregator_failures", failures_doc, ("aggregator",), registry=registry
        )
        self.delayed_refused = Counter(
            "gregor_delayed_refused", "Delayed messages refused at their time, by code.", ("code",), registry=registry
        )
        ignored_doc = "Creations of delayed messages that left no live item at their time, by reason; not duplicates."
        self.delayed_ignored = Counter("gregor_delayed_ignored", ignored_doc, ("reason",), registry=registry)
        self._begin_at_zero()
        self.tick_seconds = Histogram("gregor_tick_seconds", "Duration of one round over due work.", registry=registry)

    def count_above_share(self, channel: str) -> None:
        """Count an intent whose user is above the share."""
        self.above_share.labels(channel).inc()

    def count_postponed(self, channel: str) -> None:
        """Count an intent for which the stream had no room."""
        self.postponed.labels(channel).inc()

    def _begin_at_zero(self) -> None:
        """Publish the counters of alerts before the first event: Prometheus sees no increase without a zero."""
        for kind in WorkKind:
            self.timers.labels(kind.name.lower(), "failed")
        for code in ERRORS:
            self.delayed_refused.labels(code)
        for channel in CHANNELS:
            for counter in (self.postponed, self.above_share, self.republished):
                counter.labels(channel)

    def _add_intents(self, registry: CollectorRegistry) -> None:
        """Add the metrics of deliveries that are published to the streams."""
        published_doc = "Intents enqueued for delivery, by channel."
        self.published = Counter("gregor_intents", published_doc, ("channel",), registry=registry)
        postponed_doc = "Intents without room in a stream, postponed."
        self.postponed = Counter("gregor_intents_put_off", postponed_doc, ("channel",), registry=registry)
        self.above_share = Counter(
            "gregor_intents_above_share", "Intents of users above their rate.", ("channel",), registry=registry
        )
        self.dead = Counter(
            "gregor_delivery_dead", "Deliveries that were given up: dead letters.", ("channel",), registry=registry
        )
        self.republished = Counter(
            "gregor_intents_again",
            "Overdue intents that were enqueued again: the queue may have lost them.",
            ("channel",),
            registry=registry,
        )

    def _add_process(self, registry: CollectorRegistry) -> None:
        """Add the metrics of this process among the other schedulers."""
        self.schedulers = Gauge(
            "gregor_schedulers_alive", "Schedulers whose lease is current, as this one sees them.", registry=registry
        )
        self.takeovers = Counter(
            "gregor_due_takeovers", "Claims of late partitions that another scheduler owns.", registry=registry
        )
        clock_doc = "1 while this scheduler claims nothing, because its clock and that of Redis differ."
        self.clock_refused = Reading("gauge", "scheduler_clock_refused", clock_doc, registry=registry)
        users_doc = "Users whose due work is executed now."
        self.users_in_progress = Reading("gauge", "due_users_in_progress", users_doc, registry=registry)
        queue_doc = "1 if the queue Redis accepted the last deliveries."
        self.queue_available = Reading("gauge", "queue_available", queue_doc, registry=registry)
        arq_doc = "1 while arq triggers the due loop; otherwise the process triggers it itself."
        self.arq_ticking = Reading("gauge", "arq_ticking", arq_doc, registry=registry)
