"""How a projector fares: in words for `/readyz`, in figures for `/metrics`."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator

from msgspec import Struct
from prometheus_client import (
    GC_COLLECTOR,
    PLATFORM_COLLECTOR,
    PROCESS_COLLECTOR,
    CollectorRegistry,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from jobtrail.contract import readiness
from projections.projector.vitals import Vitals


class Readiness(Struct, frozen=True, rename="camel"):
    """Whether a projector does its work, as `/readyz` answers."""

    ready: bool
    #: What is wrong, in words; empty where nothing is.
    reasons: tuple[str, ...]
    #: Those that are its own.
    partitions: tuple[int, ...]
    #: Records of these that are not applied yet, as of the last look.
    lag_records: int


class Health:
    """Judges what is known of a projector.

    Args:
        vitals: What is known.
        stalled_after: Seconds of silence, or without progress with events to apply, after which it
            is not ready.
    """

    def __init__(self, vitals: Vitals, stalled_after: float) -> None:
        self._vitals = vitals
        self._stalled_after = stalled_after
        self._registry = CollectorRegistry()
        for collector in (GC_COLLECTOR, PLATFORM_COLLECTOR, PROCESS_COLLECTOR, _Figures(self)):
            self._registry.register(collector)

    @property
    def vitals(self) -> Vitals:
        """What is known."""
        return self._vitals

    def reasons(self) -> list[str]:
        """Return in words what keeps the projector from its work; nothing where all is well."""
        vitals, limit = self._vitals, self._stalled_after
        found = []
        if vitals.draining.is_set():
            found.append(readiness.DRAINING)
        if not vitals.log_answers:
            found.append(readiness.LOG_SILENT)
        assigned, stopped = vitals.assigned(), vitals.stopped()
        if not assigned:
            found.append("No partition is assigned to this projector.")
        if vitals.store_fault:
            found.append(vitals.store_fault)
        beat = vitals.beaten_at
        silent = math.inf if beat is None else time.monotonic() - beat
        if silent > limit:
            found += readiness.silent(dict.fromkeys(assigned, silent))
        found += readiness.stopped_at_holes(stopped)
        still = vitals.progress.still_for()
        found += readiness.without_progress(
            {p: s for p, s in still.items() if p in assigned and p not in stopped and s > limit}
        )
        return found

    def readiness(self) -> Readiness:
        """Return whether the projector does its work."""
        reasons = tuple(self.reasons())
        partitions = tuple(sorted(self._vitals.assigned()))
        return Readiness(not reasons, reasons, partitions, sum(self.lags().values()))

    def lags(self) -> dict[int, int]:
        """Return by assigned partition how many offsets are not applied yet."""
        at, ends = self.positions(), self._vitals.progress.ends
        return {p: max(0, ends.get(p, offset) - offset) for p, offset in at.items()}

    def positions(self) -> dict[int, int]:
        """Return by assigned partition the next offset to apply, as far as it is known."""
        # A copy: the store's thread moves them on.
        at = dict(self._vitals.progress.next_offsets)
        return {p: at[p] for p in sorted(self._vitals.assigned()) if p in at}

    def metrics(self) -> bytes:
        """Return all figures in Prometheus's text form."""
        return generate_latest(self._registry)


class _Figures(Collector):
    """Reads the figures when Prometheus asks."""

    def __init__(self, health: Health) -> None:
        self._health = health

    def describe(self) -> Iterable[Metric]:
        """Return nothing: no other collector has names that begin as these do."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Return the figures as they are now."""
        health, vitals = self._health, self._health.vitals
        records = CounterMetricFamily(
            "jobtrail_projector_records",
            "Records that this process has applied, by what the fold made of them; `dead` went to "
            "the dead-letter topic.",
            labels=["verdict"],
        )
        for verdict, count in vitals.tally._asdict().items():
            records.add_metric([verdict], count)
        yield records
        yield CounterMetricFamily(
            "jobtrail_projector_rebalances",
            "How often partitions were shared out again since this process is in its group.",
            value=vitals.rebalances(),
        )
        ready = not health.reasons()
        for name, text, value in (
            ("ready", "Whether `/readyz` answers 200.", float(ready)),
            ("log_answers", "Whether the log has answered last time.", float(vitals.log_answers)),
            ("assigned_partitions", "Partitions of this process.", float(len(vitals.assigned()))),
            ("stopped_partitions", "Of them those at a hole.", float(len(vitals.stopped()))),
            (
                "applied_timestamp_seconds",
                "When this process last has applied records. Unix time; 0 for never.",
                vitals.applied_at,
            ),
        ):
            yield GaugeMetricFamily(f"jobtrail_projector_{name}", text, value=value)
        still = vitals.progress.still_for()
        at = health.positions()
        for name, text, figures in (
            ("position", "The checkpoint: the next offset to apply.", at),
            ("lag_records", "Offsets that are not applied yet.", health.lags()),
            (
                "still_seconds",
                "For how long a partition has had events to apply and has not moved.",
                {p: still.get(p, 0.0) for p in at},
            ),
        ):
            family = GaugeMetricFamily(f"jobtrail_projector_{name}", text, labels=["partition"])
            for partition, figure in figures.items():
                family.add_metric([str(partition)], figure)
            yield family
