"""The write side of one shard: all that a batch changes is written sorted and in bulk.

One row per touched job and one per touched counter, for any number of events.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection, Iterator, Mapping, Sequence, Set
from operator import itemgetter
from pathlib import Path
from typing import Final

import apsw

from jobtrail.core.errors import FencedError, StoreDamaged, StoreError
from jobtrail.core.position import LastRecord
from jobtrail.core.trail import STATE_CODES, effective_time
from projections.ports.write import Beat, Checkpoint, Entry, FoldedBatch
from projections.sqlite.files import schema
from projections.sqlite.files.shard_files import ensure, identity, suspect_path
from projections.sqlite.tables import trails
from projections.sqlite.tables.rows import Names
from projections.sqlite.tables.stored_jobs import read_jobs
from projections.sqlite.tables.totals import Totals
from projections.sqlite.write import changes, counters
from projections.sqlite.write.surrogate_keys import SurrogateKeys
from projections.sqlite.write.write_set import WriteSet

_INSERT: Final = (
    "INSERT INTO jobs(state, updated_at, started_at, ended_at, attempt, progress, tags, error, "
    "output, spilled, trail, audience, type, created_at, bulk_id, source, writers, row, id, hash) "
    f"VALUES({', '.join('?' * 20)})"
)
_CHANGE: Final = (
    "UPDATE jobs SET state=?, updated_at=?, started_at=?, ended_at=?, attempt=?, progress=?, "
    "tags=?, error=?, output=?, spilled=?, trail=?"
)
_UPDATE: Final = f"{_CHANGE} WHERE row=?"
_UPDATE_WHOLE: Final = (
    f"{_CHANGE}, audience=?, type=?, created_at=?, bulk_id=?, source=?, writers=? WHERE row=?"
)
_MOVE: Final = (
    "UPDATE checkpoints SET next_offset=?, last_offset=?, last_mark=?, last_timestamp=?, "
    "last_epoch=?, applied=applied+?, duplicate=duplicate+?, late=late+?, "
    'not_allowed=not_allowed+?, "foreign"="foreign"+?, dead=dead+? '
    "WHERE partition=? AND next_offset=?"
)
_NO_RECORD: Final = (-1, 0, 0, -1)


class ShardWriter:
    """Writes one shard.

    Args:
        path: Its file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._open()

    def _open(self) -> None:
        self.db = schema.connect(self.path)
        #: A read makes SQLite create the WAL and its index: their identity is noted below.
        self.db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        self._opened = identity(self.path)
        #: Whether an error may mean damage; and what is damaged, where that is certain.
        self._is_doubtful = False
        self._damaged = ""
        self._names = Names(self.db)
        self._surrogate_keys = SurrogateKeys(self.db)
        self._totals = Totals(self.db)
        self._generation = ""
        self._seed = 0
        #: Whether something was written since the last checkpoint of the WAL.
        self._written = False

    def repair(self, begins: Mapping[int, int], ends: Mapping[int, int]) -> bool:
        """Replace the shard if it is damaged; return whether another file is open now."""
        opened = self._opened
        is_same = identity(self.path) == opened
        if is_same and not self._is_doubtful and not suspect_path(self.path).exists():
            return False
        self._is_doubtful = False
        if not ensure(self.path, begins, ends, damaged=self._damaged, opened=opened) and is_same:
            return False
        self.db.close()
        self._open()
        return True

    @contextlib.contextmanager
    def _using(self) -> Iterator[None]:
        """Use the file, if it still is the one that was opened.

        Raises:
            StoreDamaged: It is not, or is broken: `repair` has to follow.
            StoreError: It can't be used now.
        """
        try:
            if identity(self.path) != self._opened:
                raise StoreDamaged(
                    "A shard of the projection store was replaced or deleted.",
                    where=str(self.path),
                    hint="It is opened again, or made again and folded from the log.",
                )
            yield
        except apsw.Error as error:
            if schema.may_be_damage(error):
                self._is_doubtful = True
                self._damaged = schema.said(error) if schema.is_damage(error) else ""
                raise StoreDamaged(
                    "A shard of the projection store is damaged.",
                    where=str(self.path),
                    found=schema.said(error),
                    hint="It is set aside, and folded again from the log.",
                ) from error
            raise self._unwritable(error) from error

    def checkpoints(self) -> dict[int, Checkpoint]:
        """Return the checkpoint of each of its partitions."""
        with self._using():
            rows = self.db.execute(
                "SELECT partition, next_offset, recover_to, last_offset, last_mark, "
                "last_timestamp, last_epoch FROM checkpoints"
            ).fetchall()
        return {
            partition: Checkpoint(
                next_offset, LastRecord(*last) if last[0] >= 0 else None, recover_to
            )
            for partition, next_offset, recover_to, *last in rows
        }

    def wait_for_no_more(self, ends: Mapping[int, int]) -> None:
        """Let reads wait for no offset after these."""
        with self._transaction():
            self.db.executemany(
                "UPDATE checkpoints SET recover_to=min(recover_to, ?) WHERE partition=?",
                [(end, partition) for partition, end in ends.items()],
            )

    def skip(self, partition: int, until: int) -> int:
        """Move a partition's checkpoint over a hole, and record it; return where it was."""
        with self._transaction():
            found = self.db.execute(
                "SELECT next_offset FROM checkpoints WHERE partition=?", (partition,)
            ).fetchone()
            if found is None or found[0] >= until:
                raise StoreError(
                    "There is nothing to skip.",
                    where=f"partition {partition} in {self.path}",
                    expected=f"a checkpoint before offset {until}",
                    found=f"offset {found[0]}" if found else "no such partition",
                )
            self.db.execute(
                "INSERT INTO skipped VALUES(?, ?, ?, ?)",
                (partition, found[0], until, time.time_ns() // 1000),
            )
            self.db.execute(
                "UPDATE checkpoints SET next_offset=? WHERE partition=?", (until, partition)
            )
        begin: int = found[0]
        return begin

    def beat(self, beats: Mapping[int, Beat]) -> None:
        """Write the projector's heartbeat for partitions."""
        now = time.time_ns() // 1000
        with self._using():
            # A projector that was suspended for long may not know that others have gone on.
            self.db.executemany(
                "INSERT INTO beats VALUES(?, ?, ?, ?) ON CONFLICT(partition) DO UPDATE SET "
                "at=excluded.at, proved=max(proved, excluded.proved), stopped=excluded.stopped",
                [(partition, now, *beat) for partition, beat in beats.items()],
            )

    def _current_generation(self) -> str:
        """Return the shard's generation; numbers of an earlier one are dropped from the caches."""
        generation, seed = self.db.execute("SELECT filling, seed FROM filling").fetchone()
        if generation != self._generation:
            self._forget()
            self._generation, self._seed = generation, seed
        return self._generation

    def load(self, ids: list[str]) -> dict[str, Entry]:
        """Return those of these jobs that the shard has, with the last entries of their trails."""
        with self._using():
            return self._load(ids)

    def _load(self, ids: list[str]) -> dict[str, Entry]:
        found: dict[str, Entry] = {}
        generation = self._current_generation()
        for stored_job in read_jobs(self.db, ids, self._seed, self._names):
            job = stored_job.job
            state = STATE_CODES[job.state]
            stored = (stored_job.audience, stored_job.type, job.created_at, job.bulk_id, state)
            written = len(job.trail)
            entry = found[job.id] = Entry(job, stored_job.row, stored, generation, written, None)
            if job.earlier is not None:
                effective = effective_time(job.trail)
                entry.reached = max(trails.reached(self.db, stored_job.row), effective)
        return found

    def seen(self, entry: Entry, keys: Collection[bytes]) -> Set[bytes]:
        """Return those of these event keys that are in a job's chunks."""
        assert entry.row is not None
        with self._using():
            return trails.seen(self.db, entry.row, list(keys)).keys()

    def apply(self, batches: Sequence[FoldedBatch]) -> None:
        """Write batches of its partitions in one transaction."""
        with self._transaction():
            generation = self._current_generation()
            self._surrogate_keys.begin()
            (last,) = self.db.execute("SELECT coalesce(max(row), 0) FROM jobs").fetchone()
            write_set = WriteSet(last, generation, self._seed)
            for batch in batches:
                self._move_checkpoint(batch)
                write_set.add(batch, self._surrogate_keys)
            self._write_rows(write_set)
            columns = write_set.in_columns()
            moved = counters.rows(write_set, columns)
            self.db.executemany(counters.MOVE, moved)
            self._totals.move(moved)
            times = changes.record(self.db, batches, write_set, columns, self._surrogate_keys)
            # After `record`: earlier versions of jobs may have new audiences, too.
            self._surrogate_keys.write()
        write_set.settle(times)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._using():
            self.db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self.db.execute("COMMIT")
                self._written = True
            except BaseException:
                # Numbers that were assigned in this transaction are not stored.
                self._forget()
                if self.db.in_transaction:
                    # SQLite rolls back by itself after some errors, such as a full disk.
                    self.db.execute("ROLLBACK")
                raise

    def _unwritable(self, error: apsw.Error) -> StoreError:
        return StoreError(
            "The projection store can't be written.",
            where=str(self.path),
            found=schema.said(error),
            hint="Check the disk's free space and health; what failed is tried again.",
        )

    def _forget(self) -> None:
        self._surrogate_keys.forget()
        self._names.clear()
        self._totals.forget()

    def _move_checkpoint(self, batch: FoldedBatch) -> None:
        self.db.execute(
            _MOVE,
            (
                batch.next_offset,
                *(batch.last or _NO_RECORD),
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

    def _write_rows(self, write_set: WriteSet) -> None:
        write_set.updates.sort(key=itemgetter(-1))
        for statement, rows in (
            (_INSERT, write_set.inserts),
            (_UPDATE, write_set.updates),
            (_UPDATE_WHOLE, write_set.moves),
        ):
            if rows:
                self.db.executemany(statement, rows)
        trails.write(self.db, write_set.spilled())

    def checkpoint_wal(self) -> None:
        """Move what was written from the WAL into the file."""
        if not self._written:
            return
        with self._using():
            # It waits for no reader and blocks none.
            self.db.execute("PRAGMA wal_checkpoint(PASSIVE)")
        self._written = False

    def reset(self, begins: Mapping[int, int], ends: Mapping[int, int]) -> None:
        """Empty the shard, to be folded again."""
        with self._transaction():
            for table in schema.TABLE_NAMES:
                self.db.execute(f"DROP TABLE {table}")
            schema.make_tables(self.db, dict(begins), dict(ends))
        self._forget()
