"""The read side of the store: a snapshot is a transaction that sees one state of all of it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from typing import Any, Final

import psycopg

from jobtrail.core.asof import Cut
from jobtrail.core.errors import StoreNotReady
from jobtrail.core.job import Job
from jobtrail.core.position import LastRecord
from jobtrail.core.trail import VERDICTS
from projections.ports.meter import Meter, TooLong
from projections.ports.read import (
    Audience,
    Caller,
    Cursor,
    Filters,
    Line,
    ListingPart,
    PastPage,
    Status,
    Trail,
    Watermark,
)
from projections.postgres.connection import (
    DEFAULT_SCHEMA,
    DEFAULT_TIMEOUTS,
    Connection,
    Session,
    Timeouts,
    settings_of,
)
from projections.postgres.counting import count, count_at
from projections.postgres.jobs import read_jobs
from projections.postgres.layout import HIGHEST, audience_of, partition_in, storable
from projections.postgres.listing import Listing, audiences_of, lines, tick
from projections.postgres.past import PastListing
from projections.postgres.trails import PostgresTrail

#: Both in one message: the transaction's view is that of its first statement.
_BEGIN: Final = (
    "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; "
    "SELECT partition, generation, next_offset, recover_to, last_offset, last_mark, "
    "last_timestamp, last_epoch, at, proved, stopped "
    "FROM checkpoints LEFT JOIN beats USING (partition) ORDER BY partition"
)
_STATES: Final = (
    "SELECT id, state, output FROM jobs WHERE id = ANY(%(ids)s) AND (%(all)s OR EXISTS ("
    "SELECT 1 FROM audience_members m WHERE m.principal = ANY(%(principals)s) "
    "AND m.audience = jobs.audience))"
)
_VERDICTS: Final = (*VERDICTS, "dead")
_SUMS: Final = ", ".join(
    f'coalesce(sum("{name.replace("-", "_")}"), 0)::bigint' for name in _VERDICTS
)
_TALLY: Final = f"SELECT {_SUMS} FROM checkpoints"  # noqa: S608


class PostgresReader:
    """An API process's view of a store; see `projections.ports.read.ProjectionReader`.

    Args:
        dsn: Of the database, as libpq takes it.
        schema: Where the store lies.
        timeouts: How long the session may take: a read that is ended by it was too long.
    """

    def __init__(
        self, dsn: str, schema: str = DEFAULT_SCHEMA, timeouts: Timeouts = DEFAULT_TIMEOUTS
    ) -> None:
        self._session = Session(dsn, schema, settings_of(timeouts))
        self._partitions = 0
        self.meter = Meter(2**62, rows=2**62, audiences=2**62)

    @property
    def partitions(self) -> int:
        """How many partitions the folded log has.

        Raises:
            StoreError: The store can't be read.
        """
        if not self._partitions:
            with self.snapshot() as snapshot:
                self._partitions = len(snapshot.watermark.position)
        return self._partitions

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[PostgresSnapshot]:
        """Open a consistent view of the store.

        Raises:
            StoreNotReady: There is no store to read yet.
            StoreError: It can't be read.
            TooLong: A statement took longer than it may.
        """
        with self._session.use() as connection:
            try:
                cursor = connection.execute(_BEGIN, prepare=False)
                cursor.nextset()
                held = _watermark(cursor.fetchall(), self._session.identity)
                if not held.position:
                    raise StoreNotReady(
                        "The projection store is being made.", where=self._session.where
                    )
                yield PostgresSnapshot(connection, held, self.meter)
            except psycopg.errors.QueryCanceled as error:
                raise TooLong from error
            finally:
                _end(connection)

    def close(self) -> None:
        """Close the connection."""
        self._session.close()


def _end(connection: Connection) -> None:
    """End a transaction; where that can't be done, the connection is not used any more."""
    try:
        connection.rollback()
    except psycopg.Error:
        connection.close()


def _watermark(rows: Sequence[tuple[Any, ...]], identity: str) -> Watermark:
    """Return what a store holds, from its checkpoints and beats."""
    lasts = {row[0]: LastRecord(*row[4:8]) for row in rows if row[4] is not None}
    filled = " ".join([identity, *(str(row[1]) for row in rows)])
    return Watermark(
        position={row[0]: row[2] for row in rows},
        timestamps={row[0]: lasts[row[0]].timestamp if row[0] in lasts else 0 for row in rows},
        recovering=frozenset(row[0] for row in rows if row[2] < row[3]),
        last=lasts,
        beats={row[0]: row[8] or 0 for row in rows},
        proved={row[0]: row[9] or 0 for row in rows},
        stopped={row[0]: row[10] for row in rows if row[10]},
        lineage=blake2b(filled.encode(), digest_size=8).hexdigest(),
    )


class PostgresSnapshot:
    """One consistent view; see `projections.ports.read.Snapshot`.

    Args:
        connection: In a transaction that sees one state of the store.
        held: What the store holds in it.
        meter: Ends questions that look at too much.
    """

    def __init__(self, connection: Connection, held: Watermark, meter: Meter) -> None:
        self._connection = connection
        self.watermark = held
        self.meter = meter

    def states(self, caller: Caller, ids: Sequence[str]) -> list[Status]:
        """Return the states of those of these jobs that the caller sees, of each once."""
        rows: list[Status] = self._connection.execute(
            _STATES,
            {
                "ids": [job_id for job_id in ids if storable(job_id)],
                "all": caller.reads_all,
                "principals": [name for name in caller.principals if storable(name)],
            },
        ).fetchall()
        self._bound(sum(len(output or b"") for _id, _state, output in rows))
        return rows

    def _bound(self, size: int) -> None:
        """End a read that brings more bytes than it may.

        Raises:
            TooLong: As it says.
        """
        if self.meter.active and size > self.meter.rows:
            raise TooLong

    def watched(self, ids: list[str]) -> dict[str, Job]:
        """Return these jobs with the last entries of their trails, for any caller."""
        return {known.job.id: known.job for known in read_jobs(self._connection, ids)}

    def audiences(self, places: Iterable[tuple[str, int]]) -> dict[str, Audience]:
        """Return the audiences of jobs, for no caller."""
        asked = {(job_id, partition) for job_id, partition in places if storable(job_id)}
        rows = self._connection.execute(
            "SELECT j.id, row, a.owner, a.viewers FROM jobs j JOIN audiences a USING (audience) "
            "WHERE j.id = ANY(%s)",
            ([job_id for job_id, _partition in asked],),
        ).fetchall()
        return {
            job_id: audience_of(owner, viewers)
            for job_id, row, owner, viewers in rows
            if (job_id, partition_in(row)) in asked
        }

    def trail(self, job_id: str) -> Trail | None:
        """Return the way to a job's trail; None where there is no such job."""
        if not storable(job_id):
            return None
        row = self._connection.execute(
            "SELECT row, trail FROM jobs WHERE id = %s", (job_id,)
        ).fetchone()
        return None if row is None else PostgresTrail(self._connection, *row)

    def _listing(self, caller: Caller, filters: Filters) -> Listing:
        audiences = audiences_of(self._connection, caller, filters, self.meter)
        return Listing(self._connection, audiences, filters)

    def search(
        self,
        caller: Caller,
        filters: Filters,
        *,
        size: int,
        after: Cursor | None = None,
        offset: int = 0,
    ) -> list[Line]:
        """Return a page of jobs, newest first."""
        wanted = offset + size
        places = []
        for looked in self._listing(caller, filters).looks(after, wanted, HIGHEST):
            tick(self.meter, looked.total)
            places += looked.places
            if len(places) >= wanted:
                break
        page = places[offset:wanted]
        self._bound(sum(place.size for place in page))
        return lines(self._connection, page)

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
        """Return the jobs that match among the next ones of a listing."""
        places = []
        reached = after
        # One more tells whether there is one more.
        wanted = skip + size + 1
        for looked in self._listing(caller, filters).looks(after, wanted, most):
            tick(self.meter, looked.total)
            places += looked.places
            reached = looked.reached
            if len(places) >= wanted:
                break
        passed = min(skip, len(places))
        page = places[passed : passed + size]
        taken = kept = 0
        for place in page:
            taken += place.size
            if taken > most_bytes and kept:
                break
            kept += 1
        if len(places) > passed + kept:
            reached = page[kept - 1].at
        return ListingPart(lines(self._connection, page[:kept]), reached, skip - passed)

    def summary(self, caller: Caller, filters: Filters) -> dict[str | None, list[int]]:
        """Count jobs by type and state, from counters and the edges of the two edge days."""
        audiences = audiences_of(self._connection, caller, Filters(), self.meter)
        return count(self._connection, audiences, filters)

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
        """Look for jobs that matched at a cut, newest first, as all of them were then."""
        connection = self._connection
        audiences = audiences_of(connection, caller, filters, self.meter)
        if caller.reads_all and filters.bulk_id is not None and audiences is not None:
            # A bulk may have been of others, too.
            versions = audiences_of(connection, caller, filters, self.meter, "versions")
            audiences = sorted({*audiences, *(versions or ())})
        listing = Listing(connection, audiences, filters, cut)
        return PastListing(connection, listing, filters, cut).look(size, after, skip)

    def summary_at(self, caller: Caller, filters: Filters, cut: Cut) -> dict[str | None, list[int]]:
        """Count jobs by type and state as they were at a cut."""
        audiences = audiences_of(self._connection, caller, Filters(), self.meter)
        return count_at(self._connection, audiences, filters, cut)

    def verdicts(self) -> dict[str, int]:
        """Count the records that are applied, by the fold's verdict; `dead` is no valid event."""
        row = self._connection.execute(_TALLY.encode()).fetchone()
        return {str(name): total for name, total in zip(_VERDICTS, row or (), strict=True)}
