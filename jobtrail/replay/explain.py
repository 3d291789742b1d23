"""Why a job is where it is: its events with what was made of each and why, and where time went.

Pure: what a service answers goes in, words and figures come out. The attempts that the words name
are those of `jobtrail.fold`, run over the events again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final

import msgspec
from msgspec import Struct

from jobtrail import events as ev
from jobtrail.client.results import HistoryEntry
from jobtrail.client.results import Job as Answer
from jobtrail.errors import EventError
from jobtrail.fold import fold
from jobtrail.job import Job, Place, Verdict
from jobtrail.states import ENDED, TRANSITIONS, State

#: The longest text of a job's that stands in a line.
_LONGEST: Final = 120


class Line(Struct, frozen=True, rename="camel"):
    """One event of the job."""

    #: Where it lies in the log: `partition:offset`.
    place: str
    time: datetime
    type: str
    verdict: Verdict
    #: The job's state after it.
    state: State
    #: Which attempt it was for; None where an event before it is lost.
    attempt: int | None
    #: What it said, or why it was ignored.
    why: str


class Stay(Struct, frozen=True, rename="camel"):
    """A time that the job spent in one state."""

    #: `waiting`, `running`, `in retry` or `ended`, before it was taken up again.
    phase: str
    attempt: int | None
    begin: datetime
    #: None where it goes on.
    end: datetime | None
    #: At least 0: where times go backwards it counts as nothing. Up to now where it goes on.
    seconds: float


class Part(Struct, frozen=True, rename="camel"):
    """How much of the job's time one thing took."""

    name: str
    seconds: float
    #: Of the whole, 0..1.
    share: float


class Explanation(Struct, frozen=True, rename="camel"):
    """What is to be said of one job."""

    id: str
    state: State
    job_type: str | None
    owner: str | None
    attempt: int
    events: list[Line]
    stays: list[Stay]
    parts: list[Part]
    #: From its first event to its end, or to now where it has not ended.
    total: float


_PHASES: Final = {State.CREATED: "waiting", State.ACTIVE: "running", State.RETRY: "in retry"}
_OVER: Final = "ended"


def explain(job: Answer, history: Iterable[HistoryEntry], now: datetime) -> Explanation:
    """Explain a job.

    Args:
        job: As the service has it.
        history: All of its events, in the log's order.
        now: Up to when what has not ended is counted.
    """
    reader = _Reader()
    lines: list[Line] = []
    marks: list[tuple[datetime, State, int | None]] = []
    for entry in history:
        line = reader.read(entry)
        applied = entry.verdict is Verdict.APPLIED
        if applied and (not lines or entry.type != "job.progress"):
            marks.append((entry.time, entry.state, line.attempt))
        lines.append(line)
    stays = _stays(marks, now)
    total = sum(stay.seconds for stay in stays)
    return Explanation(
        id=job.id,
        state=job.state,
        job_type=job.job_type,
        owner=job.owner,
        attempt=job.attempt,
        events=lines,
        stays=stays,
        parts=_parts(stays, total),
        total=total,
    )


def _stays(marks: Sequence[tuple[datetime, State, int | None]], now: datetime) -> list[Stay]:
    found = []
    for at, (begin, state, attempt) in enumerate(marks):
        last = at + 1 == len(marks)
        if last and state in ENDED:
            break
        end = None if last else marks[at + 1][0]
        seconds = max(((end or now) - begin).total_seconds(), 0.0)
        found.append(Stay(_PHASES.get(state, _OVER), attempt, begin, end, seconds))
    return found


def _parts(stays: Sequence[Stay], total: float) -> list[Part]:
    """Sum up what took the time, runs by attempt, in the order in which each came first."""
    sums: dict[str, float] = {}
    for stay in stays:
        attempt = "" if stay.attempt is None else f", attempt {stay.attempt}"
        name = f"running{attempt}" if stay.phase == "running" else stay.phase
        sums[name] = sums.get(name, 0.0) + stay.seconds
    return [Part(name, took, took / total if total else 0.0) for name, took in sums.items()]


class _Reader:
    """Reads a job's events one after another, and knows the job before each."""

    def __init__(self) -> None:
        self._job: Job | None = None
        self._state: State | None = None
        self._sure = True
        self._places: dict[str, str] = {}

    def read(self, entry: HistoryEntry) -> Line:
        """Read the next event."""
        event = _event(entry)
        before, state, sure = self._job, self._state, self._sure
        place = f"{entry.partition}:{entry.offset}"
        why = self._why(entry, event)
        self._advance(entry, event)
        if event is not None:
            self._places.setdefault(event.id, place)
        attempt = event.data.attempt if event is not None else None
        if attempt is None and sure and self._sure:
            known = self._job if entry.verdict is Verdict.APPLIED else before
            attempt = known.attempt if known is not None else None
        self._state = entry.state
        ignored = entry.verdict is not Verdict.APPLIED and not self._filled_in(before)
        words = f"ignored: {why}" if ignored else why or _said(event, state)
        return Line(place, entry.time, entry.type, entry.verdict, entry.state, attempt, words)

    def _filled_in(self, before: Job | None) -> bool:
        """Tell whether the event, though late, said whose the job is."""
        after = self._job
        return before is not None and after is not None and before.owner != after.owner

    def _advance(self, entry: HistoryEntry, event: ev.Event | None) -> None:
        if event is None:
            # What it said of the attempt is lost with it.
            self._sure = False
            return
        place = Place(entry.partition, entry.offset, ev.microseconds(entry.time))
        self._job, verdict = fold(self._job, event, place)
        # A service of another version may judge otherwise: its word counts.
        self._sure = self._sure and verdict is entry.verdict

    def _why(self, entry: HistoryEntry, event: ev.Event | None) -> str:
        """Say why an event was not applied; nothing where it was."""
        if entry.verdict is Verdict.DUPLICATE:
            seen = self._places.get(event.id) if event is not None else None
            where = f", at {seen}" if seen else ""
            return f"the job has seen an event of this id{where}"
        if entry.verdict is Verdict.LATE:
            return self._why_late(event)
        if entry.verdict is Verdict.NOT_ALLOWED:
            return self._why_not(entry)
        return ""

    def _why_late(self, event: ev.Event | None) -> str:
        job = self._job if self._sure else None
        if isinstance(event, ev.Created) and (job is None or job.owner is None):
            return (
                f"it came after the fact, and only fills in what the job is and whose: "
                f"{_short(event.data.job_type)}, of {_short(event.data.owner)}"
            )
        if job is not None and event is not None and event.data.attempt is not None:
            return f"its attempt {event.data.attempt} is behind the job's {job.attempt}"
        return "it belongs to an attempt that is over"

    def _why_not(self, entry: HistoryEntry) -> str:
        state = self._state
        if entry.type not in ev.TYPE_NAMES or state is None:
            return "the table has no such transition"
        target = ev.EVENT_TYPES[ev.TYPE_NAMES.index(entry.type)].state
        if target is None:
            return f"progress of a job that has ended: it is {state}"
        if target in TRANSITIONS[state]:
            than = f"the job's {self._job.attempt}" if self._job and self._sure else "the job's"
            return f"from {state} to {target} takes a higher attempt than {than}"
        return f"the table has no transition from {state} to {target}"


def _event(entry: HistoryEntry) -> ev.Event | None:
    """Return the event itself; None where the log lost it, or it is of a newer kind."""
    if entry.event is None:
        return None
    try:
        return ev.decode(msgspec.json.encode(entry.event))
    except EventError:
        return None


def _said(event: ev.Event | None, before: State | None) -> str:
    """Say what an event that was applied told of the job."""
    if event is None:
        return "the log does not hold its content any more"
    data = event.data
    if isinstance(data, ev.CreatedData):
        begun = "resumed" if before is State.CANCELLED else "ordered"
        return f"{begun} by {_short(data.owner)}, as {_short(data.job_type)}"
    if isinstance(data, ev.ActiveData):
        return f"taken up by {_short(data.worker)}" if data.worker else "taken up"
    if isinstance(data, ev.ProgressData):
        done = None if data.progress is None else f"{data.progress:.0%}"
        return ": ".join(part for part in (done, _short(data.message or "")) if part) or "at work"
    if isinstance(data, ev.RetryData):
        due = "" if data.retry_at is None else f"; due at {data.retry_at.isoformat()}"
        return f"to be tried again{_because(data.error)}{due}"
    if isinstance(data, ev.CompletedData):
        return "done"
    if isinstance(data, ev.FailedData):
        return f"failed{_because(data.error)}"
    words = "cancelled" if isinstance(event, ev.Cancelled) else "its time ran out"
    return f"{words}: {_short(data.reason)}" if data.reason else words


def _because(error: msgspec.Raw) -> str:
    """Say an error: its message where it has one, else the JSON."""
    if not bytes(error):
        return ""
    value = msgspec.json.decode(error)
    if isinstance(value, dict) and isinstance(value.get("message"), str):
        value = value["message"]
    return f": {_short(value if isinstance(value, str) else bytes(error).decode())}"


def _short(text: str | None) -> str:
    words = " ".join((text or "").split())
    return words if len(words) <= _LONGEST else f"{words[: _LONGEST - 1]}…"
