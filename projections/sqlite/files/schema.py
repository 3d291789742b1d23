"""The shape of a shard, and how its files are found, opened and made.

A store is a folder: `store.json` says how many shards it has and over how many partitions; shard
k (`shard-k.db`) has all of the partitions p with p % shards == k: rows, indexes, counters,
audiences and checkpoints. Nothing in it is irreplaceable: it can be folded again from the log.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, Protocol

import apsw
import msgspec
from filelock import FileLock

from jobtrail.core.errors import StoreError, StoreNotReady
from jobtrail.files.atomic import atomic_write

#: Raised with every change of the tables or of what the fold writes into them.
SCHEMA_VERSION: Final = 7
DAY: Final = 86_400_000_000
#: The audience of jobs without an owner, and the one of the counters of all jobs.
NOBODY: Final = 0
EVERYBODY: Final = -1

# Integers replace names everywhere; a job's row is appended once and then updated in place, so that
# unfinished jobs are stored together. A job is found by the hash of its id (`rows.hash_of`), whose
# index takes a third of the space of one of ids and so stays in the cache; ids are compared as
# well. The hash has a secret seed, drawn at random for each generation of a shard (table
# `filling`): otherwise ids with the same hash could be made, and looking for one of them would read
# all. The other `jobs_by_*` end in the order of every listing. For `change_*` see
# `projections.sqlite.write.changes`, for `trail_*` `projections.sqlite.tables.trails`. A job whose
# owner, viewers, type, creation time or bulk has changed has a row per version in `incarnations`,
# the last one without an end.
TABLES: Final = """
CREATE TABLE checkpoints(
  partition INTEGER PRIMARY KEY, next_offset INTEGER NOT NULL, recover_to INTEGER NOT NULL,
  last_offset INTEGER NOT NULL DEFAULT -1, last_mark INTEGER NOT NULL DEFAULT 0,
  last_timestamp INTEGER NOT NULL DEFAULT 0, last_epoch INTEGER NOT NULL DEFAULT -1,
  applied INTEGER NOT NULL DEFAULT 0, duplicate INTEGER NOT NULL DEFAULT 0,
  late INTEGER NOT NULL DEFAULT 0, not_allowed INTEGER NOT NULL DEFAULT 0,
  "foreign" INTEGER NOT NULL DEFAULT 0, dead INTEGER NOT NULL DEFAULT 0);
CREATE TABLE beats(
  partition INTEGER PRIMARY KEY, at INTEGER NOT NULL, proved INTEGER NOT NULL,
  stopped TEXT NOT NULL);
CREATE TABLE skipped(
  partition INTEGER NOT NULL, begin INTEGER NOT NULL, until INTEGER NOT NULL,
  at INTEGER NOT NULL, PRIMARY KEY(partition, begin)) WITHOUT ROWID;
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
  hash INTEGER NOT NULL, source TEXT NOT NULL, writers TEXT);
CREATE INDEX jobs_by_hash ON jobs(hash);
CREATE INDEX jobs_by_audience ON jobs(audience, created_at DESC, id);
CREATE INDEX jobs_by_creation ON jobs(created_at DESC, id);
CREATE INDEX jobs_by_bulk ON jobs(bulk_id, audience, created_at DESC, id)
  WHERE bulk_id IS NOT NULL;
CREATE TABLE trail_chunks(
  row INTEGER NOT NULL, first INTEGER NOT NULL, reached INTEGER NOT NULL, trail BLOB NOT NULL,
  PRIMARY KEY(row, first)) WITHOUT ROWID;
CREATE TABLE trail_keys(
  row INTEGER NOT NULL, key INTEGER NOT NULL, offset INTEGER NOT NULL, PRIMARY KEY(row, key)
) WITHOUT ROWID;
CREATE TABLE trail_said(
  row INTEGER NOT NULL, offset INTEGER NOT NULL, PRIMARY KEY(row, offset)) WITHOUT ROWID;
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
CREATE INDEX incarnations_by_bulk ON incarnations(bulk_id, audience, created_at DESC, id)
  WHERE bulk_id IS NOT NULL;
CREATE TABLE filling(filling TEXT NOT NULL, lineage TEXT NOT NULL, seed INTEGER NOT NULL);
INSERT INTO filling VALUES(lower(hex(randomblob(16))), lower(hex(randomblob(4))), random());
"""
TABLE_NAMES: Final = (
    "checkpoints", "beats", "skipped", "types", "audiences", "audience_members", "jobs",
    "trail_chunks", "trail_keys", "trail_said", "counters", "totals", "totalled", "change_runs",
    "change_blocks", "change_totals", "incarnations", "filling",
)  # fmt: skip


#: Milliseconds to wait for another connection's lock.
_BUSY_MS: Final = 10_000
#: Statements that a connection keeps prepared.
_PREPARED: Final = 512
#: Bytes of a file that readers map into memory, at most, while nobody writes to it.
MAPPED: Final = 1 << 32


class Connection(Protocol):
    """What is used of an `apsw.Connection`; the type of a row follows from its statement."""

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open."""

    def set_progress_handler(self, tick: Any, every: int, /) -> None:
        """Ask from time to time whether to end a statement: see `projections.ports.meter.Meter`."""

    def execute(self, statement: str, values: Any = None, /) -> Any:
        """Execute a statement; return a cursor over its rows."""

    def executemany(self, statement: str, values: Iterable[Any], /) -> Any:
        """Execute a statement for each of these."""

    def changes(self) -> int:
        """Return how many rows the last statement changed."""

    def last_insert_rowid(self) -> int:
        """Return the row that was inserted last."""

    def data_version(self, schema: str) -> int:
        """Return a number that changes when another connection has changed a file."""

    def close(self) -> None:
        """Close the file."""


class Layout(msgspec.Struct, frozen=True):
    """What `store.json` says."""

    schema: int
    shards: int
    partitions: int


def read_layout(folder: Path) -> Layout:
    """Read a store's `store.json`; where it is damaged or wrong, the shards decide.

    Raises:
        StoreNotReady: There is no store in this folder yet.
        StoreError: Its layout can't be derived, or another version of jobtrail made it.
    """
    from projections.sqlite.files.layout import (
        checked,  # it looks into shards, as this module opens them
    )

    path = folder / "store.json"
    said: Layout | None = None
    fault = "something else than the shards say"
    try:
        said = msgspec.json.decode(path.read_bytes(), type=Layout)
    except FileNotFoundError:
        raise StoreNotReady(
            "There is no projection store yet.",
            where=str(folder),
            hint="A projector makes it when it starts.",
        ) from None
    except (msgspec.MsgspecError, OSError) as error:
        fault = str(error)
    layout = said if said is not None and said.schema != SCHEMA_VERSION else checked(folder, said)
    if layout is None:
        raise StoreError(
            "The projection store can't be read.",
            where=str(path),
            expected="how many shards and partitions the store has",
            found=fault,
            hint="Delete the folder: the store is folded again from the log.",
        )
    if layout.schema != SCHEMA_VERSION:
        raise StoreError(
            "The projection store was made by another version of jobtrail.",
            where=str(folder),
            expected=f"schema {SCHEMA_VERSION}",
            found=f"schema {layout.schema}",
            hint="Delete the folder: the store is folded again from the log.",
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
    from projections.sqlite.files.layout import left_layout, write  # as above

    with contextlib.suppress(StoreNotReady):
        return read_layout(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # SQLite says "locked" at once, whatever its time-out, to two who turn the WAL on together.
    with FileLock(folder / "store.lock"):
        with contextlib.suppress(StoreNotReady):
            return read_layout(folder)
        left = left_layout(folder)
        if left is not None and left.schema == SCHEMA_VERSION:
            write(folder, left, "was missing")
            return left
        for leftover in folder.glob("shard-*.db*"):
            # Of a process that was ended before the store was complete.
            leftover.unlink()
        for shard in range(layout.shards):
            mine = [p for p in range(layout.partitions) if p % layout.shards == shard]
            make_shard(
                shard_path(folder, shard), {p: begins[p] for p in mine}, {p: ends[p] for p in mine}
            )
        # Written last: a folder without it is no store yet.
        atomic_write(folder / "store.json", msgspec.json.encode(layout))
    return layout


def keep_layout(folder: Path, layout: Layout) -> None:
    """Write a store's `store.json` again where it, or the folder, was deleted.

    Raises:
        StoreError: It can't be written.
    """
    path = folder / "store.json"
    if path.exists():
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        atomic_write(path, msgspec.json.encode(layout))
    except OSError as error:
        raise StoreError(
            "The projection store can't be written.", where=str(path), found=str(error)
        ) from None


def make_shard(path: Path, begins: dict[int, int], ends: dict[int, int]) -> None:
    """Make an empty shard where none is.

    Args:
        path: Its file.
        begins: The log's first offset of each of its partitions: where their fold begins.
        ends: The log's end of each: reads wait until it is there.
    """
    db = connect(path, create=True)
    try:
        db.execute("BEGIN EXCLUSIVE")
        make_tables(db, begins, ends)
        db.execute("COMMIT")
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    finally:
        db.close()


def make_tables(db: Connection, begins: dict[int, int], ends: dict[int, int]) -> None:
    """Create a shard's tables, with a checkpoint per partition, inside the open transaction."""
    for statement in TABLES.split(";\n"):
        if statement.strip():
            db.execute(statement)
    db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
    db.executemany(
        "INSERT INTO checkpoints(partition, next_offset, recover_to) VALUES(?, ?, ?)",
        [(p, begins[p], ends[p]) for p in begins],
    )


def shard_path(folder: Path, shard: int) -> Path:
    """Return the file of a shard."""
    return folder / f"shard-{shard}.db"


def file_of(path: Path) -> Path:
    """Return the file of a shard, following its link.

    A shard that was rebuilt is a link to a file of its own: so the old one is replaced in one step,
    and SQLite, which finds a WAL by the file's own name, never uses the WAL of another file.
    """
    try:
        return path.with_name(path.readlink().name)
    except OSError:
        return path


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
        # No lock around each call: a reader is used by one thread. Writers keep the lock, though
        # one thread uses them at a time: without it, a mistake there would damage the file.
        flags |= apsw.SQLITE_OPEN_NOMUTEX
    try:
        db = apsw.Connection(path.absolute().as_uri(), flags, statementcachesize=_PREPARED)
        db.set_busy_timeout(_BUSY_MS)
        # A statement stays prepared whatever values are bound. Otherwise SQLite, where it is built
        # to look at values for its plans, would prepare ours again for nearly every value.
        db.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, 1)
        # The WAL is not removed on close: a shard without one has lost it.
        db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        # NORMAL in WAL mode: a power cut may lose the last commits, never tear the file. The
        # checkpoint is lost with them, so the same records are applied again.
        if read_only:
            db.execute("PRAGMA query_only=ON")
            db.execute(f"PRAGMA mmap_size={MAPPED}")
        else:
            # Not mapped: it gains nothing, and the file would count as the process's memory.
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


#: SQLite's errors for a file that is damaged, or no database any more.
_DAMAGED: Final = (apsw.CorruptError, apsw.NotADBError)
#: Its errors where a table is missing, and in many other cases.
_DOUBTFUL: Final = (apsw.SQLError, apsw.CantOpenError)
_CUT_OFF: Final = apsw.SQLITE_IOERR_SHORT_READ


def is_damage(error: apsw.Error) -> bool:
    """Tell whether an error means that the file is damaged, not just unavailable."""
    return isinstance(error, _DAMAGED) or getattr(error, "extendedresult", 0) == _CUT_OFF


def may_be_damage(error: apsw.Error) -> bool:
    """Tell whether an error may mean that the file is damaged, so that it has to be checked."""
    return is_damage(error) or isinstance(error, _DOUBTFUL)


def said(error: apsw.Error) -> str:
    """Return SQLite's name and message of an error."""
    code = getattr(error, "extendedresult", 0)
    name = apsw.mapping_extended_result_codes.get(code) or apsw.mapping_result_codes.get(code)
    return f"{name or type(error).__name__}: {error}"
