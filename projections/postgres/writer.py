"""The write side of the store: a batch of a partition is one transaction.

Everything is worked out and all names are numbered before it begins. Its first statement moves the
checkpoint, and only from where the batch begins: a writer that comes late waits there for the other
one, sees the checkpoint moved, and writes nothing. No statement waits for the client while another
one is under way, so the session's timeouts bound how long anything is locked.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from typing import Any, Final

from jobtrail.core.errors import FencedError, StoreError
from jobtrail.core.position import LastRecord
from jobtrail.core.trail import NEVER, effective_time
from projections.ports.write import Beat, Checkpoint, Entry, FoldedBatch
from projections.postgres import trails
from projections.postgres.batch_rows import BatchRows, Place, Stored
from projections.postgres.changes import Key, Known
from projections.postgres.connection import (
    DEFAULT_SCHEMA,
    DEFAULT_TIMEOUTS,
    Connection,
    Session,
    Timeouts,
    settings_of,
)
from projections.postgres.jobs import read_jobs
from projections.postgres.layout import first_row
from projections.postgres.names import Names

_FENCE: Final = (
    "UPDATE checkpoints SET next_offset = %s, last_offset = %s, last_mark = %s, "
    "last_timestamp = %s, last_epoch = %s, last_row = %s, applied = applied + %s, "
    "duplicate = duplicate + %s, late = late + %s, not_allowed = not_allowed + %s, "
    '"foreign" = "foreign" + %s, dead = dead + %s '
    "WHERE partition = %s AND generation = %s AND next_offset = %s AND last_row = %s"
)
#: Of a partition's rows, by their numbers.
_BY_ROW: Final = ("jobs", "versions", "trail_chunks", "trail_keys", "trail_said")
_BY_PARTITION: Final = ("counters", "totals", "changes", "skipped", "beats")
_EMPTY: Final = (
    "UPDATE checkpoints SET generation = generation + 1, next_offset = %s, recover_to = %s, "
    "last_offset = NULL, last_mark = NULL, last_timestamp = NULL, last_epoch = NULL, applied = 0, "
    'duplicate = 0, late = 0, not_allowed = 0, "foreign" = 0, dead = 0 WHERE partition = %s'
)


class PostgresWriter:
    """A projector's hold on a store; see `projections.ports.write.ProjectionWriter`.

    Args:
        dsn: Of the database, as libpq takes it.
        schema: Where the store lies; `migrate.create` has made it.
        timeouts: How long the session may take.
    """

    def __init__(
        self, dsn: str, schema: str = DEFAULT_SCHEMA, timeouts: Timeouts = DEFAULT_TIMEOUTS
    ) -> None:
        # What a crash of PostgreSQL takes of the last commits it takes whole, checkpoint and rows
        # together: they are folded again from the log.
        settings = settings_of(timeouts, synchronous_commit="off")
        self._session = Session(dsn, schema, settings)
        self._names = Names()
        self._names_of = ""

    @property
    def reads_at_once(self) -> bool:
        """A read is a round trip."""
        return False

    def part_of(self, partition: int) -> int:
        """Return which part of the store holds a partition: each is one of its own."""
        return partition

    def checkpoints(self) -> dict[int, Checkpoint]:
        """Return every partition's checkpoint.

        Raises:
            StoreError: The store can't be read.
        """
        with self._session.use() as connection:
            rows = connection.execute(
                "SELECT partition, next_offset, recover_to, last_offset, last_mark, "
                "last_timestamp, last_epoch FROM checkpoints ORDER BY partition"
            ).fetchall()
        return {
            partition: Checkpoint(
                next_offset, None if last[0] is None else LastRecord(*last), recover_to
            )
            for partition, next_offset, recover_to, *last in rows
        }

    def load(self, partition: int, ids: Iterable[str]) -> dict[str, Entry]:
        """Return those of these jobs of a partition that are stored.

        Raises:
            StoreError: The store can't be read.
        """
        asked = list(ids)
        if not asked:
            return {}
        with self._session.use() as connection:
            # One view of the generation and of the rows.
            found = list(read_jobs(connection, asked, partition))
            spilled = [known.row for known in found if known.job.earlier is not None]
            times = trails.reached(connection, spilled) if spilled else {}
        entries = {}
        for job, row, key, state, generation in found:
            entry = Entry(job, row, Stored(Key(*key), state), self._filling(generation))
            entry.written = len(job.trail)
            entry.reached = None
            if job.earlier is not None:
                entry.reached = max(times.get(row, NEVER), effective_time(job.trail))
            entries[job.id] = entry
        return entries

    def _filling(self, generation: int) -> str:
        return f"{self._session.identity} {generation}"

    def seen(self, partition: int, entry: Entry, keys: Collection[bytes]) -> Set[bytes]:
        """Return those of these keys of events that a job has had before its last entries.

        Raises:
            StoreError: The store can't be read.
        """
        assert entry.row is not None
        with self._session.use() as connection:
            return trails.seen(connection, entry.row, keys).keys()

    def apply(self, batches: Sequence[FoldedBatch]) -> None:
        """Write batches and move their partitions' checkpoints, in one transaction.

        Args:
            batches: One or more, of the same partition, each with other jobs.

        Raises:
            FencedError: The stored checkpoint of one is not its `start`; nothing was written.
            StoreError: The store can't be written; nothing was written.
        """
        with self._session.use() as connection:
            written = [self._rows_of(connection, batch) for batch in batches]
            with connection.transaction():
                for rows in written:
                    _move_checkpoint(connection, rows)
                    rows.write(connection)
        for rows in written:
            rows.settle()

    def _rows_of(self, connection: Connection, batch: FoldedBatch) -> BatchRows:
        """Work out what a batch writes."""
        place = _place(connection, batch)
        if self._names_of != self._session.identity:
            self._names.forget()
            self._names_of = self._session.identity
        former = [entry for entry in batch.changes if entry.former]
        self._names.learn(
            connection,
            [
                *(entry.job for entry in batch.changes),
                *(before for entry in former for _offset, before in entry.former),
            ],
        )
        known = Known(frozenset(), {})
        if former:
            known = _known(connection, [entry.row for entry in former if entry.row is not None])
        return BatchRows(batch, place, self._filling(place.generation), self._names, known)

    def reset(self, partition: int, begins: Mapping[int, int], ends: Mapping[int, int]) -> None:
        """Empty a partition, to be folded again from the log.

        Raises:
            StoreError: The store can't be written.
        """
        with self._session.use() as connection, connection.transaction():
            # However many rows there are: it is done once, and by who has the partition.
            connection.execute("SELECT set_config('statement_timeout', '0', true)")
            connection.execute(_EMPTY, (begins[partition], ends[partition], partition))
            rows = (first_row(partition), first_row(partition + 1))
            for table in _BY_ROW:
                connection.execute(
                    f"DELETE FROM {table} WHERE row > %s AND row < %s".encode(),  # noqa: S608
                    rows,
                )
            for table in _BY_PARTITION:
                connection.execute(
                    f"DELETE FROM {table} WHERE partition = %s".encode(),  # noqa: S608
                    (partition,),
                )

    def wait_for_no_more(self, ends: Mapping[int, int]) -> None:
        """Let reads wait for nothing after these offsets: the log has lost what was there.

        Raises:
            StoreError: The store can't be written.
        """
        with self._session.use() as connection, connection.transaction():
            for partition, end in sorted(ends.items()):
                connection.execute(
                    "UPDATE checkpoints SET recover_to = %s WHERE partition = %s "
                    "AND recover_to > %s",
                    (end, partition, end),
                )

    def skip(self, partition: int, until: int) -> int:
        """Move a partition's checkpoint over a hole in the log; return where it was.

        Raises:
            StoreError: It is not before `until`, or the store can't be written.
        """
        with self._session.use() as connection, connection.transaction():
            found = connection.execute(
                "SELECT next_offset FROM checkpoints WHERE partition = %s FOR UPDATE", (partition,)
            ).fetchone()
            if found is None or found[0] >= until:
                raise StoreError(
                    "There is nothing to skip.",
                    where=f"partition {partition} in {self._session.where}",
                    expected=f"a checkpoint before offset {until}",
                    found=f"offset {found[0]}" if found else "no such partition",
                )
            connection.execute(
                "INSERT INTO skipped VALUES (%s, %s, %s, %s)",
                (partition, found[0], until, time.time_ns() // 1000),
            )
            connection.execute(
                "UPDATE checkpoints SET next_offset = %s WHERE partition = %s", (until, partition)
            )
        begin: int = found[0]
        return begin

    def beat(self, beats: Mapping[int, Beat]) -> None:
        """Say that a projector lives, and how far it is.

        Raises:
            StoreError: The store can't be written.
        """
        now = time.time_ns() // 1000
        with self._session.use() as connection, connection.transaction():
            for partition, beat in sorted(beats.items()):
                # One that was stopped for long may not know yet that others have gone on.
                connection.execute(
                    "INSERT INTO beats VALUES (%s, %s, %s, %s) ON CONFLICT (partition) DO UPDATE "
                    "SET at = excluded.at, stopped = excluded.stopped, "
                    "proved = greatest(beats.proved, excluded.proved)",
                    (partition, now, *beat),
                )

    def repair(self, begins: Mapping[int, int], ends: Mapping[int, int]) -> list[int]:
        """Return no partition: damage is PostgreSQL's to find and its operator's to mend."""
        return []

    def checkpoint_wal(self) -> None:
        """Do nothing: PostgreSQL cleans up by itself."""

    def close(self) -> None:
        """Close the connection."""
        self._session.close()


def _place(connection: Connection, batch: FoldedBatch) -> Place:
    """Return where a partition's checkpoint is.

    Raises:
        FencedError: It is not where the batch begins.
    """
    row: tuple[Any, ...] | None = connection.execute(
        "SELECT generation, next_offset, last_row FROM checkpoints WHERE partition = %s",
        (batch.partition,),
    ).fetchone()
    if row is None or row[1] != batch.start:
        raise _fenced(batch, f"offset {row[1]}" if row else "no checkpoint")
    return Place(*row)


def _move_checkpoint(connection: Connection, rows: BatchRows) -> None:
    """Move a checkpoint from where a batch begins to where it ends.

    Raises:
        FencedError: It is somewhere else by now.
    """
    batch, place = rows.batch, rows.place
    moved = connection.execute(
        _FENCE,
        (
            batch.next_offset,
            *(batch.last or (None,) * len(LastRecord._fields)),
            rows.last_row,
            *batch.tally,
            batch.partition,
            *place,
        ),
    )
    if moved.rowcount != 1:
        raise _fenced(batch, "that it has moved just now")


def _fenced(batch: FoldedBatch, found: str) -> FencedError:
    return FencedError(
        "Another projector has moved this partition's checkpoint.",
        where=f"partition {batch.partition}",
        expected=f"a checkpoint at offset {batch.start}",
        found=found,
    )


def _known(connection: Connection, rows: list[int]) -> Known:
    """Return what the store has of jobs that became others."""
    versions = connection.execute(
        "SELECT DISTINCT row FROM versions WHERE row = ANY(%s::bigint[])", (rows,)
    ).fetchall()
    return Known(frozenset(row for (row,) in versions), trails.first_events(connection, rows))
