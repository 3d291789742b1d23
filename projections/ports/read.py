"""What the API reads of a projection store, and for whom.

The caller's filter is part of every query: a job that they may not see is never read for them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

import orjson

from jobtrail.core.asof import Cut
from jobtrail.core.job import Job
from jobtrail.core.position import LastRecord
from jobtrail.core.states import STATES, State
from jobtrail.core.trail import STATE_CODES, DescriptionSpan, Event
from projections.ports.meter import Meter

#: (owner, viewers), of the jobs of one audience.
Audience = tuple[str | None, tuple[str, ...]]
#: A listed job: its columns, its audience, and its type's name. The columns are, in this order: id,
#: code of the state, the times of its creation, last change, start and end, attempt, progress, bulk
#: id, tags in JSON or None, error, output. Columns after these are the store's own.
Line = tuple[Sequence[Any], Audience, str | None]
#: A job's id, the code of its state, and its output.
Status = tuple[str, int, bytes | None]


def job_of(row: Sequence[Any], audience: Audience, job_type: str | None) -> Job:
    """Build a job, without its trail, from its line.

    Args:
        row: Begins with the columns.
        audience: Owner and viewers of the row's audience.
        job_type: The name of the row's type.
    """
    (
        job_id,
        state,
        created_at,
        updated_at,
        started_at,
        ended_at,
        attempt,
        progress,
        bulk_id,
        tags,
        error,
        output,
        *_,
    ) = row
    owner, viewers = audience
    return Job(
        id=job_id,
        state=STATES[state],
        created_at=created_at,
        updated_at=updated_at,
        started_at=started_at,
        ended_at=ended_at,
        attempt=attempt,
        owner=owner,
        job_type=job_type,
        bulk_id=bulk_id,
        viewers=viewers,
        tags=orjson.loads(tags) if tags else {},
        progress=progress,
        error=error,
        output=output,
    )


def line_of(job: Job) -> Line:
    """Return the line of a job, from which `job_of` builds it again."""
    row = (
        job.id,
        STATE_CODES[job.state],
        job.created_at,
        job.updated_at,
        job.started_at,
        job.ended_at,
        job.attempt,
        job.progress,
        job.bulk_id,
        pack_tags(job.tags),
        job.error,
        job.output,
    )
    return row, (job.owner, job.viewers), job.job_type


def pack_tags(tags: dict[str, str]) -> str | None:
    """Return tags as they are stored in a row."""
    return orjson.dumps(tags).decode() if tags else None


class Caller(NamedTuple):
    """On whose behalf a store is read."""

    user: str
    groups: tuple[str, ...] = ()
    #: They have the permission `jobs:read:all`.
    reads_all: bool = False

    @property
    def principals(self) -> tuple[str, ...]:
        """The names under which jobs may be visible to them."""
        return (f"user:{self.user}", *(f"group:{group}" for group in self.groups))

    def sees(self, job: Job) -> bool:
        """Tell whether they may see a job: the same rule as the one in the stores' queries."""
        if self.reads_all:
            return True
        if job.owner is None:
            return False
        return job.owner == self.user or not set(self.principals).isdisjoint(job.viewers)


class Filters(NamedTuple):
    """Which jobs are asked for. Empty or None: all."""

    job_types: tuple[str, ...] = ()
    states: tuple[State, ...] = ()
    #: Inclusive bounds of the creation time, microseconds since the epoch.
    created_from: int | None = None
    created_to: int | None = None
    owner: str | None = None
    bulk_id: str | None = None
    #: (key, value) pairs that must all match.
    tags: tuple[tuple[str, str], ...] = ()
    #: Microseconds since the epoch, inclusive.
    updated_since: int | None = None

    def match(self, job: Job) -> bool:
        """Tell whether a job is asked for: the same rule as the one in the stores' queries."""
        return (
            (not self.job_types or job.job_type in self.job_types)
            and (not self.states or job.state in self.states)
            and (self.created_from is None or job.created_at >= self.created_from)
            and (self.created_to is None or job.created_at <= self.created_to)
            and (self.owner is None or job.owner == self.owner)
            and (self.bulk_id is None or job.bulk_id == self.bulk_id)
            and (self.updated_since is None or job.updated_at >= self.updated_since)
            and all(job.tags.get(key) == value for key, value in self.tags)
        )


class Cursor(NamedTuple):
    """The last job of a page: the next page begins after it."""

    created_at: int
    id: str


class PastJob(NamedTuple):
    """A job as it was at a cut, as far as the store can tell."""

    place: Cursor
    #: The job without its trail, if it has not changed; None where its events have to be folded.
    job: Job | None
    #: The partition of its events, and the events that have to be folded.
    partition: int
    events: tuple[Event, ...]


class PastPage(NamedTuple):
    """A page of a search in the past."""

    #: In the order of a listing. The tags of jobs that have to be folded are not checked.
    found: list[PastJob]
    #: How many matches were skipped before.
    skipped: int
    #: The job after which the rest begins; None where there is no more.
    reached: Cursor | None


class ListingPart(NamedTuple):
    """A part of a listing: what matched among the jobs that were looked at."""

    lines: list[Line]
    #: The job after which the rest begins; None where there is no more.
    reached: Cursor | None
    #: How many matches are still to be passed over there.
    skip: int


class Watermark(NamedTuple):
    """How far the log is applied in a snapshot of a store."""

    #: Per partition the offset before which everything is applied.
    position: dict[int, int]
    #: Per partition the log's timestamp of the last applied record, microseconds, 0 for none.
    timestamps: dict[int, int]
    #: Partitions that can't be answered correctly yet.
    recovering: frozenset[int]
    #: Per partition the last applied record, where there is one.
    last: Mapping[int, LastRecord] = {}
    #: Per partition the last heartbeat of a projector, microseconds since the epoch; 0 for none.
    beats: Mapping[int, int] = {}
    #: Per partition the offset before which the log was found to be the one that was folded.
    proved: Mapping[int, int] = {}
    #: Why partitions have stopped, by partition.
    stopped: Mapping[int, str] = {}
    #: Changes when the log that was folded turns out to be another one.
    lineage: str = ""

    @property
    def marks(self) -> dict[int, int]:
        """Per partition the mark of the last applied record: what a position carries."""
        return {partition: last.mark for partition, last in self.last.items()}


class Trail(Protocol):
    """A job's trail in a snapshot; only what is asked for is read."""

    def page(self, offset: int, size: int) -> bytes:
        """Return consecutive entries, packed, that include those of a page.

        Args:
            offset: The first offset that is wanted, whether there is an event or not.
            size: How many events.
        """

    def chunks(self) -> Iterator[bytes]:
        """Yield the complete trail, in order, in packed pieces."""

    def seen(self, keys: Collection[bytes]) -> Mapping[bytes, int]:
        """Return the first offset of each of these keys that is in the trail's chunks."""

    def said(self) -> DescriptionSpan:
        """Return the first and the last offset of an event that may describe the job."""


class Snapshot(Protocol):
    """One consistent view of a store."""

    watermark: Watermark
    #: Used as a context: within it, reads that raise TooLong end where they would take too long.
    meter: Meter

    def states(self, caller: Caller, ids: Sequence[str]) -> list[Status]:
        """Return the states of those of these jobs that the caller sees.

        Raises:
            TooLong: The reader's meter ends it.
        """

    def watched(self, ids: list[str]) -> dict[str, Job]:
        """Return these jobs with the last entries of their trails, for any caller.

        The live tail folds onto them; `Caller.sees` decides before any of it is answered. Where a
        trail is long, its beginning is a `jobtrail.core.earlier.StoredEntries`.
        """

    def audiences(self, places: Iterable[tuple[str, int]]) -> dict[str, Audience]:
        """Return the audiences of those of these jobs that exist, for internal use.

        Args:
            places: The ids, each with the partition in which it is looked for.
        """

    def trail(self, job_id: str) -> Trail | None:
        """Return access to a job's trail; None where there is no such job."""

    def search(
        self,
        caller: Caller,
        filters: Filters,
        *,
        size: int,
        after: Cursor | None = None,
        offset: int = 0,
    ) -> list[Line]:
        """Return a page of jobs, newest first.

        The order is `created_at` descending, then id ascending.

        Raises:
            TooLong: The reader's meter ends it.
        """

    def search_some(
        self,
        caller: Caller,
        filters: Filters,
        *,
        size: int,
        after: Cursor | None = None,
        skip: int = 0,
        most: int,
        most_bytes: int,
    ) -> ListingPart:
        """Return the jobs that match among the next ones of a listing, in the order of `search`.

        Args:
            caller: Who asks.
            filters: What matches.
            size: How many jobs at most.
            after: Where to begin.
            skip: How many matches to skip.
            most: How many jobs are read, whether they match or not, before it ends.
            most_bytes: Bytes of the jobs, before it ends; one job is always given.

        Raises:
            TooLong: The reader's meter ends it.
        """

    def summary(self, caller: Caller, filters: Filters) -> dict[str | None, list[int]]:
        """Count jobs by type and state, from counters.

        Only `job_types`, `created_from` and `created_to` of the filters count.

        Returns:
            Per job type, sorted by name, its counts in the order of `STATES`. A job whose type is
            not in the log yet counts under None.
        """

    def search_at(
        self,
        caller: Caller,
        filters: Filters,
        cut: Cut,
        *,
        size: int,
        after: Cursor | None = None,
        skip: int = 0,
    ) -> PastPage:
        """Look for jobs that matched at a cut, newest first, as all of them were then.

        The page ends early where too many jobs had to be read, or too many events.

        Args:
            caller: Who asks.
            filters: What matches.
            cut: Up to where the log counts.
            size: How many, at most.
            after: Where to begin.
            skip: How many matches to skip; not together with a filter on tags.
        """

    def summary_at(self, caller: Caller, filters: Filters, cut: Cut) -> dict[str | None, list[int]]:
        """Count jobs by type and state as `summary` does, as they were at a cut."""

    def verdicts(self) -> dict[str, int]:
        """Count the records that are applied, by the fold's verdict; `dead` is no valid event."""


class ProjectionReader(Protocol):
    """The read side of a store; not to be used by two threads at a time."""

    #: See `Snapshot`. It may be replaced between snapshots.
    meter: Meter

    @property
    def partitions(self) -> int:
        """How many partitions the folded log has."""

    def snapshot(self) -> AbstractContextManager[Snapshot]:
        """Open a consistent view of the store.

        Raises:
            StoreNotReady: There is no store to read yet.
            StoreError: It can't be read.
        """

    def close(self) -> None:
        """Close the store."""
