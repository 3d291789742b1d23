"""What any store must answer: the pure fold of the log, asked by looking at every job.

Nothing here uses an index, a counter or a query; who sees a job is written out from the API's
contract once more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from jobtrail.core.decoding import accept
from jobtrail.core.errors import EventError
from jobtrail.core.fold import fold
from jobtrail.core.job import Job, Place, kept_trail
from jobtrail.core.position import mark_of
from jobtrail.core.states import STATES
from jobtrail.core.trail import Verdict
from projections.ports.read import Caller, Filters
from projections.ports.write import Tally
from tests.contract.store_streams import DAY, Log

#: Who a group of counters stands for: (owner, viewers), or None for all jobs.
Audience = tuple[str | None, tuple[str, ...]] | None
Counters = dict[Audience, dict[tuple[int, str | None], tuple[int, ...]]]


class Model:
    """The fold of a log up to a position that can be moved on."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.position = dict.fromkeys(log.records, log.first)
        self.jobs: dict[str, Job] = {}
        #: (offset, mark, timestamp) of the last record per partition, whatever it was.
        self.last: dict[int, tuple[int, int, int] | None] = dict.fromkeys(log.records)
        self._verdicts: dict[int, Counter[str]] = {p: Counter() for p in log.records}

    def advance(self, position: Mapping[int, int] | None = None) -> Model:
        """Fold up to a position, by default to the log's end."""
        for partition, stop in (position or self.log.ends()).items():
            assert stop >= self.position[partition], f"partition {partition} went back"
            for record in self.log.slice(partition, self.position[partition], stop):
                self._fold(partition, record)
            self.position[partition] = stop
        return self

    def _fold(self, partition: int, record: Any) -> None:
        clock = record.timestamp * 1000
        self.last[partition] = (record.offset, mark_of(record.key, record.value), clock)
        try:
            event = accept(record.key, record.value, partition, len(self.log.records))
        except EventError:
            self._verdicts[partition]["dead"] += 1
            return
        place = Place(partition, record.offset, clock)
        job, verdict = fold(self.jobs.get(event.subject), event, place)
        self.jobs[job.id] = job
        self._verdicts[partition][verdict] += 1

    def tallies(self) -> dict[int, Tally]:
        """Return how the records of each partition were judged."""
        return {
            partition: Tally(*(found[v] for v in Verdict), dead=found["dead"])
            for partition, found in self._verdicts.items()
        }

    def listing(self, caller: Caller, filters: Filters | None = None) -> list[Job]:
        """Return all jobs that match, in the order of a search."""
        wanted = filters or Filters()
        seen = visible(caller, self.jobs.values())
        found = [job for job in seen if matches(job, wanted)]
        return sorted(found, key=lambda job: (-job.created_at, job.id))

    def summary(self, caller: Caller, filters: Filters | None = None) -> dict[str | None, Any]:
        """Count the jobs that match by type and state."""
        counts: dict[str | None, list[int]] = {}
        for job in self.listing(caller, filters):
            counts.setdefault(job.job_type, [0] * len(STATES))[STATES.index(job.state)] += 1
        return counts

    def counters(self) -> Counters:
        """Count the jobs by audience, day, type and state."""
        counts: dict[Audience, dict[tuple[int, str | None], list[int]]] = {}
        for job in self.jobs.values():
            bucket = (job.created_at // DAY, job.job_type)
            for audience in ((job.owner, job.viewers), None):
                row = counts.setdefault(audience, {}).setdefault(bucket, [0] * len(STATES))
                row[STATES.index(job.state)] += 1
        return {a: {b: tuple(row) for b, row in of.items()} for a, of in counts.items()}


def visible(caller: Caller, jobs: Iterable[Job]) -> list[Job]:
    """Callers see a job that they own, or they or a group of theirs view; with read-all, any."""
    if caller.reads_all:
        return list(jobs)
    names = {f"user:{caller.user}"} | {f"group:{group}" for group in caller.groups}
    return [job for job in jobs if job.owner == caller.user or names & {*job.viewers}]


def matches(job: Job, filters: Filters) -> bool:
    """Tell whether a job is asked for."""
    return (
        (not filters.job_types or job.job_type in filters.job_types)
        and (not filters.states or job.state in filters.states)
        and (filters.created_from is None or job.created_at >= filters.created_from)
        and (filters.created_to is None or job.created_at <= filters.created_to)
        and (filters.owner is None or job.owner == filters.owner)
        and (filters.bulk_id is None or job.bulk_id == filters.bulk_id)
        and all(job.tags.get(key) == value for key, value in filters.tags)
        and (filters.updated_since is None or job.updated_at >= filters.updated_since)
    )


def whole(job: Job) -> dict[str, Any]:
    """Return all of a job. The order of its tags counts: a job keeps the first of them."""
    trail = {"trail": kept_trail(job), "earlier": None}
    return {**msgspec.structs.asdict(job), **trail, "tags": list(job.tags.items())}


def plain(jobs: Iterable[Job]) -> list[dict[str, Any]]:
    """Return jobs as they are listed: without their trails, and without who may work on them."""
    unlisted = {"trail": b"", "source": "", "writers": ()}
    return [{**whole(job), **unlisted} for job in jobs]
