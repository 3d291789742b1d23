"""Copies a shard as of one moment, so that the store goes on during a verification.

A snapshot that stays open for as long as a fold takes would keep the WAL from being emptied: it
would grow with every write, and each read would become slower. A copy takes seconds per GiB, and
everything that is compared is of that one moment, counters as well as rows.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import apsw

from jobtrail.core.errors import StoreError
from projections.sqlite.files import schema

#: Pages that are copied at a time.
_PAGES: Final = 4_096
#: Milliseconds to wait for a lock: only a connection that repairs the WAL's index takes one.
_BUSY_MS: Final = 10_000
#: Bytes that have to stay free beside the copy: for sorting, and for the store itself.
_SPARE: Final = 256 * 1024 * 1024


@contextlib.contextmanager
def copied(source: Path, folder: Path) -> Iterator[Any]:
    """Copy a shard, and open the copy.

    Args:
        source: The shard's file.
        folder: The folder of the copy, which is removed at the end.

    Yields:
        A connection to the copy, which may be written.

    Raises:
        StoreError: There is no room.
        apsw.Error: The file can't be opened or read.
    """
    files = [Path(f"{schema.file_of(source)}{suffix}") for suffix in ("", "-wal")]
    size = sum(file.stat().st_size for file in files if file.exists())
    if (free := shutil.disk_usage(folder).free) < size + _SPARE:
        raise StoreError(
            "There is no room to copy a shard of the projection store.",
            where=str(folder),
            expected=f"{(size + _SPARE) >> 20:,} MiB free",
            found=f"{free >> 20:,} MiB",
            hint="Free some of the disk and try again; nothing was changed.",
        )
    target = folder / source.name
    _remove(target)
    try:
        _copy(source, target)
        db: Any = apsw.Connection(str(target))
        try:
            # The copy is used by this connection only, and not kept.
            db.execute("PRAGMA locking_mode=EXCLUSIVE")
            db.execute("PRAGMA journal_mode=DELETE")
            db.execute("PRAGMA journal_mode=OFF")
            db.execute("PRAGMA synchronous=OFF")
            db.execute("PRAGMA temp_store=FILE")
            db.execute("PRAGMA cache_size=-65536")
            yield db
        finally:
            db.close()
    finally:
        _remove(target)


def _copy(source: Path, target: Path) -> None:
    # Not read-only: it may have to make the WAL's index.
    original = apsw.Connection(str(source), apsw.SQLITE_OPEN_READWRITE)
    try:
        copy = apsw.Connection(str(target))
        try:
            original.set_busy_timeout(_BUSY_MS)
            # The WAL has to stay, also where nobody else has the file open.
            original.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
            copy.execute("PRAGMA synchronous=OFF")
            # All reads within a transaction are as of one moment.
            original.execute("BEGIN")
            original.execute("SELECT count(*) FROM checkpoints").fetchall()
            with copy.backup("main", original, "main") as backup:
                while not backup.done:
                    backup.step(_PAGES)
        finally:
            copy.close()
    finally:
        original.close()


def _remove(target: Path) -> None:
    for suffix in ("", "-wal", "-shm", "-journal"):
        Path(f"{target}{suffix}").unlink(missing_ok=True)
