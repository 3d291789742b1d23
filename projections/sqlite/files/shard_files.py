"""The files of shards: checks whether one is intact, and replaces it where it is not.

Nothing in a store is irreplaceable, so a shard that is damaged, missing or another file than the
one that was opened is never repaired in place: it is set aside, an empty one takes its place, and
its partitions are folded again from the log while the other shards go on.

SQLite itself notices a broken page only when it reads it, goes on writing to a file that was
deleted, and opens a file without its WAL as if it were complete. Hence the checks here. A WAL is
never removed by a connection that closes (`SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE`): so a shard without
one has lost what was committed last.
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

import apsw
from filelock import FileLock

from jobtrail.core.errors import StoreError
from projections.sqlite.files import schema

logger = logging.getLogger(__name__)

#: The suffixes of a shard's other files.
_BESIDE: Final = ("-wal", "-shm")


class Identity(NamedTuple):
    """Identifies the file at a path: another file at the same path has another identity."""

    shard: tuple[int, int]
    wal: tuple[int, int]


def identity(path: Path) -> Identity | None:
    """Return the identity of a shard; None where a file of it is missing."""
    # By `os`, not `Path`, which takes three times as long: this is called before each use.
    name = os.fspath(path)
    try:
        shard = os.lstat(name)
        if stat.S_ISLNK(shard.st_mode):
            name = os.fspath(schema.file_of(path))
            shard = os.stat(name)  # noqa: PTH116
        wal = os.stat(name + "-wal")  # noqa: PTH116
    except OSError:
        return None
    return Identity((shard.st_dev, shard.st_ino), (wal.st_dev, wal.st_ino))


def suspect_path(path: Path) -> Path:
    """Return the marker file by which a reader reports that a shard may be damaged."""
    return path.with_suffix(".suspect")


def ensure(
    path: Path,
    begins: Mapping[int, int],
    ends: Mapping[int, int],
    *,
    damaged: str = "",
    opened: Identity | None = None,
) -> bool:
    """Make sure that a shard can be used; several projectors may do so at once.

    Args:
        path: The shard.
        begins: The log's first offset of each of its partitions.
        ends: The log's end of each: reads wait until it is there.
        damaged: What is wrong with it, in words, if the caller has found that.
        opened: The file of which that was found; a file that has replaced it is checked itself.

    Returns:
        Whether the shard was replaced.
    """
    with FileLock(path.with_name("store.lock")):
        reason = damaged if damaged and opened == identity(path) else fault_of(path, set(begins))
        suspect_path(path).unlink(missing_ok=True)
        if not reason:
            return False
        kept = _set_aside(path)
        schema.make_shard(path, dict(begins), dict(ends))
    logger.error(
        "action=shard_made_again shard=%s partitions=%s found: %s. It is folded again from the "
        "log; reads of its partitions answer 503 until then. What was there: %s",
        path,
        sorted(begins),
        reason,
        kept or "nothing",
    )
    return True


def fault_of(path: Path, partitions: set[int]) -> str:
    """Return what is wrong with a shard, in words; empty where nothing is.

    The complete file is checked only where a reader has reported that it may be damaged.
    """
    if not path.exists():
        return "the file is missing"
    if identity(path) is None:
        return "its WAL is missing, and with it what was committed last"
    try:
        db = schema.connect(path)
    except StoreError as error:
        return str(error.found)
    try:
        found = {number for (number,) in db.execute("SELECT partition FROM checkpoints")}
        if found != partitions:
            return f"checkpoints of partitions {sorted(found)}, not of {sorted(partitions)}"
        db.execute("SELECT filling, lineage FROM filling").fetchall()
        if suspect_path(path).exists():
            (verdict,) = db.execute("PRAGMA quick_check(1)").fetchone()
            return "" if verdict == "ok" else str(verdict)
    except apsw.Error as error:
        return schema.said(error)
    finally:
        with contextlib.suppress(apsw.Error):
            db.close()
    return ""


def _set_aside(path: Path) -> str:
    """Rename the files of a shard; those of an earlier damaged one are deleted."""
    kept = ""
    shard = schema.file_of(path)
    for suffix in ("", *_BESIDE):
        file = Path(f"{shard}{suffix}")
        aside = Path(f"{path.with_suffix('.damaged')}{suffix}")
        aside.unlink(missing_ok=True)
        if file.exists():
            file.replace(aside)
            kept = kept or str(aside)
    if shard != path:
        path.unlink()
    return kept
