"""The read side of the SQLite store: consistent snapshots over all shards.

A caller's listing is a merge over the few audiences that his principals belong to, each read from
an index that lies in the order of the answer, so a page costs the same at any depth. His counts
are sums over the same audiences' counters.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import orjson

from jobtrail.errors import StoreError
from jobtrail.job import VERDICTS, Job
from jobtrail.partitions import partition_of
from jobtrail.states import STATES
from projections.reading import Caller, Cursor, Filters, Held
from projections.sqlite import schema
from projections.sqlite.days import split_days
from projections.sqlite.listing import Place, Stream, Where, conditions, first_of
from projections.sqlite.rows import COLUMNS, Names, job_of
from projections.sqlite.schema import DAY, EVERYBODY
from projections.sqlite.writer import read_chunks

_SUMS: Final = ", ".join(f"sum({state})" for state in STATES)
#: Up to so many rows a statement has a mark for each: it is kept prepared.
_MARKS: Final = 32
#: Places that are passed over at a time on the way to an offset.
_STEP: Final = 4096


class SqliteReader:
    """An API process's view of a store. Not to be shared between threads.

    Args:
        folder: The store.

    Raises:
        StoreNotReady: No projector has made it yet.
        StoreError: It can't be opened.
    """

    def __init__(self, folder: Path) -> None:
        self._layout = schema.read_layout(folder)
        self._shards = [
            _ShardReader(schema.shard_path(folder, shard)) for shard in range(self._layout.shards)
        ]

    @property
    def partitions(self) -> int:
        """How many partitions the folded log has."""
        return self._layout.partitions

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[SqliteSnapshot]:
        """Open a consistent view of every shard; shards may be at different positions.

        Raises:
            StoreError: The store can't be read.
        """
        try:
            for shard in self._shards:
                shard.begin()
            yield SqliteSnapshot(self._shards, self._layout.partitions)
        except sqlite3.Error as error:
            raise StoreError(
                "The projection store can't be read.",
                where=str(self._shards[0].path.parent),
                found=f"{getattr(error, 'sqlite_errorname', 'error')}: {error}",
            ) from error
        finally:
            for shard in self._shards:
                shard.end()

    def close(self) -> None:
        """Close all files."""
        for shard in self._shards:
            shard.db.close()


class SqliteSnapshot:
    """One consistent view; see `projections.reading.Snapshot`."""

    def __init__(self, shards: list[_ShardReader], partitions: int) -> None:
        self._shards = shards
        self._partitions = partitions
        rows = [row for shard in shards for row in shard.checkpoints]
        self.held = Held(
            position={row[0]: row[1] for row in rows},
            timestamps={row[0]: row[2] for row in rows},
            recovering=frozenset(row[0] for row in rows if row[1] < row[3]),
        )

    def _by_shard(self, ids: list[str]) -> dict[_ShardReader, list[str]]:
        groups: dict[_ShardReader, list[str]] = {}
        for job_id in dict.fromkeys(ids):
            if "\0" in job_id:
                # No job has it, and SQLite's JSON would take it for the id before the NUL.
                continue
            partition = partition_of(job_id, self._partitions)
            groups.setdefault(self._shards[partition % len(self._shards)], []).append(job_id)
        return groups

    def jobs(self, caller: Caller, ids: list[str]) -> list[Job]:
        """Return those of these jobs that the caller sees, without their trails."""
        return [
            shard.job(row)
            for shard, some in self._by_shard(ids).items()
            for row in shard.rows_by_id(some, shard.audiences(caller))
        ]

    def watched(self, ids: list[str]) -> dict[str, Job]:
        """Return these jobs with their trails, whoever may see them."""
        return {
            job.id: job
            for shard, some in self._by_shard(ids).items()
            for job in shard.jobs_with_trails(some)
        }

    def search(
        self,
        caller: Caller,
        filters: Filters,
        *,
        size: int,
        after: Cursor | None = None,
        offset: int = 0,
    ) -> list[Job]:
        """Return a page of jobs without their trails, newest first."""
        # Far behind the beginning in steps, so that memory stays bounded.
        while offset > _STEP:
            passed = self._places(caller, filters, after, _STEP)
            if len(passed) < _STEP:
                return []
            after = Cursor(-passed[-1][0], passed[-1][1])
            offset -= _STEP
        # First where the page lies, from the indexes alone; then its rows, in one read a shard.
        page = self._places(caller, filters, after, offset + size)[offset:]
        jobs: dict[str, Job] = {}
        for number, shard in enumerate(self._shards):
            jobs |= shard.jobs_at([row for _, _, row, holder in page if holder == number])
        return [jobs[job_id] for _, job_id, _, _ in page]

    def _places(
        self, caller: Caller, filters: Filters, after: Cursor | None, count: int
    ) -> list[Place]:
        return first_of(
            [
                stream
                for number, shard in enumerate(self._shards)
                for stream in shard.streams(number, caller, filters, after, count)
            ],
            count,
        )

    def summary(self, caller: Caller, filters: Filters) -> dict[str | None, list[int]]:
        """Count jobs by type and state, from counters and the edges of the two edge days."""
        totals: dict[str | None, list[int]] = {}
        for shard in self._shards:
            for job_type, counts in shard.counts(caller, filters):
                name = shard.names.type_name(job_type)
                if filters.job_types and name not in filters.job_types:
                    continue
                total = totals.get(name)
                totals[name] = (
                    list(counts)
                    if total is None
                    else [a + b for a, b in zip(total, counts, strict=True)]
                )
        present = [name for name in totals if any(totals[name])]
        return {name: totals[name] for name in sorted(present, key=lambda n: (n is None, n or ""))}

    def verdicts(self) -> dict[str, int]:
        """Count the records that are applied, by the fold's verdict; `dead` is no valid event."""
        names = (*VERDICTS, "dead")
        sums = ", ".join(f"sum({name.replace('-', '_')})" for name in names)
        rows = [
            shard.db.execute(f"SELECT {sums} FROM checkpoints").fetchone()  # noqa: S608
            for shard in self._shards
        ]
        return {
            name: sum(counts) for name, counts in zip(names, zip(*rows, strict=True), strict=True)
        }


class _ShardReader:
    """One file, opened for reading."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.db = schema.connect(path, read_only=True)
        self.names = Names(self.db)
        self.checkpoints: list[tuple[int, int, int, int]] = []
        self._filling = ""

    def begin(self) -> None:
        self.db.execute("BEGIN")
        rows = self.db.execute(
            "SELECT partition, next_offset, last_timestamp, recover_to, filling "
            "FROM checkpoints, filling"
        ).fetchall()
        self.checkpoints = [row[:4] for row in rows]
        if rows and rows[0][4] != self._filling:
            # Emptied and filled anew: numbers stand for other names now.
            self.names.clear()
            self._filling = rows[0][4]

    def end(self) -> None:
        if self.db.in_transaction:
            self.db.execute("COMMIT")

    def job(self, row: tuple[Any, ...]) -> Job:
        return job_of(row, self.names.audience(row[-2]), self.names.type_name(row[-1]))

    def audiences(self, caller: Caller) -> list[int] | None:
        """The audiences that a caller belongs to; None for all jobs."""
        if caller.reads_all:
            return None
        marks = ",".join("?" * len(caller.principals))
        rows = self.db.execute(
            f"SELECT DISTINCT audience FROM audience_members WHERE principal IN ({marks})",  # noqa: S608
            caller.principals,
        )
        return [audience for (audience,) in rows]

    def rows_by_id(self, ids: list[str], audiences: list[int] | None) -> list[tuple[Any, ...]]:
        return self.db.execute(
            f"SELECT {COLUMNS} FROM jobs WHERE id IN (SELECT value FROM json_each(?1)) "  # noqa: S608
            "AND (?2 IS NULL OR audience IN (SELECT value FROM json_each(?2)))",
            (orjson.dumps(ids).decode(), _as_json(audiences)),
        ).fetchall()

    def jobs_with_trails(self, ids: list[str]) -> Iterator[Job]:
        for *columns, row, spilled, trail in self.db.execute(
            f"SELECT {COLUMNS}, row, spilled, trail FROM jobs "  # noqa: S608
            "WHERE id IN (SELECT value FROM json_each(?))",
            (orjson.dumps(ids).decode(),),
        ).fetchall():
            job = self.job(tuple(columns))
            job.trail = read_chunks(self.db, row, spilled) + trail
            yield job

    def jobs_at(self, rows: list[int]) -> dict[str, Job]:
        if not rows:
            return {}
        marks = ",".join("?" * len(rows)) if len(rows) < _MARKS else ""
        found = self.db.execute(
            f"SELECT {COLUMNS} FROM jobs WHERE row IN "  # noqa: S608
            f"({marks or 'SELECT value FROM json_each(?)'})",
            rows if marks else (_as_json(rows),),
        ).fetchall()
        return {row[0]: self.job(row) for row in found}

    def streams(
        self, number: int, caller: Caller, filters: Filters, after: Cursor | None, wanted: int
    ) -> Iterator[Stream]:
        """Jobs that match, as streams that are each in the order of a listing."""
        audiences = self._narrowed(caller, filters)
        if audiences == [] or not self._may_match(audiences, filters):
            return
        where = conditions(filters)
        if filters.bulk_id is not None:
            source = Where(("bulk_id=?",), (filters.bulk_id,))
            if audiences is not None:
                where = Where(
                    (*where.clauses, "audience IN (SELECT value FROM json_each(?))"),
                    (*where.values, _as_json(audiences)),
                )
            yield Stream(self.db, number, "jobs_by_bulk", source, where, after, wanted)
        elif audiences is None:
            yield Stream(self.db, number, "jobs_by_creation", Where((), ()), where, after, wanted)
        else:
            # Of many streams each gives little to a page: they are read a little at a time.
            first = min(wanted, max(2, 2 * wanted // len(audiences))) if audiences else 0
            for audience in audiences:
                source = Where(("audience=?",), (audience,))
                yield Stream(self.db, number, "jobs_by_audience", source, where, after, first)

    def _narrowed(self, caller: Caller, filters: Filters) -> list[int] | None:
        """The caller's audiences, those of one owner where the filters name one."""
        audiences = self.audiences(caller)
        if filters.owner is None:
            return audiences
        owned = [
            number
            for (number,) in self.db.execute(
                "SELECT audience FROM audiences WHERE owner=?", (filters.owner,)
            )
        ]
        return owned if audiences is None else sorted(set(owned) & set(audiences))

    def _may_match(self, audiences: list[int] | None, filters: Filters) -> bool:
        """Ask the counters first: what they count as none needs no search."""
        if not filters.states and not filters.job_types:
            return True
        columns = [str(s) for s in filters.states] or [str(s) for s in STATES]
        types = "type IN (SELECT type FROM types WHERE name IN (SELECT value FROM json_each(?3)))"
        days = [
            bound // DAY if bound is not None else None
            for bound in (filters.created_from, filters.created_to)
        ]
        (found,) = self.db.execute(
            "SELECT EXISTS(SELECT 1 FROM counters "  # noqa: S608
            "WHERE audience IN (SELECT value FROM json_each(?1)) "
            f"AND {'+'.join(columns)} > 0 AND (?2 OR {types}) "
            "AND (?4 IS NULL OR day >= ?4) AND (?5 IS NULL OR day <= ?5))",
            (
                _as_json([EVERYBODY] if audiences is None else audiences),
                not filters.job_types,
                orjson.dumps(filters.job_types).decode(),
                *days,
            ),
        ).fetchone()
        return bool(found)

    def counts(self, caller: Caller, filters: Filters) -> Iterator[tuple[int, tuple[int, ...]]]:
        """Yield (type, counts by state): whole days from counters, the edges from the index."""
        audiences = self.audiences(caller)
        readers = _as_json([EVERYBODY] if audiences is None else audiences)
        whole, edges = split_days(filters.created_from, filters.created_to)
        if whole is not None:
            yield from (
                (row[0], row[1:])
                for row in self.db.execute(
                    f"SELECT type, {_SUMS} FROM counters "  # noqa: S608
                    "WHERE audience IN (SELECT value FROM json_each(?)) "
                    "AND day BETWEEN ? AND ? GROUP BY type",
                    (readers, *whole),
                )
            )
        for first, last in edges:
            yield from self._count_rows(audiences, first, last)

    def _count_rows(
        self, audiences: list[int] | None, first: int, last: int
    ) -> Iterator[tuple[int, tuple[int, ...]]]:
        index, mine = "jobs_by_creation", ""
        values: tuple[Any, ...] = (first, last)
        if audiences is not None:
            index = "jobs_by_audience"
            mine = "audience IN (SELECT value FROM json_each(?)) AND"
            values = (_as_json(audiences), first, last)
        for job_type, state, count in self.db.execute(
            f"SELECT type, state, count(*) FROM jobs INDEXED BY {index} "  # noqa: S608
            f"WHERE {mine} created_at BETWEEN ? AND ? GROUP BY type, state",
            values,
        ):
            yield job_type, tuple(count if code == state else 0 for code in range(len(STATES)))


def _as_json(numbers: list[int] | None) -> str | None:
    return None if numbers is None else orjson.dumps(numbers).decode()
