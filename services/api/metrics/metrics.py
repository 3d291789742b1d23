"""The metrics of one process, in the form that Prometheus reads.

Each service has a registry of its own, so that several can run in one process.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import accumulate

from prometheus_client import (
    GC_COLLECTOR,
    PLATFORM_COLLECTOR,
    PROCESS_COLLECTOR,
    CollectorRegistry,
    Gauge,
    Histogram,
    generate_latest,
)
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

_REQUEST_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
_WAKE_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5)


class _Counts(Collector):
    """Counts that another object keeps."""

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


class _Figures(Collector):
    """Figures that another object knows, one for each value of a label."""

    def __init__(
        self, name: str, text: str, label: str, read: Callable[[], Mapping[str, float]]
    ) -> None:
        self._family = partial(GaugeMetricFamily, name, text, labels=[label])
        self._read = read

    def describe(self) -> Iterable[Metric]:
        """Return the metric without figures: nothing is read before Prometheus asks."""
        return [self._family()]

    def collect(self) -> Iterable[Metric]:
        """Return the figures as they are now."""
        family = self._family()
        for name, figure in self._read().items():
            family.add_metric([name], figure)
        return [family]


class _Requests(Collector):
    """Counts answered requests and their durations.

    Only the event loop counts, so no lock is needed. The metrics of prometheus_client take one for
    each figure, which costs a hundredth of a page's time.
    """

    def __init__(self) -> None:
        self._answered: dict[tuple[str, str, int], int] = {}
        #: By route the sum of seconds, and the requests per bucket; the last bucket has no bound.
        self._seconds: dict[str, tuple[list[float], list[int]]] = {}

    def count(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count a request."""
        key = (route, method, status)
        self._answered[key] = self._answered.get(key, 0) + 1
        durations = self._seconds.get(route)
        if durations is None:
            durations = self._seconds[route] = ([0.0], [0] * (len(_REQUEST_BUCKETS) + 1))
        durations[0][0] += seconds
        durations[1][bisect_left(_REQUEST_BUCKETS, seconds)] += 1

    def describe(self) -> Iterable[Metric]:
        """Return the metrics without figures."""
        return [
            CounterMetricFamily(
                "jobtrail_http_requests", "Requests answered.", labels=("route", "method", "status")
            ),
            HistogramMetricFamily(
                "jobtrail_http_request_seconds",
                "From a request's arrival to its answer, waits included.",
                labels=("route",),
            ),
        ]

    def collect(self) -> Iterable[Metric]:
        """Return the figures as they are now."""
        requests, durations = self.describe()
        assert isinstance(requests, CounterMetricFamily)
        assert isinstance(durations, HistogramMetricFamily)
        for (route, method, status), count in self._answered.items():
            requests.add_metric((route, method, str(status)), count)
        bounds = [*(str(float(bound)) for bound in _REQUEST_BUCKETS), "+Inf"]
        for route, (seconds, counts) in self._seconds.items():
            up_to = [float(count) for count in accumulate(counts)]
            durations.add_metric((route,), list(zip(bounds, up_to, strict=True)), seconds[0])
        return [requests, durations]


class Metrics:
    """The figures of one API process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        for collector in (GC_COLLECTOR, PLATFORM_COLLECTOR, PROCESS_COLLECTOR):
            self.registry.register(collector)
        requests = _Requests()
        self.registry.register(requests)
        #: Takes route, method, status and seconds of an answered request.
        self.answered = requests.count
        self.wake_delay = Histogram(
            "jobtrail_wake_seconds",
            "From an event's arrival at the tail to the answer of the wait that it ended.",
            buckets=_WAKE_BUCKETS,
            registry=self.registry,
        )

    def measure(self, name: str, text: str, read: Callable[[], float]) -> None:
        """Register a figure that is read when Prometheus asks."""
        Gauge(name, text, registry=self.registry).set_function(read)

    def count(
        self, name: str, text: str, label: str, read: Callable[[], Mapping[str, int]]
    ) -> None:
        """Register counts that another object keeps, read when Prometheus asks.

        Args:
            name: The metric's name.
            text: Its description.
            label: The label by which the counts are distinguished.
            read: Returns the count of each.
        """
        self.registry.register(_Counts(name, text, label, read))

    def figures(
        self, name: str, text: str, label: str, read: Callable[[], Mapping[str, float]]
    ) -> None:
        """Register figures that another object knows, read when Prometheus asks.

        Args:
            name: The metric's name.
            text: Its description.
            label: The label by which the figures are distinguished.
            read: Returns the figure of each.
        """
        self.registry.register(_Figures(name, text, label, read))

    def text(self) -> bytes:
        """Return all metrics in Prometheus's text format."""
        return generate_latest(self.registry)
