"""A job as of an instant or a position of the log.

As of an instant a job is the fold of its events in log order up to the first *applied* one whose
time is later; as of a position, of those before that position. So every applied event counts from
its effective time on: the largest time of the job's applied events up to and including itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from jobtrail.core.errors import EventError
from jobtrail.core.events import decode
from jobtrail.core.fold import fold
from jobtrail.core.job import Job, Place
from jobtrail.core.trail import DescriptionSpan, Event, Prefix, prefix_before


class Cut(NamedTuple):
    """Where the past ends; one of the two."""

    #: Microseconds since the epoch, inclusive.
    instant: int | None = None
    #: Per partition the offset before which events count; none of a partition that is not named.
    position: Mapping[int, int] = {}


def prefix(trail: Iterable[bytes], partition: int, cut: Cut) -> Prefix | None:
    """Return the part of a job's trail before a cut; None where the job did not exist yet.

    Args:
        trail: Of the job, in packed pieces; no more of them is taken than is needed.
        partition: The partition of the job's events.
        cut: Up to where.
    """
    return prefix_before(trail, cut.position.get(partition, 0), cut.instant)


def had_other_viewers(span: DescriptionSpan, then: Prefix) -> bool:
    """Tell whether others than those who see a job now may have seen it then.

    Args:
        span: Where the job's whole trail may describe it.
        then: The part of its trail that counts.
    """
    first, last = span
    end = then.events[-1][0]
    return first is not None and last is not None and first <= end < last


def fold_again(
    partition: int, events: Iterable[Event], bodies: Mapping[int, bytes | None]
) -> Job | None:
    """Fold the events that made a job what it was.

    Args:
        partition: The partition of the events.
        events: From the job's `Prefix`.
        bodies: The record's value by offset.

    Returns:
        The job as it was; None where an event is missing from the log or can't be decoded.
    """
    job: Job | None = None
    for offset, time in events:
        body = bodies.get(offset)
        if body is None:
            return None
        try:
            event = decode(body)
        except EventError:
            # The log is another one.
            return None
        # The trail has the time that was given to an event without one.
        job, _verdict = fold(job, event, Place(partition, offset, time))
    return job
