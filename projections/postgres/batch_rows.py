"""A batch as rows: all of it is worked out before its transaction begins, so that this is short."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import orjson

from jobtrail.core.earlier import StoredEntries
from jobtrail.core.errors import FencedError
from jobtrail.core.job import Job
from jobtrail.core.trail import NEVER, STATE_CODES, TRAIL_LAYOUT, effective_time
from projections.ports.read import pack_tags
from projections.ports.write import Entry, FoldedBatch
from projections.postgres.arrays import insert, run, update
from projections.postgres.changes import ChangeRows, Key, Known
from projections.postgres.connection import Connection
from projections.postgres.counters import Moves
from projections.postgres.layout import NONE, first_row
from projections.postgres.names import Names
from projections.postgres.trails import ChunkRows

#: What an event can change of a job that keeps its audience, type and creation.
_CHANGING: Final = {
    "row": "bigint",
    "state": "smallint",
    "updated_at": "bigint",
    "started_at": "bigint",
    "ended_at": "bigint",
    "attempt": "bigint",
    "progress": "double precision",
    "tags": "text",
    "error": "bytea",
    "output": "bytea",
    "spilled": "integer",
    "trail": "bytea",
}
_WHOLE: Final = {
    **_CHANGING,
    "audience": "integer",
    "type": "integer",
    "created_at": "bigint",
    "bulk_id": "text",
    "source": "text",
    "writers": "text",
}
_NEW: Final = {**_WHOLE, "id": "text"}
_INSERT: Final = insert("jobs", _NEW)
_UPDATE: Final = update("jobs", "row", _CHANGING)
_UPDATE_WHOLE: Final = update("jobs", "row", _WHOLE)


class Place(NamedTuple):
    """Where a partition's checkpoint is."""

    generation: int
    next_offset: int
    last_row: int


class Stored(NamedTuple):
    """What the store has of a job: an entry's `stored`."""

    key: Key
    state: int


class _Settled(NamedTuple):
    """What an entry becomes once its batch is committed."""

    entry: Entry
    row: int
    stored: Stored
    written: int
    reached: int


class BatchRows:
    """All that a batch writes.

    Args:
        batch: What.
        place: Where the partition's checkpoint is.
        filling: Of which filling the store's rows are.
        names: Knows those of the batch.
        known: What the store has of jobs that became others.

    Raises:
        FencedError: A job was read before the partition was emptied.
    """

    def __init__(
        self, batch: FoldedBatch, place: Place, filling: str, names: Names, known: Known
    ) -> None:
        self.batch = batch
        self.place = place
        self.last_row = place.last_row
        self._filling = filling
        self._names = names
        self._known = known
        self._inserts: list[tuple[Any, ...]] = []
        self._updates: list[tuple[Any, ...]] = []
        self._moves: list[tuple[Any, ...]] = []
        self._chunks = ChunkRows()
        self._changes = ChangeRows(batch.partition)
        self._counters = Moves(batch.partition)
        self._settled: list[_Settled] = []
        for entry in batch.changes:
            self._add(entry)

    def _add(self, entry: Entry) -> None:
        if entry.generation is not None and entry.generation != self._filling:
            raise FencedError(
                "The partition was emptied and is being filled again.",
                where=f"partition {self.batch.partition}",
                expected="jobs that were read from it since",
            )
        job = entry.job
        sealed = b"" if job.earlier is None else job.earlier.kept()
        trail = sealed + job.trail
        stored: Stored | None = entry.stored
        keys = [
            *(_key(before, self._names) for _offset, before in entry.former),
            _key(job, self._names) if stored is None or entry.former else stored.key,
        ]
        state = STATE_CODES[job.state]
        time = (
            entry.reached if entry.reached is not None else effective_time(trail[: entry.written])
        )
        before = stored.state if stored else NONE
        row = self._row(entry, stored, keys[-1], state)
        turns = [offset for offset, _before in entry.former]
        now, begins = self._changes.walk(
            trail[entry.written :], before, time if stored else NEVER, keys, turns
        )
        if begins:
            first = None if row in self._known.versions else self._first(row, trail)
            self._changes.become(row, job.id, keys, begins, first)
        if sealed:
            self._chunks.add(row, time if stored else NEVER, sealed)
        self._count(stored, keys[-1], state)
        self._settled.append(_Settled(entry, row, Stored(keys[-1], state), len(job.trail), now))

    def _row(self, entry: Entry, stored: Stored | None, key: Key, state: int) -> int:
        """Add a job's row; return its number."""
        job = entry.job
        if stored is None or entry.row is None:
            self.last_row += 1
            row = first_row(self.batch.partition) + self.last_row
            self._inserts.append((*_changing(row, job, state), *_fixed(job, key), job.id))
            return row
        row = entry.row
        if key == stored.key and not entry.handed_on:
            self._updates.append(_changing(row, job, state))
        else:
            self._moves.append((*_changing(row, job, state), *_fixed(job, key)))
        return row

    def _first(self, row: int, trail: bytes) -> tuple[int, int]:
        """Return time and offset of a job's first event."""
        first = self._known.first.get(row)
        if first is None:
            first = TRAIL_LAYOUT.unpack_from(trail)[1:3]
        return first[1], first[0]

    def _count(self, stored: Stored | None, key: Key, state: int) -> None:
        move = self._counters.move
        if stored is not None and stored.key[:3] == key[:3]:
            move(key.audience, key.created_at, key.type, stored.state, state)
            return
        if stored is not None:
            was = stored.key
            move(was.audience, was.created_at, was.type, stored.state, NONE)
        move(key.audience, key.created_at, key.type, NONE, state)

    def write(self, connection: Connection) -> None:
        """Write all but the checkpoint, inside the open transaction."""
        run(connection, _INSERT, self._inserts)
        run(connection, _UPDATE, sorted(self._updates))
        run(connection, _UPDATE_WHOLE, self._moves)
        self._chunks.write(connection)
        self._changes.write(connection)
        self._counters.write(connection)

    def settle(self) -> None:
        """Note in the entries what is stored, now that the transaction is committed."""
        for entry, row, stored, written, time in self._settled:
            entry.row, entry.stored, entry.generation = row, stored, self._filling
            entry.written, entry.reached = written, time
            entry.former, entry.handed_on = (), False
            if entry.job.earlier is not None:
                entry.job.earlier = StoredEntries(entry.job.earlier.entries)


def _key(job: Job, names: Names) -> Key:
    return Key(names.audience(job), names.type(job), job.created_at, job.bulk_id)


def _changing(row: int, job: Job, state: int) -> tuple[Any, ...]:
    """Return the values of `_CHANGING`."""
    return (
        row,
        state,
        job.updated_at,
        job.started_at,
        job.ended_at,
        job.attempt,
        job.progress,
        pack_tags(job.tags),
        job.error,
        job.output,
        0 if job.earlier is None else job.earlier.entries,
        job.trail,
    )


def _fixed(job: Job, key: Key) -> tuple[Any, ...]:
    """Return the values of what `_WHOLE` has beside these."""
    return (*key, job.source, orjson.dumps(job.writers).decode() if job.writers else None)
