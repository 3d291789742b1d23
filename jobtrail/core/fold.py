"""The fold: the only place where a job's state is decided.

`fold(job, event, place) -> (job, verdict)` is pure and total: no clock, no random number, no I/O,
and no decoded event makes it raise. The projectors, the API's live tail, replay and the tests all
call this one function, so they can't disagree. Where a store has the beginning of a long trail,
the caller asks the store for the events' keys first: see `jobtrail.core.earlier.StoredEntries`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from jobtrail.core import events as ev
from jobtrail.core.earlier import MemoryChunks
from jobtrail.core.job import Job, Place, event_key, foreign_key
from jobtrail.core.source_binding import unpack_sources
from jobtrail.core.states import ENDED, TRANSITIONS, Rule, State
from jobtrail.core.trail import (
    CHUNK_BYTES,
    STATE_CODES,
    TRAIL_LAYOUT,
    VERDICTS,
    Verdict,
    entry_code,
    trail_has,
)

# Looked up once: each access to a member of an enum takes as long as a small function.
_APPLIED: Final = Verdict.APPLIED
_DUPLICATE: Final = Verdict.DUPLICATE
_LATE: Final = Verdict.LATE
_NOT_ALLOWED: Final = Verdict.NOT_ALLOWED
_FOREIGN: Final = Verdict.FOREIGN
_CREATED: Final = State.CREATED
_ACTIVE: Final = State.ACTIVE
_RETRY: Final = State.RETRY
_copy: Final[Callable[[Job], Job]] = Job.__copy__  # type: ignore[attr-defined]
_pack: Final = TRAIL_LAYOUT.pack
#: The bounds of a record's timestamp, which its producer chooses: years 2 to 9998.
FIRST: Final = -62_104_060_800_000_000
LAST: Final = 253_370_764_799_999_999
#: By how much an event's attempt has to be above the job's, from state to state.
_STEPS: Final[Mapping[State, Mapping[State, int]]] = {
    before: {after: int(rule is Rule.HIGHER_ATTEMPT) for after, rule in rules.items()}
    for before, rules in TRANSITIONS.items()
}
#: The last byte of a trail's entry.
_CODES: Final = {
    verdict: {cls: entry_code(number, verdict) for number, cls in enumerate(ev.EVENT_TYPES)}
    for verdict in VERDICTS
}


def fold(job: Job | None, event: ev.Event, place: Place) -> tuple[Job, Verdict]:
    """Apply one event of the log to its job.

    Args:
        job: The job so far; None before its first event.
        event: The decoded event; `event.subject` is the job's id.
        place: Where the event lies in the log. Events are folded in the order of their offsets.

    Returns:
        The job after the event, as another object, and the verdict. Whatever the verdict, the
        event stands in the trail. Unless it is `applied` nothing else of the job changes, but
        for a `job.created` that came after the fact: it fills in what a job is and whose.
    """
    said = event.time
    time = within_years(place.timestamp) if said is None else ev.microseconds(said)
    key = event_key(event.id)
    attempt = event.data.attempt
    if job is None:
        # A job is first seen wherever its log begins for us. Progress claims the least: created.
        after = Job(
            id=event.subject,
            state=_CREATED,
            created_at=time,
            updated_at=time,
            source=event.source,
        )
        verdict = _APPLIED
        _apply(after, event, time, attempt or 0)
    else:
        after = _copy(job)
        if attempt is None:
            # It counts as the current one; active after retry as the next.
            retried = job.state is _RETRY and event.state is _ACTIVE
            attempt = job.attempt + 1 if retried else job.attempt
        if event.bound_to is None:
            verdict = _judge(job, event, key, attempt)
        else:
            verdict, key = _judge_bound(job, event, key, attempt, event.bound_to)
        if verdict is _APPLIED:
            _apply(after, event, time, attempt)
        elif verdict is _LATE and job.owner is None and type(event) is ev.Created:
            _describe(after, event, time)
            after.tags = _merged(event.data.tags or {}, job.tags)
    code = _CODES[verdict][type(event)]
    trail = after.trail + _pack(key, place.offset, time, STATE_CODES[after.state], code)
    if len(trail) >= CHUNK_BYTES:
        earlier = after.earlier
        after.earlier = (MemoryChunks() if earlier is None else earlier).with_chunk(trail)
        trail = b""
    after.trail = trail
    return after, verdict


def within_years(timestamp: int) -> int:
    """Return a record's timestamp, in microseconds since 1970, kept within the years 2 to 9998."""
    return min(max(timestamp, FIRST), LAST)


def _judge_bound(
    job: Job, event: ev.Event, key: bytes, attempt: int, bound_to: str
) -> tuple[Verdict, bytes]:
    """Judge an event whose sender may not do everything; also return the key of its trail entry.

    An event that was foreign stays ignored, also if its sender may write to the job later.
    """
    apart = foreign_key(bound_to, event.id)
    seen = _has_seen(job, apart)
    if _has_part(job, event, bound_to):
        return _DUPLICATE if seen else _judge(job, event, key, attempt), key
    return _DUPLICATE if seen or _has_seen(job, key) else _FOREIGN, apart


def _has_part(job: Job, event: ev.Event, bound_to: str) -> bool:
    """Tell whether an event's sender has a part in a job.

    A job's own source may send anything, and its writers all but `job.created`: they can't set its
    owner and viewers.
    """
    sources = unpack_sources(bound_to)
    if job.source in sources:
        return True
    return type(event) is not ev.Created and not sources.isdisjoint(job.writers)


def _has_seen(job: Job, key: bytes) -> bool:
    """Tell whether a job's trail has an event with this key."""
    trail = job.trail
    if key in trail and trail_has(trail, key):
        return True
    return job.earlier is not None and job.earlier.has(key)


def _judge(job: Job, event: ev.Event, key: bytes, attempt: int) -> Verdict:
    if _has_seen(job, key):
        return _DUPLICATE
    if attempt < job.attempt:
        return _LATE
    # Of a job without an owner everything but its `job.created` was seen: here it comes, after
    # the fact, unless it is one of a higher attempt that takes up a cancelled job.
    describes = job.owner is None and type(event) is ev.Created
    if describes and attempt == job.attempt:
        return _LATE
    target = event.state
    if target is None:
        return _NOT_ALLOWED if job.state in ENDED else _APPLIED
    step = _STEPS[job.state].get(target)
    if step is None or attempt < job.attempt + step:
        return _LATE if describes else _NOT_ALLOWED
    return _APPLIED


def _apply(job: Job, event: ev.Event, time: int, attempt: int) -> None:
    """Change `job`, a fresh copy, by an event that is allowed."""
    target, data = event.state, event.data
    if attempt > job.attempt:
        job.attempt = attempt
        job.progress = None
    if target is not None:
        job.state = target
        if target in ENDED:
            job.ended_at = time
        elif job.ended_at is not None:
            job.ended_at = job.output = None
    job.updated_at = time
    if data.tags:
        job.tags = _merged(job.tags, data.tags)
    if target is _ACTIVE:
        if job.started_at is None:
            job.started_at = time
        return
    if type(event) is ev.Created:
        _describe(job, event, time)
        return
    take_in = _TAKE_IN.get(type(event))
    if take_in is not None:
        take_in(job, data)


def _describe(job: Job, event: ev.Created, time: int) -> None:
    data = event.data
    if job.owner is None:
        job.created_at = time
    job.job_type = data.job_type
    job.owner = data.owner
    job.bulk_id = data.bulk_id
    viewers = data.viewers
    job.viewers = tuple(sorted(set(viewers))) if len(viewers) > 1 else viewers
    job.source = event.source
    writers = data.writers
    job.writers = tuple(sorted(set(writers))) if len(writers) > 1 else writers


def _progress(job: Job, data: ev.ProgressData) -> None:
    if data.progress is not None:
        job.progress = data.progress


def _retry(job: Job, data: ev.RetryData) -> None:
    job.error = bytes(data.error) or None


def _completed(job: Job, data: ev.CompletedData) -> None:
    job.output = bytes(data.output) or None
    job.error = None


def _failed(job: Job, data: ev.FailedData) -> None:
    job.output = bytes(data.output) or None
    job.error = bytes(data.error) or None


#: What an event's type carries beside its state, taken over.
_TAKE_IN: Final[Mapping[type[ev.Event], Callable[[Job, Any], None]]] = {
    ev.Progress: _progress,
    ev.Retry: _retry,
    ev.Completed: _completed,
    ev.Failed: _failed,
}


def _merged(under: dict[str, str], over: dict[str, str]) -> dict[str, str]:
    """Merge tags; a job keeps the first `MAX_TAGS` names that it was given."""
    if not under:
        return over
    merged = {**under, **over}
    while len(merged) > ev.MAX_TAGS:
        merged.popitem()
    return merged
