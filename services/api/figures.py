"""The metrics of a service that are read from its parts when Prometheus asks."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from functools import partial

from projections.ports.read import Watermark
from services.api.problems.problems import Problem
from services.api.service import Service

#: Returns a figure of one partition.
_PartitionFigure = Callable[[Watermark, int], float]


def measure(service: Service) -> None:
    """Register the metrics that the parts of a service can tell."""
    metrics = service.metrics
    metrics.measure("jobtrail_waits_held", "Waits that are open.", lambda: service.waits.held)
    metrics.measure(
        "jobtrail_watched_jobs",
        "Jobs that open waits watch; every job counts once.",
        lambda: len(service.waits.watches),
    )
    _measure_feed(service)
    metrics.measure(
        "jobtrail_tail_lag_records",
        "Records of the log that the tail has not read yet.",
        service.tail.lag_records,
    )
    metrics.measure(
        "jobtrail_tail_silent_seconds",
        "Seconds since the log last answered the tail.",
        service.liveness.silent_for,
    )
    metrics.measure(
        "jobtrail_tail_buffer_bytes",
        "Bytes of records that the projections have not applied yet.",
        lambda: service.buffer.size,
    )
    metrics.measure(
        "jobtrail_tail_dropped_records",
        "Records that were dropped because the projections lagged too far.",
        lambda: service.buffer.dropped,
    )
    metrics.measure(
        "jobtrail_folds_waited",
        "Requests that waited because jobs had more events beyond the projections than one folds.",
        lambda: service.overlay.waited,
    )
    metrics.measure(
        "jobtrail_projection_lag_seconds",
        "By how many seconds the projections lag the log; NaN while that is unknown.",
        lambda: _lag(service),
    )

    metrics.measure(
        "jobtrail_projection_lag_records",
        "Records that the tail has read and the projections have not applied.",
        lambda: _records_behind(service),
    )
    _measure_shares(service)
    for name, text, read in _by_partition(service):
        metrics.figures(name, text, "partition", partial(_each, service, read))
    metrics.count(
        "jobtrail_projected_records",
        "Records that the projections have applied, by the fold's verdict; `dead` went to the "
        "dead-letter topic. The same in every process that reads these projections.",
        "verdict",
        partial(_verdicts, service),
    )


def _measure_shares(service: Service) -> None:
    """Register the use of what callers share, and how often a bound was met."""
    metrics = service.metrics
    metrics.measure(
        "jobtrail_long_reads",
        "Long reads that run or wait for their turn.",
        lambda: len(service.reads),
    )
    metrics.measure(
        "jobtrail_long_read_seconds",
        "Seconds of processor time that long reads have taken.",
        lambda: service.reads.seconds,
    )
    metrics.count(
        "jobtrail_long_reads_refused",
        "Long reads that were refused or ended, by the bound: of the `caller`, of the `process`, "
        "or the `deadline`.",
        "bound",
        lambda: service.reads.refused,
    )
    metrics.measure(
        "jobtrail_requests_waiting",
        "Requests that wait for their caller's turn on the event loop.",
        lambda: service.turns.waiting,
    )
    metrics.measure(
        "jobtrail_positions_proving",
        "Requests whose positions are being proven by the log, or wait for their turn.",
        lambda: len(service.proofs),
    )
    metrics.measure(
        "jobtrail_bulk_waits_held",
        "Requests that wait for a bulk, whether they watch jobs of it yet or not.",
        lambda: len(service.slots),
    )
    metrics.measure(
        "jobtrail_outgoing_bytes",
        "Bytes of large answers that their clients have not read yet.",
        lambda: service.outgoing.size,
    )
    metrics.count(
        "jobtrail_outgoing_refused",
        "Answers that were refused because too many bytes were unread, by the bound: of the "
        "`caller` or of the `process`.",
        "bound",
        lambda: service.outgoing.refused,
    )


def _measure_feed(service: Service) -> None:
    metrics = service.metrics
    metrics.measure("jobtrail_feeds", "Listeners to the feed.", lambda: service.feed.listeners)
    metrics.measure(
        "jobtrail_feed_buffer_bytes",
        "Bytes of changes that are cached for listeners.",
        lambda: service.feed.size + service.spans.size,
    )
    metrics.measure(
        "jobtrail_feed_log_reads",
        "How often the log was read for listeners that lag.",
        lambda: service.spans.scans,
    )
    metrics.measure(
        "jobtrail_feed_dropped_spans",
        "How often a span that was read for them was dropped early, because the cache was full.",
        lambda: service.spans.dropped,
    )


def _by_partition(service: Service) -> Iterable[tuple[str, str, _PartitionFigure]]:
    """Return the metrics of each partition: name, description, and what reads the figure."""
    return (
        (
            "jobtrail_projection_position",
            "The offset before which the projections have applied every record.",
            lambda watermark, p: watermark.position[p],
        ),
        (
            "jobtrail_projection_verified_position",
            "The offset before which the log was verified to be the one that was folded.",
            lambda watermark, p: watermark.proved.get(p, 0),
        ),
        (
            "jobtrail_projection_still_seconds",
            "Seconds for which a partition has events to apply and its checkpoint does not move.",
            lambda _held, p: service.stalls.still_for(p),
        ),
        (
            "jobtrail_projector_silent_seconds",
            "Seconds since a projector last wrote its heartbeat.",
            lambda watermark, p: service.stalls.silent_for(watermark, p),
        ),
        (
            "jobtrail_partition_answered",
            "1 if a partition is answered for; 0 while it is folded again or stopped at a gap.",
            lambda watermark, p: float(
                p not in watermark.recovering and p not in watermark.stopped
            ),
        ),
    )


def _each(service: Service, read: _PartitionFigure) -> dict[str, float]:
    with contextlib.suppress(Problem), service.store.snapshot(allow_recovering=True) as snapshot:
        watermark = snapshot.watermark
        service.stalls.note(watermark)
        return {
            str(partition): read(watermark, partition) for partition in sorted(watermark.position)
        }
    return {}


def _verdicts(service: Service) -> dict[str, int]:
    with contextlib.suppress(Problem), service.store.snapshot(allow_recovering=True) as snapshot:
        return snapshot.verdicts()
    return {}


def _records_behind(service: Service) -> float:
    with contextlib.suppress(Problem), service.store.snapshot(allow_recovering=True) as snapshot:
        watermark = snapshot.watermark.position
        ends = service.buffer.position
        return sum(max(0, end - watermark.get(partition, 0)) for partition, end in ends.items())
    return float("nan")


def _lag(service: Service) -> float:
    unknown = float("nan")
    with contextlib.suppress(Problem), service.store.snapshot(allow_recovering=True) as snapshot:
        lag = service.freshness.lag(snapshot.watermark)
        return unknown if lag is None else lag
    return unknown
