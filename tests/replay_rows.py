"""Logs as replay sees them once they are decoded, and what the pure fold alone makes of them.

The model remembers every event of a job and folds it one by one with `jobtrail.core.fold.fold`; it
knows no column, no file and no database.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, NamedTuple

import pyarrow as pa

from jobtrail.core.events import Created, Event, from_microseconds, microseconds
from jobtrail.core.fold import fold
from jobtrail.core.job import Job, Place
from jobtrail.core.trail import Verdict
from jobtrail.replay.schemas import EVENTS

Row = dict[str, Any]


class Logged(NamedTuple):
    """A valid event and where it lies; its place's timestamp is within the years 2 to 9998."""

    place: Place
    event: Event


def row_of(logged: Logged) -> Row:
    """Return an event as a row of `schemas.EVENTS`."""
    place, event = logged
    data = event.data
    about = data if isinstance(event, Created) else None
    return {
        "partition": place.partition,
        "offset": place.offset,
        "logged_at": place.timestamp // 1000 * 1000,
        "id": event.id,
        "source": event.source,
        "type": str(event.__struct_config__.tag),
        "job_id": event.subject,
        "time": microseconds(event.time) if event.time is not None else place.timestamp,
        "attempt": data.attempt,
        "job_type": about and about.job_type,
        "owner": about and about.owner,
        "bulk_id": about and about.bulk_id,
        "viewers": about and list(about.viewers),
        "tags": None if data.tags is None else list(data.tags.items()),
        "progress": getattr(data, "progress", None),
        "error": _json(data, "error"),
        "output": _json(data, "output"),
        "details": None,
        "writers": about and list(about.writers),
        "bound_to": event.bound_to,
    }


def _json(data: Any, name: str) -> str | None:
    return bytes(getattr(data, name, b"")).decode() or None


def batch_of(log: Iterable[Logged]) -> pa.RecordBatch:
    """Return events as a batch of `schemas.EVENTS`."""
    return pa.RecordBatch.from_pylist([row_of(logged) for logged in log], schema=EVENTS)


def expected(
    log: Iterable[Logged],
    when: datetime | None = None,
    position: Mapping[int, int] | None = None,
) -> tuple[dict[str, Row], dict[str, list[Row]]]:
    """Fold a log event by event.

    Args:
        log: In log order within each partition.
        when: Each job counts up to its first applied event that is later.
        position: Each partition counts up to this offset.

    Returns:
        By job id, the row of `schemas.JOBS` and those of `schemas.TRANSITIONS`.
    """
    histories: dict[str, list[Logged]] = {}
    for logged in log:
        if position is None or logged.place.offset < position.get(logged.place.partition, 0):
            histories.setdefault(logged.event.subject, []).append(logged)
    jobs: dict[str, Row] = {}
    moves: dict[str, list[Row]] = {}
    for job_id, history in histories.items():
        states = _states(history, when)
        if states:
            jobs[job_id] = _job(states)
            moves[job_id] = _moves(states)
    return jobs, moves


_States = list[tuple[Logged, Job, Verdict]]


def _states(history: list[Logged], when: datetime | None) -> _States:
    """Return each event that counts, with the job after it."""
    found: _States = []
    job = None
    for logged in history:
        job, verdict = fold(job, logged.event, logged.place)
        # An applied event's time is what the job was updated at.
        if when is not None and verdict == "applied" and from_microseconds(job.updated_at) > when:
            break
        found.append((logged, job, verdict))
    return found


def _job(states: _States) -> Row:
    logged, job, _ = states[-1]
    ignored = sum(verdict != "applied" for _, _, verdict in states)
    return {
        "id": job.id,
        "state": job.state.value,
        "job_type": job.job_type,
        "owner": job.owner,
        "bulk_id": job.bulk_id,
        "viewers": list(job.viewers),
        "tags": list(job.tags.items()),
        "created_at": from_microseconds(job.created_at),
        "started_at": _instant(job.started_at),
        "updated_at": from_microseconds(job.updated_at),
        "ended_at": _instant(job.ended_at),
        "attempt": job.attempt,
        "progress": job.progress,
        "error": None if job.error is None else job.error.decode(),
        "output": None if job.output is None else job.output.decode(),
        "partition": logged.place.partition,
        "events": len(states),
        "ignored": ignored,
    }


def _moves(states: _States) -> list[Row]:
    last = states[-1][1]
    rows: list[Row] = []
    for logged, job, verdict in states:
        if verdict != "applied" or logged.event.state is None:
            continue
        time = from_microseconds(job.updated_at)
        before = rows[-1] if rows else None
        rows.append(
            {
                "job_id": job.id,
                "partition": logged.place.partition,
                "offset": logged.place.offset,
                "event_id": logged.event.id,
                "time": time,
                "from_state": before and before["to_state"],
                "to_state": job.state.value,
                "attempt": job.attempt,
                "seconds": None if before is None else (time - before["time"]).total_seconds(),
                "job_type": last.job_type,
                "owner": last.owner,
                "bulk_id": last.bulk_id,
            }
        )
    return rows


def _instant(value: int | None) -> datetime | None:
    return None if value is None else from_microseconds(value)
