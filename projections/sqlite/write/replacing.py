"""Replaces a shard that is in use by a rebuilt one, in one step.

The new file is at exactly the offsets of the old one, which is locked against writers until the
step is done: no position goes back, and no dead letter is lost. The new file has a name of its own,
and `shard-K.db` becomes a link to it (see `schema.file_of`): opening the shard gives the old
file or the new one, each with its own WAL. A kill before the step leaves an unused file, which the
next rebuild removes; a kill after it leaves the old file.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import apsw
import numpy as np
from filelock import FileLock, Timeout

from jobtrail.core.errors import StoreError
from jobtrail.files.atomic import sync
from projections.sqlite.files import schema
from projections.sqlite.files.shard_files import identity
from projections.sqlite.tables.change_layout import OFFSETS

logger = logging.getLogger(__name__)

#: The suffixes of a shard's files.
_ALL: Final = ("", "-wal", "-shm")
#: Seconds to wait for the lock on the store's files.
_LOCK_WITHIN: Final = 10.0
_CHECKPOINTS: Final = (
    "SELECT partition, next_offset, last_offset, last_mark FROM checkpoints ORDER BY partition"
)

#: Per partition the next offset, and offset and mark of the last record.
Checkpoints = Mapping[int, tuple[int, int, int]]


class Serving:
    """A shard that is in use and is to be replaced.

    Args:
        path: The shard.

    Raises:
        StoreError: It can't be opened.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = schema.file_of(path)
        self._db: Any = schema.connect(path)
        with self._readable():
            # A read makes SQLite create the WAL, so that the identity includes it.
            self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        self._opened = identity(path)

    def close(self) -> None:
        """Close it."""
        self._db.close()

    def checkpoints(self) -> Checkpoints:
        """Return its checkpoints.

        Raises:
            StoreError: It can't be read.
        """
        with self._readable():
            return _checkpoints(self._db)

    def first_offsets(self) -> dict[int, int]:
        """Return per partition the lowest offset of a stored change.

        Raises:
            StoreError: It can't be read.
        """
        found: dict[int, int] = {}
        with self._readable():
            runs = self._db.execute("SELECT offsets FROM change_runs").fetchall()
        for (offsets,) in runs:
            for partition, first, _last in np.frombuffer(offsets, OFFSETS).tolist():
                found[partition] = min(found.get(partition, first), first)
        return found

    @contextlib.contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except apsw.Error as error:
            raise StoreError(
                "The shard can't be read.",
                where=str(self._path),
                found=schema.said(error),
                hint="A projector that runs makes it again by itself.",
            ) from error

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Lock it against other writers; an error inside rolls back what was written.

        Raises:
            StoreError: It can't be locked.
        """
        with self._readable():
            self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            if self._db.in_transaction:
                self._db.execute("COMMIT")
        finally:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")

    def hand_over(self, folder: Path, shard: int, ends: Mapping[int, int]) -> None:
        """Replace this shard, which is locked, by a shard of another folder.

        Args:
            folder: The other store; nobody else has it open.
            shard: The shard's number.
            ends: The log's end per partition, as of a moment ago: reads wait for the same offsets
                as before, but for none after these.

        Raises:
            StoreError: The other shard has other checkpoints.
        """
        built = schema.shard_path(folder, shard)
        self._complete(built, ends)
        unused_file = _unused_file(self._path)
        # The WAL first: a file without its WAL would count as damaged.
        for suffix in ("-wal", ""):
            Path(f"{built}{suffix}").replace(f"{unused_file}{suffix}")
        Path(f"{built}-shm").unlink(missing_ok=True)
        sync(unused_file)
        draft = self._path.with_suffix(".link")
        draft.unlink(missing_ok=True)
        draft.symlink_to(unused_file.name)
        self._take_its_place(draft)
        try:
            # A writer that waits for the lock must not write to the old file.
            self._db.execute(
                "CREATE TRIGGER replaced BEFORE UPDATE ON checkpoints "
                "BEGIN SELECT RAISE(ABORT, 'the shard was replaced'); END"
            )
            self._db.execute("COMMIT")
            self._remove()
        except (apsw.Error, OSError) as error:
            # The replacement is done all the same, and writers check the name themselves.
            logger.warning("action=rebuild_left file=%s %r", self._file, error)

    def _take_its_place(self, draft: Path) -> None:
        try:
            with FileLock(self._path.with_name("store.lock"), timeout=_LOCK_WITHIN):
                if identity(self._path) != self._opened:
                    raise StoreError(
                        "The shard was replaced in the meantime.",
                        where=str(self._path),
                        hint="Start the rebuild again, if it is still wanted.",
                    )
                draft.replace(self._path)
                sync(self._path.parent)
        except Timeout as error:
            raise StoreError(
                "Another process keeps the store's files locked.",
                where=str(error),
                expected=f"the lock within {_LOCK_WITHIN:.0f} s",
                hint="Try again.",
            ) from None

    def _complete(self, built: Path, ends: Mapping[int, int]) -> None:
        """Copy what is not from the log into a new shard, after checking its offsets."""
        db: Any = schema.connect(built)
        try:
            expected, found = _checkpoints(self._db), _checkpoints(db)
            if expected != found:
                raise StoreError(
                    "The rebuilt shard is not at the same offsets as the old one.",
                    where=str(built),
                    expected=repr(expected),
                    found=repr(found),
                )
            db.execute("BEGIN IMMEDIATE")
            for table, columns in (("beats", 4), ("skipped", 4)):
                db.execute(f"DELETE FROM {table}")  # noqa: S608
                rows = self._db.execute(f"SELECT * FROM {table}").fetchall()  # noqa: S608
                marks = ", ".join("?" * columns)
                db.executemany(f"INSERT INTO {table} VALUES({marks})", rows)
            recover = self._db.execute("SELECT recover_to, partition FROM checkpoints").fetchall()
            db.executemany(
                "UPDATE checkpoints SET recover_to=? WHERE partition=?",
                [
                    (min(until, ends.get(partition, until)), partition)
                    for until, partition in recover
                ],
            )
            # The same log, so positions and cursors stay valid. The surrogate keys differ.
            lineage = self._db.execute("SELECT lineage FROM filling").fetchone()
            db.execute("UPDATE filling SET lineage=?", lineage)
            db.execute("COMMIT")
            db.execute("PRAGMA synchronous=FULL")
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        finally:
            db.close()

    def _remove(self) -> None:
        """Remove the old file; readers that have it open use it until they check its name."""
        # So that the file alone is complete for a reader that opens it at this moment.
        self._db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        for suffix in _ALL:
            if suffix or self._file != self._path:
                Path(f"{self._file}{suffix}").unlink(missing_ok=True)


def remove_left(store: Path) -> None:
    """Remove the unused files of rebuilds that were killed.

    Args:
        store: The folder; the caller has locked its `rebuild.lock`.
    """
    used = {schema.file_of(path).name for path in store.glob("shard-*") if path.is_symlink()}
    for file in store.glob("shard-*.g*.db"):
        if file.name not in used:
            logger.warning("action=rebuild_left %s", file)
            for suffix in _ALL:
                Path(f"{file}{suffix}").unlink(missing_ok=True)
    for draft in store.glob("shard-*.link"):
        draft.unlink(missing_ok=True)


def _unused_file(path: Path) -> Path:
    """Return a file name for a shard that is not in use."""
    number = 1
    while True:
        found = path.with_name(f"{path.stem}.g{number}.db")
        if not any(Path(f"{found}{suffix}").exists() for suffix in _ALL):
            return found
        number += 1


def _checkpoints(db: Any) -> dict[int, tuple[int, int, int]]:
    return {partition: (*rest,) for partition, *rest in db.execute(_CHECKPOINTS).fetchall()}
