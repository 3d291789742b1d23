"""The tables of replay, made by the pure fold one event at a time: no column, no file."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import duckdb
import pyarrow as pa

from jobtrail.events import Event
from jobtrail.fold import fold
from jobtrail.job import Job, Place, Verdict
from jobtrail.partitions import partition_of
from jobtrail.replay.schemas import JOBS, TRANSITIONS

PARTITIONS = 4


def placed(events: Iterable[Event]) -> Iterable[tuple[Place, Event]]:
    """Yield events with their places in a log that they are written to one after another."""
    ends = dict.fromkeys(range(PARTITIONS), 0)
    for event in events:
        partition = partition_of(event.subject, PARTITIONS)
        yield Place(partition, ends[partition], 0), event
        ends[partition] += 1


class Tables:
    """Jobs and transitions of some events."""

    def __init__(self, events: Iterable[Event]) -> None:
        self.jobs: dict[str, Job] = {}
        self._partitions: dict[str, int] = {}
        self._counts: dict[str, list[int]] = {}
        self._transitions: list[dict[str, Any]] = []
        for place, event in placed(events):
            self._fold(place, event)

    def _fold(self, place: Place, event: Event) -> None:
        before = self.jobs.get(event.subject)
        job, verdict = fold(before, event, place)
        self.jobs[job.id] = job
        counts = self._counts.setdefault(job.id, [0, 0])
        counts[0] += 1
        counts[1] += verdict is not Verdict.APPLIED
        self._partitions[job.id] = place.partition
        if verdict is Verdict.APPLIED and (before is None or event.state is not None):
            self._transitions.append(
                {
                    "job_id": job.id,
                    "partition": place.partition,
                    "offset": place.offset,
                    "event_id": event.id,
                    "time": job.updated_at,
                    "from_state": None if before is None else str(before.state),
                    "to_state": str(job.state),
                    "attempt": job.attempt,
                }
            )

    def transitions(self) -> pa.Table:
        """The rows of `schemas.TRANSITIONS`."""
        latest: dict[str, int] = {}
        for row in self._transitions:
            job = self.jobs[row["job_id"]]
            before = latest.get(job.id)
            row["seconds"] = None if before is None else (row["time"] - before) / 1e6
            latest[job.id] = row["time"]
            row.update(job_type=job.job_type, owner=job.owner, bulk_id=job.bulk_id)
        return pa.Table.from_pylist(self._transitions, TRANSITIONS)

    def jobs_table(self) -> pa.Table:
        """The rows of `schemas.JOBS`."""
        rows = []
        for job in self.jobs.values():
            row = {name: getattr(job, name) for name in JOBS.names if hasattr(job, name)}
            row |= {
                "state": str(job.state),
                "viewers": list(job.viewers),
                "tags": list(job.tags.items()),
                "error": job.error and job.error.decode(),
                "output": job.output and job.output.decode(),
                "partition": self._partitions[job.id],
                "events": self._counts[job.id][0],
                "ignored": self._counts[job.id][1],
            }
            rows.append(row)
        return pa.Table.from_pylist(rows, JOBS)

    def connect(self) -> duckdb.DuckDBPyConnection:
        """Return a database of the two tables."""
        connection = duckdb.connect()
        for name, table in (("jobs", self.jobs_table()), ("transitions", self.transitions())):
            connection.register("given", table)
            connection.execute(f"CREATE TABLE {name} AS FROM given")
            connection.unregister("given")
        return connection
