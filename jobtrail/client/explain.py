"""A job's history explained: every event in words, why it counted or not, and where time went.

The job's events are folded once more, so that the words follow the same rules as the states.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

import msgspec

from jobtrail.client import HistoryEntry
from jobtrail.core import events as ev
from jobtrail.core.errors import EventError
from jobtrail.core.fold import fold
from jobtrail.core.job import Job, Place
from jobtrail.core.states import ENDED, TRANSITIONS, Rule, State
from jobtrail.core.trail import Verdict

#: The most characters of an output or error that are shown.
_LONGEST: Final = 120
_IN_GENERAL: Final = {
    Verdict.LATE: "its attempt is over, or it came late",
    Verdict.NOT_ALLOWED: "the job's state allows no such transition",
    Verdict.FOREIGN: "its sender may not touch this job",
}


class ExplainedEvent(NamedTuple):
    """One event of a job, in words."""

    time: datetime
    type: str
    #: Its place in the log.
    partition: int
    offset: int
    verdict: Verdict
    #: The job's state after it.
    state: State
    #: The attempt that the job was at after it; None where the log has lost the events that
    #: determine it.
    attempt: int | None
    #: What happened, and why it did not count where it did not.
    words: str


class StateSpan(NamedTuple):
    """A period that a job spent in one state, by the times of its events."""

    state: State
    attempt: int | None
    began: datetime
    #: None while it lasts.
    ended: datetime | None
    #: Until it ended, else until the instant of the explanation. Never negative: where clocks
    #: disagree the log's order counts, and such a span has length 0.
    seconds: float


class Explanation(NamedTuple):
    """The events of a job, and the time that it spent in each state."""

    events: list[ExplainedEvent]
    spans: list[StateSpan]

    def by_state(self) -> dict[State, float]:
        """Return the seconds in each state, in the order in which the states first occurred."""
        found: dict[State, float] = {}
        for span in self.spans:
            found[span.state] = found.get(span.state, 0.0) + span.seconds
        return found


def explain_history(history: Iterable[HistoryEntry], now: datetime) -> Explanation:
    """Explain a job's history.

    Args:
        history: The job's events in their order in the log, as `Client.history` gives them.
        now: Until when an open span is counted.
    """
    job: Job | None = None
    complete = True
    places: dict[str, str] = {}
    explained: list[ExplainedEvent] = []
    spans: list[StateSpan] = []
    for entry in history:
        before, event = job, _event(entry)
        if event is None:
            # After a lost event the job's later state can't be folded.
            complete, job = False, None
        elif complete:
            place = Place(entry.partition, entry.offset, ev.microseconds(entry.time))
            job, _verdict = fold(job, event, place)
        attempt = job.attempt if job is not None else None
        words = _happened(event) if event is not None else "the log no longer has the event"
        if why := _ignored(entry, event, before):
            seen = places.get(event.id) if event and entry.verdict is Verdict.DUPLICATE else None
            words = f"{words}; ignored: {why}{_if(', at ', seen)}"
        if event is not None and entry.verdict is not Verdict.FOREIGN:
            places.setdefault(event.id, f"{entry.partition}:{entry.offset}")
        explained.append(
            ExplainedEvent(
                time=entry.time,
                type=entry.type,
                partition=entry.partition,
                offset=entry.offset,
                verdict=entry.verdict,
                state=entry.state,
                attempt=attempt,
                words=words,
            )
        )
        if entry.verdict is Verdict.APPLIED and _begins_a_span(entry, attempt, spans):
            _close(spans, entry.time)
            spans.append(StateSpan(entry.state, attempt, entry.time, None, 0.0))
    if spans and spans[-1].state not in ENDED:
        last = spans[-1]
        spans[-1] = last._replace(seconds=_seconds(last.began, now))
    return Explanation(explained, spans)


def _event(entry: HistoryEntry) -> ev.Event | None:
    if entry.event is None:
        return None
    try:
        return ev.decode(msgspec.json.encode(entry.event))
    except EventError:
        # Of a type that is newer than this version.
        return None


def _begins_a_span(entry: HistoryEntry, attempt: int | None, spans: list[StateSpan]) -> bool:
    if not spans or entry.state is not spans[-1].state:
        return True  # An active job stays active from one attempt to the next.
    return entry.type == "job.active" and attempt != spans[-1].attempt


def _close(spans: list[StateSpan], time: datetime) -> None:
    if spans:
        last = spans[-1]
        spans[-1] = last._replace(ended=time, seconds=_seconds(last.began, time))


def _seconds(began: datetime, ended: datetime) -> float:
    return max(ended - began, timedelta()).total_seconds()


def _happened(event: ev.Event) -> str:
    """Describe an event, whatever its verdict."""
    data = event.data
    attempt = "" if data.attempt is None else f" (attempt {data.attempt})"
    if isinstance(event, ev.Created):
        bulk = f", of bulk {event.data.bulk_id}" if event.data.bulk_id else ""
        return f"created as {event.data.job_type} of {event.data.owner}{bulk}{attempt}"
    if isinstance(event, ev.Active):
        return f"taken up{_if(' by ', event.data.worker)}{attempt}"
    if isinstance(event, ev.Progress):
        done = event.data.progress
        far = "under way" if done is None else f"{done:.0%} done"
        return f"{far}{_if(': ', event.data.message)}{attempt}"
    if isinstance(event, ev.Retry):
        due = event.data.retry_at
        at = f", next at {_in_utc(due).isoformat(sep=' ')}" if due else ""
        return (
            f"the attempt failed{_if(': ', _short(event.data.error))}, another is due{at}{attempt}"
        )
    if isinstance(event, ev.Completed):
        return f"completed{_if(' with ', _short(event.data.output))}{attempt}"
    if isinstance(event, ev.Failed):
        return f"failed{_if(': ', _short(event.data.error))}{attempt}"
    kind = "cancelled" if isinstance(event, ev.Cancelled) else "expired"
    return f"{kind}{_if(': ', event.data.reason)}{attempt}"


def _in_utc(instant: datetime) -> datetime:
    """Return an instant in UTC; unchanged where UTC would leave the calendar's range."""
    try:
        return instant.astimezone(UTC)
    except OverflowError:
        return instant


def _ignored(entry: HistoryEntry, event: ev.Event | None, before: Job | None) -> str:
    """Return why an event did not count; empty where it did."""
    if entry.verdict is Verdict.APPLIED:
        return ""
    if entry.verdict is Verdict.DUPLICATE:
        return "the job has seen an event of this id"
    if event is None or before is None or entry.verdict is Verdict.FOREIGN:
        return _IN_GENERAL[entry.verdict]
    named = event.data.attempt
    if entry.verdict is Verdict.LATE:
        if named is not None and named < before.attempt:
            return f"its attempt {named} is before the job's {before.attempt}"
        return "it came late, and only adds the job's type and owner"
    if event.state is None:
        return f"the job has ended as {before.state}"
    if TRANSITIONS[before.state].get(event.state) is Rule.HIGHER_ATTEMPT:
        return f"from {before.state} to {event.state} takes an attempt above {before.attempt}"
    return f"the table has no transition from {before.state} to {event.state}"


def _if(lead: str, text: str | None) -> str:
    return f"{lead}{text}" if text else ""


def _short(raw: bytes | msgspec.Raw) -> str:
    text = bytes(raw).decode()
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
