"""What a process tells Prometheus about itself.

Each service has a registry of its own, so that several can live in one process, and looks up the
children of its metrics once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial

from prometheus_client import (
    GC_COLLECTOR,
    PLATFORM_COLLECTOR,
    PROCESS_COLLECTOR,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

_REQUEST_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
_WAKE_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5)


class _Counts(Collector):
    """Counts that somebody else keeps."""

    def __init__(
        self, name: str, text: str, label: str, read: Callable[[], Mapping[str, int]]
    ) -> None:
        self._family = partial(CounterMetricFamily, name, text, labels=[label])
        self._read = read

    def describe(self) -> Iterable[Metric]:
        """Return the metric without counts: nothing is read before Prometheus asks."""
        return [self._family()]

    def collect(self) -> Iterable[Metric]:
        """Return the counts as they are now."""
        family = self._family()
        for name, count in self._read().items():
            family.add_metric([name], count)
        return [family]


class Metrics:
    """The figures of one API process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        for collector in (GC_COLLECTOR, PLATFORM_COLLECTOR, PROCESS_COLLECTOR):
            self.registry.register(collector)
        self._requests = Counter(
            "jobtrail_http_requests",
            "Requests answered.",
            ("route", "method", "status"),
            registry=self.registry,
        )
        self._durations = Histogram(
            "jobtrail_http_request_seconds",
            "From a request's arrival to its answer, waits included.",
            ("route",),
            buckets=_REQUEST_BUCKETS,
            registry=self.registry,
        )
        self.wake_delay = Histogram(
            "jobtrail_wake_seconds",
            "From an event's arrival at the tail to the answer of the wait that it ended.",
            buckets=_WAKE_BUCKETS,
            registry=self.registry,
        )
        self._by_route: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}

    def answered(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count a request."""
        children = self._by_route.get((route, method, status))
        if children is None:
            children = (
                self._requests.labels(route, method, str(status)),
                self._durations.labels(route),
            )
            self._by_route[route, method, status] = children
        children[0].inc()
        children[1].observe(seconds)

    def measure(self, name: str, text: str, read: Callable[[], float]) -> None:
        """Add a figure that is read when Prometheus asks."""
        Gauge(name, text, registry=self.registry).set_function(read)

    def count(
        self, name: str, text: str, label: str, read: Callable[[], Mapping[str, int]]
    ) -> None:
        """Add counts that somebody else keeps, read when Prometheus asks.

        Args:
            name: Of the metric.
            text: What it is.
            label: What the counts are told apart by.
            read: Returns the count of each.
        """
        self.registry.register(_Counts(name, text, label, read))

    def text(self) -> bytes:
        """Return all figures in Prometheus's text form."""
        return generate_latest(self.registry)
