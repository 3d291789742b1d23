"""The files of shards as files: whether one is whole, and what is done where it is not.

Nothing in a store is precious, so a shard that is damaged, missing or another file than the one
that was opened is never patched: it is set aside, an empty one takes its place, and its partitions
are folded again from the log while the other shards go on.

SQLite itself notices a broken page only when it reads it, goes on writing to a file that was
deleted, and takes a file whose WAL is gone for one that is whole. Hence the looks here. A WAL is
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

#: What belongs to a shard beside its file.
_BESIDE: Final = ("-wal", "-shm")


class Identity(NamedTuple):
    """Which file a path names now: another one at the same path has another identity."""

    shard: tuple[int, int]
    wal: tuple[int, int]


def identity(path: Path) -> Identity | None:
    """Return the identity of a shard; None where a file of it is missing."""
    # By `os`, not by paths: this is asked before each use, and they take three times as long.
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
    """Return the file by which a reader says that it met something damaged in a shard."""
    return path.with_suffix(".suspect")


def ensure(
    path: Path,
    begins: Mapping[int, int],
    ends: Mapping[int, int],
    *,
    damaged: str = "",
    opened: Identity | None = None,
) -> bool:
    """See to it that a usable shard is there. Several projectors may do so at once.

    Args:
        path: The shard.
        begins: The log's first offset of each partition that lies in it.
        ends: The log's end of each: reads wait until it is there.
        damaged: What is wrong with it, in words, where that is known already.
        opened: Of which file that is known; where another one is there, it is looked at itself.

    Returns:
        Whether it was made again.
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

    The whole file is looked through only where a reader has said that it met something.
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
    """Rename what is there of a shard; an older one that was set aside makes room for it."""
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
