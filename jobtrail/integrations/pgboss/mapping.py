"""Which events a row of pg-boss proves: pure, so that reading the same row again gives the same.

pg-boss stores a job's present, not its past: one row with the times of its creation, of its latest
start and of its end, and the number of its retries. The events that these columns prove are made
again at every reading, with the same ids, so that a duplicate changes nothing.

Source of the columns and of what each operation of pg-boss does to them: `plans` of pg-boss 9.0.3,
10.4.2, 11.1.2 and 12.38.0.
"""

from __future__ import annotations

import contextlib
from datetime import datetime
from typing import Any, Final, NamedTuple
from unicodedata import category

from msgspec import Raw

from jobtrail.core import events as ev
from jobtrail.core.states import ENDED, State

#: The most retries sent for a job whose retries happened between two readings: the latest ones.
MAX_UNSEEN_RETRIES: Final = 100
_MAX_NAME: Final = 256
_SECOND: Final = 1_000_000


class PgBossRow(NamedTuple):
    """One job as pg-boss has it. Instants are microseconds since 1970."""

    id: str
    queue: str
    priority: int
    state: State
    #: `retry_count`: 0 in the first attempt.
    attempt: int
    created_on: int
    #: Start of the latest attempt.
    started_on: int | None
    completed_on: int | None
    #: `start_after`: when the job, or its retry, is due.
    due_on: int | None
    #: Seconds from a failure to the retry; None where pg-boss draws them at random.
    delay: int | None
    #: JSON; None where there is none or it is larger than an event may carry.
    output: bytes | None
    owner: str | None
    bulk_id: str | None
    #: The database's clock when the row was read.
    read_at: int


class Cancellation(NamedTuple):
    """One cancellation of a job, which its row forgets when the job is resumed."""

    on: int
    #: What its event ids contain: when the attempt was started, which the row of a resumed job
    #: still has; for one that was not started, when it was cancelled.
    mark: int
    attempt: int
    #: Whether the attempt had been started.
    started: bool


class Past(NamedTuple):
    """What is stored about a job that was cancelled."""

    latest: Cancellation
    #: The cancellation that the job was last resumed from.
    resumed: Cancellation | None = None


class Labels(NamedTuple):
    """The fields that all events of a bridge share."""

    source: str
    #: The owner of a job whose data names none.
    owner: str


def changes(
    row: PgBossRow, past: Past | None, labels: Labels
) -> tuple[list[ev.Event], Past | None]:
    """Return the events that a row proves.

    Args:
        row: The job as it is now.
        past: What is stored about its cancellations.
        labels: The events' source, and the owner where the row names none.

    Returns:
        The events in the order in which they happened, and what is to be stored.
    """
    cancelled_on = row.completed_on if row.state is State.CANCELLED else None
    if past is not None and cancelled_on != past.latest.on:
        past = Past(past.latest, past.latest)
    resumed = past.resumed if past else None
    told = _Teller(row, resumed, labels).tell()
    if cancelled_on is not None and (past is None or cancelled_on != past.latest.on):
        past = Past(_cancellation(row, cancelled_on, resumed), resumed)
    elif past is None and _resumed_unseen(row) and row.started_on is not None:
        unseen = Cancellation(row.started_on, row.started_on, row.attempt, started=True)
        past = Past(unseen, unseen)
    return told, past


def _cancellation(row: PgBossRow, on: int, resumed: Cancellation | None) -> Cancellation:
    started = row.started_on is not None and row.started_on > (resumed.on if resumed else 0)
    mark = row.started_on if started and row.started_on else on
    return Cancellation(on, mark, row.attempt, started)


def _resumed_unseen(row: PgBossRow) -> bool:
    """Tell whether a job was cancelled and resumed: only then is it `created` after a start."""
    return row.state is State.CREATED and row.started_on is not None


class _Teller:
    def __init__(self, row: PgBossRow, resumed: Cancellation | None, labels: Labels) -> None:
        self._row = row
        self._labels = labels
        self._resumed_from = resumed
        #: When the job was created, or last resumed.
        self._life = resumed.on if resumed else 0
        self._told: list[ev.Event] = []

    def tell(self) -> list[ev.Event]:
        row, resumed = self._row, self._resumed_from
        self._created()
        if resumed:
            since = [t for t in (row.started_on, row.completed_on) if t and t > self._life]
            self._resumed(resumed.mark, resumed.attempt, min(since, default=row.read_at))
        self._unseen_retries(resumed.attempt + resumed.started if resumed else 0)
        # An earlier start was sent together with the cancellation.
        if row.started_on is not None and row.started_on > self._life:
            self._active(row.attempt, row.started_on)
        if row.state is State.CREATED:
            if not resumed and _resumed_unseen(row):
                mark = row.started_on or 0
                self._ended(State.CANCELLED, mark, row.read_at)
                self._resumed(mark, row.attempt, row.read_at)
        elif row.state is State.RETRY:
            if row.completed_on is not None:
                # Up to v11 the end stays when a failed job's retry is ordered.
                self._ended(State.FAILED, row.completed_on, row.completed_on)
            due = _due(row.due_on)
            data = ev.RetryData(attempt=row.attempt, error=_raw(row.output), retry_at=due)
            self._retry(data, self._failed_on(), ".unstarted" if row.started_on is None else "")
        elif row.state in ENDED:
            at = row.completed_on or row.read_at
            mark = row.completed_on or 0
            if row.state is State.CANCELLED:
                mark = _cancellation(row, mark, resumed).mark
            self._ended(row.state, mark, at)
        return self._told

    def _named(self, what: str, attempt: int) -> str:
        """Name an attempt's event, without its time: for an unseen attempt it is not known.

        Version 9 does not count when it takes up a resumed job: the cancellation distinguishes two
        attempts of the same number.
        """
        resumed = self._resumed_from
        again = resumed is not None and resumed.started and attempt <= resumed.attempt
        return f"{what}.{attempt}.{resumed.mark}" if resumed and again else f"{what}.{attempt}"

    def _failed_on(self) -> int:
        """Return when the attempt failed, computed from when the next is due: no column has it."""
        row = self._row
        if row.completed_on is not None or row.due_on is None:
            return row.read_at
        at = min(row.read_at, row.due_on)
        if row.delay is not None:
            at = min(row.read_at, row.due_on - row.delay * _SECOND)
        return max(at, row.started_on or row.created_on)

    def _unseen_retries(self, first: int) -> None:
        """Add the attempts before the present one; they had ended when it was started."""
        row = self._row
        at = row.started_on or row.created_on
        for attempt in range(max(first, row.attempt - MAX_UNSEEN_RETRIES), row.attempt):
            self._active(attempt, at)
            # Until the attempt ends, its row still has what the one before failed with.
            latest = row.state is State.ACTIVE and attempt == row.attempt - 1
            data = ev.RetryData(attempt=attempt, error=_raw(row.output if latest else None))
            self._retry(data, at)

    def _envelope(self, what: str, at: int) -> dict[str, Any]:
        return {
            "specversion": "1.0",
            "id": f"pg-boss.{self._row.id}.{what}",
            "source": self._labels.source,
            "subject": self._row.id,
            "time": ev.from_microseconds(at),
        }

    def _description(self, attempt: int) -> ev.CreatedData:
        row = self._row
        tags = {"queue": row.queue}
        if row.priority:
            tags["priority"] = str(row.priority)
        owner = row.owner if _is_name(row.owner) else None
        return ev.CreatedData(
            attempt=attempt,
            job_type=row.queue,
            owner=owner or self._labels.owner,
            bulk_id=row.bulk_id if _is_name(row.bulk_id) else None,
            tags=tags,
        )

    def _created(self) -> None:
        at = self._row.created_on
        envelope = self._envelope(f"created.{at}", at)
        self._told.append(ev.Created(**envelope, data=self._description(0)))

    def _resumed(self, mark: int, attempt: int, at: int) -> None:
        envelope = self._envelope(f"resumed.{mark}", at)
        self._told.append(ev.Created(**envelope, data=self._description(attempt)))

    def _active(self, attempt: int, at: int) -> None:
        envelope = self._envelope(self._named("active", attempt), at)
        self._told.append(ev.Active(**envelope, data=ev.ActiveData(attempt=attempt)))

    def _retry(self, data: ev.RetryData, at: int, how: str = "") -> None:
        # A job that is failed before its start takes up the same attempt again: `how` says so.
        envelope = self._envelope(self._named("retry", data.attempt or 0) + how, at)
        self._told.append(ev.Retry(**envelope, data=data))

    def _ended(self, state: State, mark: int, at: int) -> None:
        attempt, payload = self._row.attempt, _raw(self._row.output)
        envelope = self._envelope(f"{state}.{attempt}.{mark}", at)
        event: ev.Event
        if state is State.COMPLETED:
            data = ev.CompletedData(attempt=attempt, output=payload)
            event = ev.Completed(**envelope, data=data)
        elif state is State.FAILED:
            event = ev.Failed(**envelope, data=ev.FailedData(attempt=attempt, error=payload))
        else:
            kind = ev.Cancelled if state is State.CANCELLED else ev.Expired
            event = kind(**envelope, data=ev.ReasonData(attempt=attempt))
        self._told.append(event)


def _due(at: int | None) -> datetime | None:
    """Return when a retry is due; None also where it is beyond the calendar."""
    with contextlib.suppress(OverflowError):
        return None if at is None else ev.from_microseconds(at)
    return None


def _raw(json: bytes | None) -> Raw:
    return Raw(json) if json else ev.NOTHING


def _is_name(text: str | None) -> bool:
    """Tell whether a text is a valid name: 1 to 256 characters, no control characters."""
    return (
        text is not None
        and 0 < len(text) <= _MAX_NAME
        and not any(category(character) == "Cc" for character in text)
    )
