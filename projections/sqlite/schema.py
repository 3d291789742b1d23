"""The shape of a shard, and how its files are found, opened and made.

A store is a folder: `store.json` says how many shards it has and over how many partitions; shard
k (`shard-k.db`) holds the partitions p with p % shards == k, whole: rows, indexes, counters,
audiences and checkpoints. Nothing in it is precious: it can be folded anew from the log.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, Protocol

import apsw
import msgspec
from filelock import FileLock

from jobtrail.errors import StoreError, StoreNotReady

#: Raised with every change of the tables or of what the fold writes into them.
SCHEMA_VERSION: Final = 4
DAY: Final = 86_400_000_000
#: The audience of jobs that nobody owns yet, and the one that stands for all jobs in counters.
NOBODY: Final = 0
EVERYBODY: Final = -1

# Integers stand for names everywhere; a job's row is appended once and then updated in place, so
# that the jobs under way lie together. A job is found by the hash of its id (`rows.hash_of`), whose
# index takes a third of one of ids and so stays in the cache; whoever looks compares the ids. The
# other `jobs_by_*` end in the order of every listing. Of `change_*` see
# `projections.sqlite.changes`. A job that was said anew to be another's, or of another kind, stands
# in `incarnations`, once for each that it has been, the last one without an end.
TABLES: Final = """
CREATE TABLE checkpoints(
  partition INTEGER PRIMARY KEY, next_offset INTEGER NOT NULL, last_event_id TEXT NOT NULL,
  last_timestamp INTEGER NOT NULL, recover_to INTEGER NOT NULL,
  applied INTEGER NOT NULL DEFAULT 0, duplicate INTEGER NOT NULL DEFAULT 0,
  late INTEGER NOT NULL DEFAULT 0, not_allowed INTEGER NOT NULL DEFAULT 0,
  dead INTEGER NOT NULL DEFAULT 0);
CREATE TABLE types(type INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE audiences(
  audience INTEGER PRIMARY KEY, owner TEXT NOT NULL, viewers TEXT NOT NULL,
  UNIQUE(owner, viewers));
CREATE TABLE audience_members(
  principal TEXT NOT NULL, audience INTEGER NOT NULL, PRIMARY KEY(principal, audience)
) WITHOUT ROWID;
CREATE TABLE jobs(
  row INTEGER PRIMARY KEY, id TEXT NOT NULL, audience INTEGER NOT NULL, type INTEGER NOT NULL,
  state INTEGER NOT NULL, created_at INTEGER NOT NULL, updated_at INTEGER NOT NULL,
  started_at INTEGER, ended_at INTEGER, attempt INTEGER NOT NULL, progress REAL, bulk_id TEXT,
  tags TEXT, error BLOB, output BLOB, spilled INTEGER NOT NULL, trail BLOB NOT NULL,
  hash INTEGER NOT NULL);
CREATE INDEX jobs_by_hash ON jobs(hash);
CREATE INDEX jobs_by_audience ON jobs(audience, created_at DESC, id);
CREATE INDEX jobs_by_creation ON jobs(created_at DESC, id);
CREATE INDEX jobs_by_bulk ON jobs(bulk_id, created_at DESC, id) WHERE bulk_id IS NOT NULL;
CREATE TABLE trail_chunks(
  row INTEGER NOT NULL, chunk INTEGER NOT NULL, trail BLOB NOT NULL, PRIMARY KEY(row, chunk)
) WITHOUT ROWID;
CREATE TABLE counters(
  audience INTEGER NOT NULL, day INTEGER NOT NULL, type INTEGER NOT NULL,
  created INTEGER NOT NULL, active INTEGER NOT NULL, retry INTEGER NOT NULL,
  completed INTEGER NOT NULL, failed INTEGER NOT NULL, cancelled INTEGER NOT NULL,
  expired INTEGER NOT NULL, PRIMARY KEY(audience, day, type)
) WITHOUT ROWID;
CREATE TABLE totals(
  audience INTEGER NOT NULL, type INTEGER NOT NULL,
  created INTEGER NOT NULL, active INTEGER NOT NULL, retry INTEGER NOT NULL,
  completed INTEGER NOT NULL, failed INTEGER NOT NULL, cancelled INTEGER NOT NULL,
  expired INTEGER NOT NULL, PRIMARY KEY(audience, type)
) WITHOUT ROWID;
CREATE TABLE totalled(number INTEGER PRIMARY KEY, audience INTEGER NOT NULL UNIQUE);
INSERT INTO totalled(audience) VALUES(-1);
CREATE TABLE change_runs(
  run INTEGER PRIMARY KEY, level INTEGER NOT NULL, low INTEGER NOT NULL, high INTEGER NOT NULL,
  totalled INTEGER NOT NULL, directory BLOB NOT NULL, offsets BLOB NOT NULL);
CREATE INDEX change_runs_by_level ON change_runs(level);
CREATE TABLE change_blocks(block INTEGER PRIMARY KEY, rows BLOB NOT NULL);
CREATE TABLE change_totals(
  audience INTEGER NOT NULL, run INTEGER NOT NULL, type INTEGER NOT NULL, day INTEGER NOT NULL,
  created INTEGER NOT NULL, active INTEGER NOT NULL, retry INTEGER NOT NULL,
  completed INTEGER NOT NULL, failed INTEGER NOT NULL, cancelled INTEGER NOT NULL,
  expired INTEGER NOT NULL, PRIMARY KEY(audience, run, type, day)
) WITHOUT ROWID;
CREATE INDEX change_totals_by_run ON change_totals(run);
CREATE TABLE incarnations(
  row INTEGER PRIMARY KEY, job INTEGER NOT NULL, id TEXT NOT NULL, audience INTEGER NOT NULL,
  type INTEGER NOT NULL, created_at INTEGER NOT NULL, bulk_id TEXT, since INTEGER NOT NULL,
  since_offset INTEGER NOT NULL, until INTEGER, until_offset INTEGER);
CREATE INDEX incarnations_by_job ON incarnations(job);
CREATE INDEX incarnations_by_audience ON incarnations(audience, created_at DESC, id);
CREATE INDEX incarnations_by_creation ON incarnations(created_at DESC, id);
CREATE INDEX incarnations_by_bulk ON incarnations(bulk_id, created_at DESC, id)
  WHERE bulk_id IS NOT NULL;
CREATE TABLE filling(filling TEXT NOT NULL);
INSERT INTO filling VALUES(lower(hex(randomblob(16))));
"""
TABLE_NAMES: Final = (
    "checkpoints", "types", "audiences", "audience_members", "jobs", "trail_chunks", "counters",
    "totals", "totalled", "change_runs", "change_blocks", "change_totals", "incarnations",
    "filling",
)  # fmt: skip


#: Milliseconds to wait for another connection's lock.
_BUSY_MS: Final = 10_000
#: Statements that a connection keeps prepared.
_PREPARED: Final = 512


class Connection(Protocol):
    """What is used of an `apsw.Connection`: what a row holds, its statement says."""

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open."""

    def execute(self, statement: str, values: Any = None, /) -> Any:
        """Execute a statement; return a cursor over its rows."""

    def executemany(self, statement: str, values: Iterable[Any], /) -> Any:
        """Execute a statement for each of these."""

    def changes(self) -> int:
        """Return how many rows the last statement changed."""

    def last_insert_rowid(self) -> int:
        """Return the row that was inserted last."""

    def close(self) -> None:
        """Close the file."""


class Layout(msgspec.Struct, frozen=True):
    """What `store.json` says."""

    schema: int
    shards: int
    partitions: int


def read_layout(folder: Path) -> Layout:
    """Read a store's `store.json`.

    Raises:
        StoreNotReady: There is no store in this folder yet.
        StoreError: It is damaged, or made by another version of jobtrail.
    """
    path = folder / "store.json"
    try:
        layout = msgspec.json.decode(path.read_bytes(), type=Layout)
    except FileNotFoundError:
        raise StoreNotReady(
            "There is no projection store yet.",
            where=str(folder),
            mend="A projector makes it when it starts.",
        ) from None
    except (msgspec.MsgspecError, OSError) as error:
        raise StoreError(
            "The projection store can't be read.",
            where=str(path),
            found=str(error),
            mend="Delete the folder: the store is folded anew from the log.",
        ) from None
    if layout.schema != SCHEMA_VERSION:
        raise StoreError(
            "The projection store was made by another version of jobtrail.",
            where=str(folder),
            expected=f"schema {SCHEMA_VERSION}",
            found=f"schema {layout.schema}",
            mend="Delete the folder: the store is folded anew from the log.",
        )
    return layout


def create(folder: Path, layout: Layout, begins: dict[int, int], ends: dict[int, int]) -> Layout:
    """Make a store unless there is one; several projectors may try at once.

    Args:
        folder: Where.
        layout: How many shards and partitions.
        begins: The log's first offset per partition: where its fold begins.
        ends: The log's end per partition now: reads wait until the store is there.

    Returns:
        The layout of the store that is there, which an earlier call may have decided.
    """
    with contextlib.suppress(StoreNotReady):
        return read_layout(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # SQLite says "locked" at once, whatever its time-out, to two who turn the WAL on together.
    with FileLock(folder / "store.lock"):
        with contextlib.suppress(StoreNotReady):
            return read_layout(folder)
        for leftover in folder.glob("shard-*.db*"):
            # Of one who was ended before the store was whole.
            leftover.unlink()
        for shard in range(layout.shards):
            mine = [p for p in range(layout.partitions) if p % layout.shards == shard]
            _make_shard(
                shard_path(folder, shard), {p: begins[p] for p in mine}, {p: ends[p] for p in mine}
            )
        # Written last: a folder without it is no store yet.
        handle, name = tempfile.mkstemp(dir=folder, prefix="store.json.")
        with os.fdopen(handle, "wb") as file:
            file.write(msgspec.json.encode(layout))
        Path(name).replace(folder / "store.json")
    return layout


def _make_shard(path: Path, begins: dict[int, int], ends: dict[int, int]) -> None:
    db = connect(path, create=True)
    try:
        db.execute("BEGIN EXCLUSIVE")
        make_tables(db, begins, ends)
        db.execute("COMMIT")
    finally:
        db.close()


def make_tables(db: Connection, begins: dict[int, int], ends: dict[int, int]) -> None:
    """Create a shard's tables, with a checkpoint per partition, inside the open transaction."""
    for statement in TABLES.split(";\n"):
        if statement.strip():
            db.execute(statement)
    db.executemany(
        "INSERT INTO checkpoints(partition, next_offset, last_event_id, last_timestamp, recover_to)"
        " VALUES(?, ?, '', 0, ?)",
        [(p, begins[p], ends[p]) for p in begins],
    )


def shard_path(folder: Path, shard: int) -> Path:
    """Return the file of a shard."""
    return folder / f"shard-{shard}.db"


def connect(path: Path, *, create: bool = False, read_only: bool = False) -> Connection:
    """Open a shard.

    Args:
        path: Its file.
        create: Make the file where it is missing.
        read_only: Refuse writes. (Not by opening the file read-only: a reader may have to make
            the WAL's index.)

    Raises:
        StoreError: It can't be opened.
    """
    flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_URI
    if create:
        flags |= apsw.SQLITE_OPEN_CREATE
    if read_only:
        # No lock round each call: a reader is one thread's. Who writes keeps the lock, though he is
        # one thread's at a time: without it, a mistake there would damage the file.
        flags |= apsw.SQLITE_OPEN_NOMUTEX
    try:
        db = apsw.Connection(path.absolute().as_uri(), flags, statementcachesize=_PREPARED)
        db.set_busy_timeout(_BUSY_MS)
        # A statement stays prepared whatever values are bound. Otherwise SQLite, where it is built
        # to look at values for its plans, would prepare ours anew for nearly every value.
        db.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, 1)
        # NORMAL in WAL mode: a power cut may lose the last commits, never tear the file. The
        # checkpoint is lost with them, so the same records are applied again.
        if read_only:
            db.execute("PRAGMA query_only=ON")
            db.execute("PRAGMA mmap_size=4294967296")
        else:
            # Not mapped: nothing is gained by it, and the whole file would count as the process's.
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=NORMAL")
            db.execute("PRAGMA journal_size_limit=67108864")
        db.execute(f"PRAGMA cache_size=-{32 * 1024 if read_only else 112 * 1024}")
        db.execute("PRAGMA temp_store=MEMORY")
    except apsw.Error as error:
        raise StoreError(
            "A shard of the projection store can't be opened.", where=str(path), found=said(error)
        ) from None
    return db


def said(error: apsw.Error) -> str:
    """Return what SQLite says of an error, with its name for it."""
    code = getattr(error, "extendedresult", 0)
    name = apsw.mapping_extended_result_codes.get(code) or apsw.mapping_result_codes.get(code)
    return f"{name or type(error).__name__}: {error}"
