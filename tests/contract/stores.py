"""The stores that the contract tests run against.

Another one joins by a class with the methods of `InMemory` and an entry in
`IMPLEMENTATIONS`. What looks into a store behind its ports' back is here and nowhere else, and
shares no code with the store.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import apsw

from jobtrail.core.states import STATES
from projections.memory.reader import MemoryReader
from projections.memory.store import MemoryStore
from projections.memory.writer import MemoryWriter
from projections.ports.write import Beat, Tally
from projections.sqlite.files import schema
from projections.sqlite.read.reader import SqliteReader
from projections.sqlite.write.writer import SqliteWriter
from tests.contract.postgres_store import PostgresStore
from tests.contract.store_model import Audience, Counters
from tests.contract.store_streams import DAY, PARTITIONS

#: By type, the jobs in each state.
Totals = dict[int, tuple[int, ...]]


class SqliteStore:
    """A store of SQLite files in a folder."""

    def __init__(self, folder: Path, shards: int) -> None:
        self.folder = folder
        self.shards = shards
        self._open: list[SqliteWriter | SqliteReader] = []

    @property
    def address(self) -> str:
        """By what another process finds the store: see `at_address`."""
        return f"sqlite-{self.shards}:{self.folder}"

    def create(
        self, begins: Mapping[int, int] | None = None, ends: Mapping[int, int] | None = None
    ) -> None:
        """Make the store; the log begins at 0 and is empty unless told otherwise."""
        first = dict(begins or dict.fromkeys(range(PARTITIONS), 0))
        layout = schema.Layout(schema.SCHEMA_VERSION, self.shards, PARTITIONS)
        schema.create(self.folder, layout, first, dict(ends or first))

    def writer(self) -> SqliteWriter:
        """Open the write side once more."""
        return self._keep(SqliteWriter(self.folder))

    def reader(self) -> SqliteReader:
        """Open the read side once more."""
        return self._keep(SqliteReader(self.folder))

    def _keep(self, side: Any) -> Any:
        self._open.append(side)
        return side

    def close(self) -> None:
        """Close whatever was opened."""
        for side in self._open:
            side.close()

    def files(self) -> list[Path]:
        """Return the shards' files."""
        return [self.folder / f"shard-{shard}.db" for shard in range(self.shards)]

    def rows(self) -> dict[str, list[tuple[Any, ...]]]:
        """Return every row of every table."""
        found: dict[str, list[tuple[Any, ...]]] = {}
        for db in self._connections():
            names = db.execute("SELECT name FROM sqlite_master WHERE type='table' ORDER BY name")
            for (name,) in names.fetchall():
                found.setdefault(name, []).extend(db.execute(f"SELECT * FROM {name}"))
        return found

    def at_rest(self, folder: Path) -> SqliteStore:
        """Copy into a folder what a reader finds without a look into what was written last."""
        folder.mkdir()
        for file in (*self.files(), self.folder / "store.json"):
            shutil.copy(file, folder)
        return SqliteStore(folder, self.shards)

    def counters(self) -> Counters:
        """Return the counters that count something, with names in place of numbers."""
        found: dict[Audience, dict[tuple[int, str | None], list[int]]] = {}
        for db in self._connections():
            types = dict(db.execute("SELECT type, name FROM types").fetchall())
            audiences: dict[int, Audience] = {
                number: (owner, tuple(json.loads(viewers)))
                for number, owner, viewers in db.execute("SELECT * FROM audiences")
            }
            audiences |= {0: (None, ()), -1: None}
            columns = ", ".join(STATES)
            for number, day, job_type, *counts in db.execute(
                f"SELECT audience, day, type, {columns} FROM counters"
            ):
                if any(counts):
                    bucket = (day, types[job_type] if job_type else None)
                    into = found.setdefault(audiences[number], {})
                    before = into.get(bucket, [0] * len(STATES))
                    into[bucket] = [a + b for a, b in zip(before, counts, strict=True)]
        return {a: {b: tuple(row) for b, row in of.items()} for a, of in found.items()}

    def totals(self) -> list[tuple[int, dict[int, Totals], dict[int, Totals]]]:
        """Return of each file how many audiences have totals, these, and what they have to be."""
        columns = ", ".join(STATES)
        sums = ", ".join(f"sum({state})" for state in STATES)
        found = []
        for db in self._connections():
            has = [number for (number,) in db.execute("SELECT audience FROM totalled")]
            kept: dict[int, Totals] = {}
            for number, job_type, *counts in db.execute(
                f"SELECT audience, type, {columns} FROM totals"
            ):
                kept.setdefault(number, {})[job_type] = tuple(counts)
            counted: dict[int, Totals] = {}
            for number, job_type, *counts in db.execute(
                f"SELECT audience, type, {sums} FROM counters GROUP BY audience, type"
            ):
                if number in has:
                    counted.setdefault(number, {})[job_type] = tuple(counts)
            found.append((len(has), kept, counted))
        return found

    def tallies(self) -> dict[int, Tally]:
        """Return how the records of each partition were judged."""
        columns = ", ".join(f'"{name}"' for name in Tally._fields)
        return {
            partition: Tally(*counts)
            for db in self._connections()
            for partition, *counts in db.execute(f"SELECT partition, {columns} FROM checkpoints")
        }

    def seeds(self) -> list[int]:
        """Return the seed of each file's hashes of ids."""
        return [db.execute("SELECT seed FROM filling").fetchone()[0] for db in self._connections()]

    def use_known_seed(self) -> None:
        """Let the hashes of ids be those that anybody can work out, while there are no jobs."""
        for db in self._connections():
            db.execute("UPDATE filling SET seed=0")

    def _connections(self) -> Iterator[apsw.Connection]:
        for file in self.files():
            with contextlib.closing(schema.connect(file)) as db:
                yield db

    @contextlib.contextmanager
    def full_disk(self, writer: SqliteWriter) -> Iterator[None]:
        """Let a writer's files grow no more."""
        connections = [shard.db for shard in writer._shards]
        before = [db.execute("PRAGMA max_page_count").fetchone()[0] for db in connections]
        for db in connections:
            # No file can be made smaller than it is: 1 stands for its size.
            db.execute("PRAGMA max_page_count=1")
        try:
            yield
        finally:
            for db, pages in zip(connections, before, strict=True):
                db.execute(f"PRAGMA max_page_count={pages}")

    @contextlib.contextmanager
    def held_up(self, writer: SqliteWriter) -> Iterator[None]:
        """Leave a writer in the middle of a transaction."""
        for shard in writer._shards:
            shard.db.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            for shard in writer._shards:
                shard.db.execute("ROLLBACK")

    def trace(self, writer: SqliteWriter, tell: Callable[[str], None]) -> None:
        """Tell every step that a writer takes, before it is taken."""
        for shard in writer._shards:
            shard.db.trace_v2(apsw.SQLITE_TRACE_STMT, lambda step: tell(step["sql"]))


class InMemory:
    """A store in memory. What it counts is counted from its jobs, one by one."""

    def __init__(self, _folder: Path) -> None:
        self._made: MemoryStore | None = None

    @property
    def made(self) -> MemoryStore:
        """The store, once it was created."""
        assert self._made is not None
        return self._made

    def create(
        self, begins: Mapping[int, int] | None = None, ends: Mapping[int, int] | None = None
    ) -> None:
        """Make the store; the log begins at 0 and is empty unless told otherwise."""
        first = dict(begins or dict.fromkeys(range(PARTITIONS), 0))
        self._made = MemoryStore(first, dict(ends or first))

    def writer(self) -> MemoryWriter:
        """Open the write side once more."""
        return MemoryWriter(self.made)

    def reader(self) -> MemoryReader:
        """Open the read side once more."""
        return MemoryReader(self.made)

    def close(self) -> None:
        """Let go of the store."""
        self._made = None

    def rows(self) -> dict[int, Any]:
        """Return all that is stored, beside when projectors were heard of."""
        return {
            number: part._replace(beat_at=0, beat=Beat(0, ""), jobs=dict(part.jobs))
            for number, part in self.made.partitions.items()
        }

    def counters(self) -> Counters:
        """Return how many jobs each audience has, and all together, by day, type and state."""
        found: dict[Audience, dict[tuple[int, str | None], list[int]]] = {}
        jobs = [job.job for part in self.made.partitions.values() for job in part.jobs.values()]
        for job in jobs:
            for audience in ((job.owner, job.viewers), None):
                bucket = (job.created_at // DAY, job.job_type)
                row = found.setdefault(audience, {}).setdefault(bucket, [0] * len(STATES))
                row[STATES.index(job.state)] += 1
        return {a: {b: tuple(row) for b, row in of.items()} for a, of in found.items()}

    def totals(self) -> list[tuple[int, dict[int, Totals], dict[int, Totals]]]:
        """Return nothing: the store keeps no totals."""
        return []

    def tallies(self) -> dict[int, Tally]:
        """Return how the records of each partition were judged."""
        return {number: part.tally for number, part in self.made.partitions.items()}


Kit = SqliteStore | InMemory | PostgresStore

#: How each store of files is found at a place of its own.
SQLITE: Final[dict[str, Callable[[Path], SqliteStore]]] = {
    f"sqlite-{shards}": partial(SqliteStore, shards=shards) for shards in (1, 2, 3)
}
#: How each store under test is found at a place of its own.
IMPLEMENTATIONS: Final[dict[str, Callable[[Path], Kit]]] = {
    "memory": InMemory,
    **SQLITE,
    "postgres": PostgresStore,
}


def at_address(address: str) -> SqliteStore:
    """Return the store at an address."""
    name, _, place = address.partition(":")
    return SQLITE[name](Path(place))
