"""The fold event by event, by `jobtrail.core.fold`: for jobs that can't be folded in columns."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
from msgspec import Raw

from jobtrail.core import events as ev
from jobtrail.core.events import from_microseconds
from jobtrail.core.fold import fold
from jobtrail.core.job import Job, Place
from jobtrail.core.trail import Verdict
from jobtrail.replay.folding.gathering import GATHERED
from jobtrail.replay.folding.parts import MAX_ATTEMPT, Folding
from jobtrail.replay.schemas import JOBS, TRANSITIONS

_TYPES: Final = dict(zip(ev.TYPE_NAMES, ev.EVENT_TYPES, strict=True))
_Columns = dict[str, list[Any]]


class Row(NamedTuple):
    """An event as the fold takes it, with its place."""

    event: ev.Event
    place: Place


@dataclass
class Trail:
    """A job that is being folded.

    Attributes:
        job: As it is now; None before its first event.
        events: How many events it has seen.
        ignored: How many of them were not applied.
        moves: What set its state: the event, its time, and the job after it, without its trail.
    """

    job: Job | None = None
    events: int = 0
    ignored: int = 0
    moves: list[tuple[Row, Job]] = field(default_factory=list)

    def take(self, row: Row, when: int | None) -> bool:
        """Fold an event, unless the instant ends before it.

        Args:
            row: The event.
            when: The instant, in microseconds since 1970; None: the end.

        Returns:
            Whether it belongs to the job at that instant.
        """
        after, verdict = fold(self.job, row.event, row.place)
        applied = verdict is Verdict.APPLIED
        if applied and when is not None and after.updated_at > when:
            return False
        self.job = after
        self.events += 1
        self.ignored += not applied
        if applied and row.event.state is not None:
            # There may be very many of them, and nobody asks for their trails.
            moved = copy(after)
            moved.trail, moved.earlier = b"", None
            self.moves.append((row, moved))
        return True


def fold_others(events: pa.RecordBatch, when: int | None) -> Folding:
    """Fold jobs event by event.

    Args:
        events: Of `gathering.GATHERED`, each job's together and in log order.
        when: The instant, in microseconds since 1970; None: the end.

    Returns:
        The jobs.
    """
    jobs: _Columns = {name: [] for name in JOBS.names}
    moves: _Columns = {name: [] for name in TRANSITIONS.names}
    job_of: list[int] = []
    for _, rows in groupby(read_events(events), key=lambda row: row.event.subject):
        trail, partition = Trail(), 0
        for row in rows:
            partition = row.place.partition
            if not trail.take(row, when):
                break
        if trail.job is not None:
            job_of += [len(jobs["id"])] * len(trail.moves)
            _add_job(jobs, trail.job, trail, partition)
            _add_moves(moves, trail.job, trail)
    return Folding(
        pa.RecordBatch.from_pydict(jobs, schema=JOBS),
        pa.RecordBatch.from_pydict(moves, schema=TRANSITIONS),
        np.array(job_of, np.int64),
        events.num_rows,
    )


def read_events(events: pa.RecordBatch) -> Iterator[Row]:
    """Make events of rows; they were valid when they became rows."""
    columns = {
        name: events.column(name).cast(pa.int64() if name == "time" else GATHERED.field(name).type)
        for name in GATHERED.names
    }
    lists = {name: column.to_pylist() for name, column in columns.items()}
    for values in zip(*lists.values(), strict=True):
        row = dict(zip(lists, values, strict=True))
        kind = _TYPES[row["type"]]
        yield Row(
            kind(
                specversion="1.0",
                id=row["id"],
                source=row["source"],
                bound_to=row["bound_to"],
                subject=row["job_id"],
                time=from_microseconds(row["time"]),
                data=_DATA[kind](
                    attempt=row["attempt"], tags=dict(row["tags"] or ()), **_MORE[kind](row)
                ),
            ),
            Place(row["partition"], row["offset"], row["time"]),
        )


def _nothing(_row: dict[str, Any]) -> dict[str, Any]:
    return {}


def _description(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "job_type": row["job_type"],
        "owner": row["owner"],
        "bulk_id": row["bulk_id"],
        "viewers": tuple(row["viewers"] or ()),
        "writers": tuple(row["writers"] or ()),
    }


def _raw(*names: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def read(row: dict[str, Any]) -> dict[str, Any]:
        return {name: Raw((row[name] or "").encode()) for name in names}

    return read


_DATA: Final[dict[type, Callable[..., Any]]] = {
    ev.Created: ev.CreatedData,
    ev.Active: ev.ActiveData,
    ev.Progress: ev.ProgressData,
    ev.Retry: ev.RetryData,
    ev.Completed: ev.CompletedData,
    ev.Failed: ev.FailedData,
    ev.Cancelled: ev.ReasonData,
    ev.Expired: ev.ReasonData,
}
_MORE: Final[dict[type, Callable[[dict[str, Any]], dict[str, Any]]]] = {
    ev.Created: _description,
    ev.Active: _nothing,
    ev.Progress: lambda row: {"progress": row["progress"]},
    ev.Retry: _raw("error"),
    ev.Completed: _raw("output"),
    ev.Failed: _raw("error", "output"),
    ev.Cancelled: _nothing,
    ev.Expired: _nothing,
}


def _add_job(columns: _Columns, job: Job, trail: Trail, partition: int) -> None:
    values = {
        "id": job.id,
        "state": str(job.state),
        "job_type": job.job_type,
        "owner": job.owner,
        "bulk_id": job.bulk_id,
        "viewers": list(job.viewers),
        "tags": list(job.tags.items()),
        "created_at": job.created_at,
        "started_at": job.started_at,
        "updated_at": job.updated_at,
        "ended_at": job.ended_at,
        "attempt": min(job.attempt, MAX_ATTEMPT),
        "progress": job.progress,
        "error": _text(job.error),
        "output": _text(job.output),
        "partition": partition,
        "events": trail.events,
        "ignored": trail.ignored,
    }
    for name, value in values.items():
        columns[name].append(value)


def _add_moves(columns: _Columns, job: Job, trail: Trail) -> None:
    before: Job | None = None
    for row, after in trail.moves:
        seconds = None if before is None else (after.updated_at - before.updated_at) / 1e6
        values = {
            "job_id": job.id,
            "partition": row.place.partition,
            "offset": row.place.offset,
            "event_id": row.event.id,
            "time": after.updated_at,
            "from_state": None if before is None else str(before.state),
            "to_state": str(after.state),
            "attempt": min(after.attempt, MAX_ATTEMPT),
            "seconds": seconds,
            "job_type": job.job_type,
            "owner": job.owner,
            "bulk_id": job.bulk_id,
        }
        for name, value in values.items():
            columns[name].append(value)
        before = after


def _text(json: bytes | None) -> str | None:
    return None if json is None else json.decode()
