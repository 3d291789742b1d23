"""The write side of the SQLite store: a batch of one partition is one transaction.

Everything that a batch changes goes in sorted and in bulk: one row per touched job, one row per
touched counter, whatever number of events lies behind them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from operator import itemgetter
from pathlib import Path
from typing import Any, Final

import apsw
import orjson

from jobtrail.errors import FencedError, StoreError
from jobtrail.job import STATE_CODES
from projections.sqlite import changes, counters, schema
from projections.sqlite.numbers import Numbers
from projections.sqlite.placed import Placed
from projections.sqlite.rows import COLUMNS, Names, hash_of
from projections.sqlite.totals import Totals
from projections.store import Batch, Checkpoint, Entry

_INSERT: Final = (
    "INSERT INTO jobs(state, updated_at, started_at, ended_at, attempt, progress, tags, error, "
    "output, spilled, trail, audience, type, created_at, bulk_id, row, id, hash) "
    f"VALUES({', '.join('?' * 18)})"
)
_CHANGE: Final = (
    "UPDATE jobs SET state=?, updated_at=?, started_at=?, ended_at=?, attempt=?, progress=?, "
    "tags=?, error=?, output=?, spilled=?, trail=?"
)
_UPDATE: Final = f"{_CHANGE} WHERE row=?"
_UPDATE_WHOLE: Final = f"{_CHANGE}, audience=?, type=?, created_at=?, bulk_id=? WHERE row=?"
_MOVE: Final = (
    "UPDATE checkpoints SET next_offset=?, last_event_id=?, last_timestamp=?, "
    "applied=applied+?, duplicate=duplicate+?, late=late+?, not_allowed=not_allowed+?, "
    "dead=dead+? WHERE partition=? AND next_offset=?"
)


class SqliteWriter:
    """A projector's hold on a store.

    Args:
        folder: The store; `schema.create` has made it.

    Raises:
        StoreError: A file is missing or can't be opened.
    """

    def __init__(self, folder: Path) -> None:
        self._layout = schema.read_layout(folder)
        self._shards = [
            _Shard(schema.shard_path(folder, shard)) for shard in range(self._layout.shards)
        ]

    @property
    def partitions(self) -> int:
        """How many partitions the folded log has."""
        return self._layout.partitions

    def part_of(self, partition: int) -> int:
        """Return the number of the shard that holds a partition."""
        return partition % self._layout.shards

    def checkpoints(self) -> dict[int, Checkpoint]:
        """Return every partition's checkpoint."""
        return {
            partition: Checkpoint(*columns)
            for shard in self._shards
            for partition, *columns in shard.db.execute(
                "SELECT partition, next_offset, last_event_id, last_timestamp, recover_to "
                "FROM checkpoints"
            )
        }

    def load(self, partition: int, ids: Iterable[str]) -> dict[str, Entry]:
        """Return those of these jobs of a partition that the store knows, with their trails."""
        return self._shards[self.part_of(partition)].load(list(ids))

    def apply(self, batches: Sequence[Batch]) -> None:
        """Write batches and move their partitions' checkpoints, in one transaction.

        Args:
            batches: One or more, of partitions of the same shard.

        Raises:
            FencedError: The stored checkpoint of one is not its `start`; nothing was written.
            StoreError: The store can't be written; nothing was written.
        """
        (part,) = {self.part_of(batch.partition) for batch in batches}
        self._shards[part].apply(batches)

    def reset(self, partition: int, ends: Mapping[int, int]) -> None:
        """Empty the shard that holds a partition, to be folded anew from the log's start."""
        shard = self.part_of(partition)
        mine = {p: end for p, end in ends.items() if self.part_of(p) == shard}
        self._shards[shard].reset(mine)

    def rest(self) -> None:
        """Move what was written from each WAL into its file: readers need not look into it then."""
        for shard in self._shards:
            shard.rest()

    def close(self) -> None:
        """Close all files."""
        for shard in self._shards:
            shard.db.close()


class _Shard:
    """One file and the numbers that it gave to names."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.db = schema.connect(path)
        self._names = Names(self.db)
        self._numbers = Numbers(self.db)
        self._totals = Totals(self.db)
        self._filling = ""
        #: Whether something was written since the last rest.
        self._written = False

    def _current_filling(self) -> str:
        """Return which filling of the shard this is; numbers of another one are forgotten."""
        (filling,) = self.db.execute("SELECT filling FROM filling").fetchone()
        if filling != self._filling:
            self._forget()
            self._filling = filling
        return self._filling

    def load(self, ids: list[str]) -> dict[str, Entry]:
        found: dict[str, Entry] = {}
        filling = self._current_filling()
        for columns, row, spilled, trail in read_jobs(self.db, set(ids), map(hash_of, ids)):
            job = self._names.job(columns)
            job.trail = trail
            audience, job_type = columns[-2], columns[-1]
            stored = (audience, job_type, job.created_at, job.bulk_id, STATE_CODES[job.state])
            found[job.id] = Entry(job, row, stored, spilled, filling, len(trail), None)
        return found

    def apply(self, batches: Sequence[Batch]) -> None:
        with self._transaction():
            filling = self._current_filling()
            self._numbers.begin()
            (last,) = self.db.execute("SELECT coalesce(max(row), 0) FROM jobs").fetchone()
            placed = Placed(last, filling)
            for batch in batches:
                self._move_checkpoint(batch)
                placed.add(batch, self._numbers)
            self._write_rows(placed)
            columns = placed.in_columns()
            moved = counters.rows(placed, columns)
            self.db.executemany(counters.MOVE, moved)
            self._totals.move(moved)
            times = changes.record(self.db, batches, placed, columns, self._numbers)
            # What a job was may be of an audience that is met only now, too.
            self._numbers.write()
        placed.settle(times)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            self.db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self.db.execute("COMMIT")
                self._written = True
            except BaseException:
                # Numbers given to names in this transaction were never given.
                self._forget()
                if self.db.in_transaction:
                    # SQLite has rolled back by itself after some errors, such as a full disk.
                    self.db.execute("ROLLBACK")
                raise
        except apsw.Error as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: apsw.Error) -> StoreError:
        return StoreError(
            "The projection store can't be written.",
            where=str(self.path),
            found=schema.said(error),
            mend="Check the disk's free space and health; what failed is tried again.",
        )

    def _forget(self) -> None:
        self._numbers.forget()
        self._names.clear()
        self._totals.forget()

    def _move_checkpoint(self, batch: Batch) -> None:
        self.db.execute(
            _MOVE,
            (
                batch.next_offset,
                batch.last_event_id,
                batch.last_timestamp,
                *batch.tally,
                batch.partition,
                batch.start,
            ),
        )
        if self.db.changes() != 1:
            found = self.db.execute(
                "SELECT next_offset FROM checkpoints WHERE partition=?", (batch.partition,)
            ).fetchone()
            raise FencedError(
                "Another projector has moved this partition's checkpoint.",
                where=f"partition {batch.partition} in {self.path}",
                expected=f"a checkpoint at offset {batch.start}",
                found=f"offset {found[0]}" if found else "no checkpoint",
            )

    def _write_rows(self, placed: Placed) -> None:
        placed.updates.sort(key=itemgetter(-1))
        for statement, rows in (
            (_INSERT, placed.inserts),
            (_UPDATE, placed.updates),
            (_UPDATE_WHOLE, placed.moves),
            ("INSERT INTO trail_chunks VALUES(?, ?, ?)", placed.chunks()),
        ):
            if rows:
                self.db.executemany(statement, rows)

    def rest(self) -> None:
        if not self._written:
            return
        try:
            # It waits for no reader and keeps none from reading.
            self.db.execute("PRAGMA wal_checkpoint(PASSIVE)")
        except apsw.Error as error:
            raise self._unwritable(error) from error
        self._written = False

    def reset(self, ends: Mapping[int, int]) -> None:
        with self._transaction():
            for table in schema.TABLE_NAMES:
                self.db.execute(f"DROP TABLE {table}")
            schema.make_tables(self.db, dict.fromkeys(ends, 0), dict(ends))
        self._forget()


def read_jobs(
    db: schema.Connection, ids: Set[str], hashes: Iterable[int], shard: str = "main"
) -> Iterator[tuple[list[Any], int, int, bytes]]:
    """Yield those of some jobs that a shard knows: `COLUMNS`, row, spilled entries, whole trail.

    Args:
        db: Has the shard.
        ids: The jobs'; others may have the same hashes.
        hashes: By which the shard is asked.
        shard: What it is called on this connection.
    """
    rows = db.execute(
        f"SELECT {COLUMNS}, row, spilled, trail FROM {shard}.jobs "  # noqa: S608
        "WHERE hash IN (SELECT value FROM json_each(?))",
        (orjson.dumps([*hashes]).decode(),),
    )
    for *columns, row, spilled, trail in rows.fetchall():
        if columns[0] in ids:
            yield columns, row, spilled, read_chunks(db, row, spilled, shard) + trail


def read_chunks(db: schema.Connection, row: int, spilled: int, shard: str = "main") -> bytes:
    """Return the part of a job's trail that is kept outside of its row.

    Args:
        db: Has the job's shard.
        row: The job's.
        spilled: How many entries are kept outside.
        shard: What the shard is called on this connection.
    """
    if not spilled:
        return b""
    chunks = db.execute(
        f"SELECT trail FROM {shard}.trail_chunks WHERE row=? ORDER BY chunk",  # noqa: S608
        (row,),
    )
    return b"".join(trail for (trail,) in chunks)
