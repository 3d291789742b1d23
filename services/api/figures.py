"""The figures of a service that its parts know: read from them when Prometheus asks."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from functools import partial

from projections.ports.read import Watermark
from services.api.problems.problems import Problem
from services.api.service import Service

#: Reads a figure of one partition.
_Read = Callable[[Watermark, int], float]


def measure(service: Service) -> None:
    """Add to the metrics of a service what its parts know of themselves."""
    metrics = service.metrics
    metrics.measure("jobtrail_waits_held", "Waits that are held now.", lambda: service.waits.held)
    metrics.measure(
        "jobtrail_watched_jobs",
        "Jobs that held waits look at; every job counts once.",
        lambda: len(service.waits.watches),
    )
    _measure_feed(service)
    metrics.measure(
        "jobtrail_tail_lag_records",
        "Records of the log that the tail has not taken in yet.",
        service.tail.records_behind,
    )
    metrics.measure(
        "jobtrail_tail_silent_seconds",
        "How long the log has not answered the tail.",
        service.pulse.silent_for,
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
        "jobtrail_folds_waited",
        "Requests that waited since jobs had more events beyond the projections than one folds.",
        lambda: service.overlay.waited,
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
    _measure_shares(service)
    for name, text, read in _by_partition(service):
        metrics.figures(name, text, "partition", partial(_each, service, read))
    metrics.count(
        "jobtrail_projected_records",
        "Records that the projections hold, by what the fold made of them; `dead` went to the "
        "dead-letter topic. The same in every process that reads these projections.",
        "verdict",
        partial(_verdicts, service),
    )


def _measure_shares(service: Service) -> None:
    """Add what callers share: how much of it is taken, and how often there was none left."""
    metrics = service.metrics
    metrics.measure(
        "jobtrail_long_reads",
        "Long reads that are under way or wait for their turn.",
        lambda: len(service.reads),
    )
    metrics.measure(
        "jobtrail_long_read_seconds",
        "Seconds of a processor that long reads have taken.",
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
        "Requests whose positions are looked up in the log, or wait for their turn.",
        lambda: len(service.proofs),
    )
    metrics.measure(
        "jobtrail_bulk_waits_held",
        "Requests that are held for a bulk, whether they wait for jobs of it yet or not.",
        lambda: len(service.slots),
    )
    metrics.measure(
        "jobtrail_outgoing_bytes",
        "Bytes of large answers that their clients have not taken yet.",
        lambda: service.outgoing.size,
    )
    metrics.count(
        "jobtrail_outgoing_refused",
        "Answers that were refused since too many bytes were under way, by the bound: of the "
        "`caller` or of the `process`.",
        "bound",
        lambda: service.outgoing.refused,
    )


def _measure_feed(service: Service) -> None:
    metrics = service.metrics
    metrics.measure("jobtrail_feeds", "Who listens now.", lambda: service.feed.listeners)
    metrics.measure(
        "jobtrail_feed_buffer_bytes",
        "Bytes kept of what listeners are told.",
        lambda: service.feed.size + service.spans.size,
    )
    metrics.measure(
        "jobtrail_feed_log_reads",
        "How often the log was read for listeners who are behind.",
        lambda: service.spans.scans,
    )
    metrics.measure(
        "jobtrail_feed_dropped_spans",
        "How often something that was read for them was dropped early, for want of room.",
        lambda: service.spans.dropped,
    )


def _by_partition(service: Service) -> Iterable[tuple[str, str, _Read]]:
    """Return what is known of each partition: a metric's name, what it is, and what reads it."""
    return (
        (
            "jobtrail_projection_position",
            "The offset before which the projections hold everything.",
            lambda held, p: held.position[p],
        ),
        (
            "jobtrail_projection_verified_position",
            "The offset before which the log was found to be the one that was folded.",
            lambda held, p: held.proved.get(p, 0),
        ),
        (
            "jobtrail_projection_still_seconds",
            "For how long a partition has had events to apply and has not moved.",
            lambda _held, p: service.standing.still_for(p),
        ),
        (
            "jobtrail_projector_silent_seconds",
            "For how long no projector has said that it lives.",
            lambda held, p: service.standing.silent_for(held, p),
        ),
        (
            "jobtrail_partition_answered",
            "Whether a partition is answered for: 0 while it is folded again or stands at a hole.",
            lambda held, p: float(p not in held.recovering and p not in held.stopped),
        ),
    )


def _each(service: Service, read: _Read) -> dict[str, float]:
    with contextlib.suppress(Problem), service.store.snapshot(allow_recovering=True) as snapshot:
        held = snapshot.watermark
        service.standing.note(held)
        return {str(partition): read(held, partition) for partition in sorted(held.position)}
    return {}


def _verdicts(service: Service) -> dict[str, int]:
    with contextlib.suppress(Problem), service.store.snapshot(allow_recovering=True) as snapshot:
        return snapshot.verdicts()
    return {}


def _records_behind(service: Service) -> float:
    with contextlib.suppress(Problem), service.store.snapshot(allow_recovering=True) as snapshot:
        held = snapshot.watermark.position
        ends = service.buffer.position
        return sum(max(0, end - held.get(partition, 0)) for partition, end in ends.items())
    return float("nan")


def _lag(service: Service) -> float:
    unknown = float("nan")
    with contextlib.suppress(Problem), service.store.snapshot(allow_recovering=True) as snapshot:
        lag = service.freshness.lag(snapshot.watermark)
        return unknown if lag is None else lag
    return unknown
