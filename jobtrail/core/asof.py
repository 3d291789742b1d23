"""What of a job's history counts as of an instant or a position of the log.

As of an instant a job is the fold of its events in log order up to the first *applied* one whose
time is later; as of a position, of those before that position. So every applied event counts from
its effective time on: the largest time of the job's applied events up to and including itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Final, NamedTuple

from jobtrail.core.errors import EventError
from jobtrail.core.events import TYPE_NAMES, decode
from jobtrail.core.fold import fold
from jobtrail.core.job import VERDICTS, Job, Place, Verdict
from jobtrail.core.states import STATES, State
from jobtrail.core.trail import TRAIL_LAYOUT

_APPLIED: Final = VERDICTS.index(Verdict.APPLIED)
_DUPLICATE: Final = VERDICTS.index(Verdict.DUPLICATE)
_NOT_ALLOWED: Final = VERDICTS.index(Verdict.NOT_ALLOWED)
_FOREIGN: Final = VERDICTS.index(Verdict.FOREIGN)
_CREATED: Final = TYPE_NAMES.index("job.created")
#: Before every instant.
NEVER: Final = -(2**63)


class Cut(NamedTuple):
    """Where the past ends; one of the two."""

    #: Microseconds since the epoch, inclusive.
    instant: int | None = None
    #: Per partition the offset before which events count; none of a partition that is not named.
    position: Mapping[int, int] = {}


#: (offset, the event's time) of an event that counts.
Event = tuple[int, int]


class Prefix(NamedTuple):
    """What of a trail lies before a cut, where anything does."""

    #: The job's state then, and the time of its last change.
    state: State
    updated_at: int
    #: Offset and time of the events that made it what it was.
    events: tuple[Event, ...]
    #: Whether nothing behind the cut has changed the job.
    whole: bool


def prefix(trail: Iterable[bytes], partition: int, cut: Cut) -> Prefix | None:
    """Return what of a job lies before a cut; None where the job was not there yet.

    Args:
        trail: Of the job, in packed pieces; no more of them is taken than is wanted.
        partition: Where its events lie.
        cut: Up to where.
    """
    end = cut.position.get(partition, 0)
    instant = cut.instant
    last_state, updated_at, whole = 0, 0, True
    events: list[Event] = []
    entries = chain.from_iterable(map(TRAIL_LAYOUT.iter_unpack, trail))
    for _key, offset, time, state, code in entries:
        verdict = code & 15
        if verdict != _APPLIED and not may_describe(code):
            continue
        if offset >= end if instant is None else (verdict == _APPLIED and time > instant):
            whole = False
            break
        events.append((offset, time))
        last_state = state
        if verdict == _APPLIED:
            updated_at = time
    if not events:
        return None
    return Prefix(STATES[last_state], updated_at, tuple(events), whole)


#: The first and the last offset of an event that may have said what a job is; None for none.
Said = tuple[int | None, int | None]


def was_for_others(said: Said, then: Prefix) -> bool:
    """Tell whether a job may have been seen by others than those who see it now.

    Args:
        said: Of the job.
        then: What of its trail counts.
    """
    first, last = said
    end = then.events[-1][0]
    return first is not None and last is not None and first <= end < last


def said_in(trail: bytes) -> Said:
    """Return where a trail may have said what the job is and whose.

    Args:
        trail: Of the job, packed.
    """
    said = [
        offset
        for _key, offset, _time, _state, code in TRAIL_LAYOUT.iter_unpack(trail)
        if may_describe(code)
    ]
    return (said[0], said[-1]) if said else (None, None)


def said_by_both(one: Said, other: Said) -> Said:
    """Return where two parts of a trail, one behind the other, may have said what the job is."""
    said = [offset for offset in (*one, *other) if offset is not None]
    return (said[0], said[-1]) if said else (None, None)


def fold_again(
    partition: int, events: Iterable[Event], bodies: Mapping[int, bytes | None]
) -> Job | None:
    """Fold the events that made a job what it was.

    Args:
        partition: Where they lie.
        events: From the job's `Prefix`.
        bodies: By offset, as they came.

    Returns:
        The job as it was; None where an event is not there any more, or is none.
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
        # The time that an event without one was given stands in the trail.
        job, _verdict = fold(job, event, Place(partition, offset, time))
    return job


def reached(trail: bytes) -> int:
    """Return the effective time of a job's last applied event; `NEVER` for an empty trail."""
    latest = NEVER
    for _key, _offset, time, _state, code in TRAIL_LAYOUT.iter_unpack(trail):
        if time > latest and code & 15 == _APPLIED:
            latest = time
    return latest


def may_describe(code: int) -> bool:
    """Tell of an entry's last byte whether it may have said what the job is and whose."""
    return code >> 4 == _CREATED and code & 15 not in (_DUPLICATE, _NOT_ALLOWED, _FOREIGN)
