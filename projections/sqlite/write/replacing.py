"""A shard that was rebuilt takes the place of the one that serves, in one step.

The new file stands at exactly the offsets of the old one, which is locked against writers until
the step is taken: so nobody sees a position go back, and no dead letter is passed over. It has a
file name of its own, and `shard-K.db` becomes a link to it (see `schema.file_of`): who opens the
shard finds the old one or the new one, and each with the WAL that belongs to it. Killed before the
step, there is an unused file more, which the next one removes; killed after it, an old one.
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

#: What belongs to a shard's file.
_ALL: Final = ("", "-wal", "-shm")
#: Seconds to wait for who looks after the store's files.
_LOCK_WITHIN: Final = 10.0
_CHECKPOINTS: Final = (
    "SELECT partition, next_offset, last_offset, last_mark FROM checkpoints ORDER BY partition"
)

#: Per partition the next offset, and offset and mark of the last record.
Checkpoints = Mapping[int, tuple[int, int, int]]


class Serving:
    """A shard that serves, and is to be replaced.

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
            # Makes the WAL be there, so that it is known, too.
            self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        self._opened = identity(path)

    def close(self) -> None:
        """Let go of it."""
        self._db.close()

    def checkpoints(self) -> Checkpoints:
        """Return up to where it is.

        Raises:
            StoreError: It can't be read.
        """
        with self._readable():
            return _checkpoints(self._db)

    def first_offsets(self) -> dict[int, int]:
        """Return per partition the lowest offset of a change that it holds.

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
        """Keep everybody else from writing it; what is done to it inside is taken back at an error.

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
        """Let a shard of another folder take this one's place; this one is locked.

        Args:
            folder: Its store; nobody else has it open.
            shard: Its number.
            ends: The log's end per partition, or where it was a moment ago: reads wait for what
                they waited for, but for nothing behind that.

        Raises:
            StoreError: It is not what this one is.
        """
        built = schema.shard_path(folder, shard)
        self._complete(built, ends)
        generation = _free(self._path)
        # The WAL first: a file without it would have lost it.
        for suffix in ("-wal", ""):
            Path(f"{built}{suffix}").replace(f"{generation}{suffix}")
        Path(f"{built}-shm").unlink(missing_ok=True)
        sync(generation)
        draft = self._path.with_suffix(".link")
        draft.unlink(missing_ok=True)
        draft.symlink_to(generation.name)
        self._take_its_place(draft)
        try:
            # Who waits for the lock must not write what nobody reads any more.
            self._db.execute(
                "CREATE TRIGGER replaced BEFORE UPDATE ON checkpoints "
                "BEGIN SELECT RAISE(ABORT, 'the shard was replaced'); END"
            )
            self._db.execute("COMMIT")
            self._remove()
        except (apsw.Error, OSError) as error:
            # It is done all the same, and writers look at the name themselves.
            logger.warning("action=rebuild_left file=%s %r", self._file, error)

    def _take_its_place(self, draft: Path) -> None:
        try:
            with FileLock(self._path.with_name("store.lock"), timeout=_LOCK_WITHIN):
                if identity(self._path) != self._opened:
                    raise StoreError(
                        "The shard was made again meanwhile.",
                        where=str(self._path),
                        hint="Start the rebuild once more, if it is still wanted.",
                    )
                draft.replace(self._path)
                sync(self._path.parent)
        except Timeout as error:
            raise StoreError(
                "Somebody else keeps the store's files locked.",
                where=str(error),
                expected=f"the lock within {_LOCK_WITHIN:.0f} s",
                hint="Try again.",
            ) from None

    def _complete(self, built: Path, ends: Mapping[int, int]) -> None:
        """Give a new shard what is not of the log, and see that it stands where this one does."""
        db: Any = schema.connect(built)
        try:
            expected, found = _checkpoints(self._db), _checkpoints(db)
            if expected != found:
                raise StoreError(
                    "The rebuilt shard does not stand where the old one does.",
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
            # The same log: positions and cursors stay good. The numbers of names are others.
            lineage = self._db.execute("SELECT lineage FROM filling").fetchone()
            db.execute("UPDATE filling SET lineage=?", lineage)
            db.execute("COMMIT")
            db.execute("PRAGMA synchronous=FULL")
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        finally:
            db.close()

    def _remove(self) -> None:
        """Remove the old file; who has it open reads on in it until they look at its name."""
        # All of it is in the file then, for who opens it at this very moment.
        self._db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        for suffix in _ALL:
            if suffix or self._file != self._path:
                Path(f"{self._file}{suffix}").unlink(missing_ok=True)


def remove_left(store: Path) -> None:
    """Remove the files that no shard is: of a rebuild that was killed.

    Args:
        store: The folder; its `rebuild.lock` is held.
    """
    used = {schema.file_of(path).name for path in store.glob("shard-*") if path.is_symlink()}
    for file in store.glob("shard-*.g*.db"):
        if file.name not in used:
            logger.warning("action=rebuild_left %s", file)
            for suffix in _ALL:
                Path(f"{file}{suffix}").unlink(missing_ok=True)
    for draft in store.glob("shard-*.link"):
        draft.unlink(missing_ok=True)


def _free(path: Path) -> Path:
    """Return the name of a shard's next generation."""
    number = 1
    while True:
        found = path.with_name(f"{path.stem}.g{number}.db")
        if not any(Path(f"{found}{suffix}").exists() for suffix in _ALL):
            return found
        number += 1


def _checkpoints(db: Any) -> dict[int, tuple[int, int, int]]:
    return {partition: (*rest,) for partition, *rest in db.execute(_CHECKPOINTS).fetchall()}
