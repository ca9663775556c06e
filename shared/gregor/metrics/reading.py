"""A metric with a callback (an observable counter or gauge): each scrape reads numbers that the code keeps anyway.

The code that counts needs no lock, no lookup of labels and no call. Hot paths and gauges of queues use it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Literal, TypeAlias

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

Values: TypeAlias = Mapping[tuple[str, ...], float]
"""The value of each series, by the values of its labels; ``{(): value}`` for a metric without labels."""


def by_label(values: Mapping[str, float | None]) -> Values:
    """Return the values of a metric with one label. An unknown value (``None``) has no series."""
    return {(label,): value for label, value in values.items() if value is not None}


class Reading(Collector):
    """A counter or gauge that stores no value. It has no series until ``read_from`` sets the callback."""

    def __init__(
        self, kind: Literal["counter", "gauge"], name: str, text: str, *labels: str, registry: CollectorRegistry
    ) -> None:
        self._kind = kind
        self._name = f"gregor_{name}"
        self._text = text
        self._labelnames = labels
        self._read: Callable[[], Values] = dict
        registry.register(self)

    def read_from(self, read: Callable[[], Values]) -> None:
        """Call ``read`` at each scrape. The callback must return quickly: the event loop waits for it."""
        self._read = read

    def describe(self) -> Iterable[CounterMetricFamily | GaugeMetricFamily]:
        """See ``Collector.describe``: the registry learns the name without a read."""
        yield self._family()

    def collect(self) -> Iterable[CounterMetricFamily | GaugeMetricFamily]:
        """See ``Collector.collect``."""
        family = self._family()
        for labels, value in self._read().items():
            family.add_metric(labels, value)
        yield family

    def _family(self) -> CounterMetricFamily | GaugeMetricFamily:
        kind = CounterMetricFamily if self._kind == "counter" else GaugeMetricFamily
        return kind(self._name, self._text, labels=self._labelnames)
