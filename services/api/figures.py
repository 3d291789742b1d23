"""The figures of a service that its parts know: read from them when Prometheus asks."""

from __future__ import annotations

import contextlib
from functools import partial

from jobtrail.errors import StoreError
from services.api.service import Service


def measure(service: Service) -> None:
    """Add to the metrics of a service what its parts know of themselves."""
    metrics = service.metrics
    metrics.measure("jobtrail_waits_held", "Waits that are held now.", lambda: service.waits.held)
    metrics.measure(
        "jobtrail_watched_jobs",
        "Jobs that held waits look at; every job counts once.",
        lambda: len(service.waits.watches),
    )
    metrics.measure("jobtrail_feeds", "Who listens now.", lambda: service.feed.listeners)
    metrics.measure(
        "jobtrail_tail_lag_records",
        "Records of the log that the tail has not taken in yet.",
        service.tail.records_behind,
    )
    metrics.measure(
        "jobtrail_tail_silent_seconds",
        "How long the log has not answered the tail.",
        service.tail.silent_for,
    )
    metrics.measure(
        "jobtrail_tail_buffer_bytes",
        "Bytes of records that the projections do not hold yet.",
        lambda: service.buffer.size,
    )
    metrics.measure(
        "jobtrail_tail_dropped_records",
        "Records that were dropped since the projections were too far behind.",
        lambda: service.buffer.dropped,
    )
    metrics.measure(
        "jobtrail_projection_lag_seconds",
        "By how much the projections are behind the log; NaN while that is not known.",
        lambda: _lag(service),
    )

    metrics.measure(
        "jobtrail_projection_lag_records",
        "Records that the tail has seen and the projections do not hold.",
        lambda: _records_behind(service),
    )
    metrics.count(
        "jobtrail_projected_records",
        "Records that the projections hold, by what the fold made of them; `dead` went to the "
        "dead-letter topic. The same in every process that reads these projections.",
        "verdict",
        partial(_verdicts, service),
    )


def _verdicts(service: Service) -> dict[str, int]:
    with contextlib.suppress(StoreError), service.store.view() as snapshot:
        return snapshot.verdicts()
    return {}


def _records_behind(service: Service) -> float:
    with contextlib.suppress(StoreError), service.store.view() as snapshot:
        held = snapshot.held.position
        ends = service.buffer.position
        return sum(max(0, end - held.get(partition, 0)) for partition, end in ends.items())
    return float("nan")


def _lag(service: Service) -> float:
    unknown = float("nan")
    with contextlib.suppress(StoreError), service.store.view() as snapshot:
        lag = service.freshness.lag(snapshot.held)
        return unknown if lag is None else lag
    return unknown
