"""The shards of a store that a reader has open; opens them again when their files are replaced.

A file may be damaged, deleted or replaced by another one while it is open: projectors replace a
shard that is damaged (`projections.sqlite.files.shard_files`). SQLite itself would go on reading a
file that nobody writes to any more.
"""

from __future__ import annotations

import contextlib
import logging
import struct
from collections.abc import Sequence
from pathlib import Path
from time import monotonic
from typing import Final

import apsw
import orjson

from jobtrail.core.errors import StoreError
from jobtrail.core.position import LastRecord
from projections.ports.read import Watermark
from projections.sqlite.files import schema
from projections.sqlite.files.shard_files import Identity, identity, suspect_path
from projections.sqlite.read.shards import TOGETHER, AttachedShards, CheckpointRow

logger = logging.getLogger(__name__)

#: What reading a damaged store may raise: SQLite's own errors, and those of decoding what is read.
UNREADABLE: Final = (
    apsw.Error,
    UnicodeDecodeError,
    LookupError,
    struct.error,
    orjson.JSONDecodeError,
)
#: Seconds between two checks whether the files were replaced: a check costs a twentieth of a small
#: answer. And between two attempts to open a file that can't be read and has not changed.
_LOOK_EVERY: Final = 0.02
_TRY_EVERY: Final = 5.0
#: They read the first pages of the table and the indexes that are used most.
_PROBES: Final = (
    "SELECT trail FROM jobs NOT INDEXED LIMIT 1",
    "SELECT hash FROM jobs INDEXED BY jobs_by_hash ORDER BY hash LIMIT 1",
    "SELECT id FROM jobs INDEXED BY jobs_by_creation ORDER BY created_at DESC LIMIT 1",
)


class _ShardGroup:
    """Shards that share a connection; those that can be read are open."""

    def __init__(self, paths: dict[int, Path]) -> None:
        self._paths = paths
        #: The identities of the files that were opened.
        self._identities: dict[int, Identity | None] = {}
        self._try_at = 0.0
        self.files: AttachedShards | None = None
        self.missing: list[int] = []

    def look(self) -> bool:
        """Open the files again where they were replaced; tell whether they were."""
        again = bool(self.missing) and monotonic() >= self._try_at
        if not again and self._identities == self._identify():
            return False
        self.open()
        return True

    def _identify(self) -> dict[int, Identity | None]:
        return {number: identity(path) for number, path in self._paths.items()}

    def open(self) -> None:
        """Open the files that can be read; those that can't are tried again later."""
        self.close()
        self._try_at = monotonic() + _TRY_EVERY
        # Before they are opened: a file that is replaced in between is noticed at the next check.
        self._identities = self._identify()
        there = {
            n: path
            for n, path in self._paths.items()
            if self._identities[n] is not None
            and (not suspect_path(path).exists() or _is_readable(n, path))
        }
        self.files = _open(there)
        if self.files is None:
            there = {n: path for n, path in there.items() if _is_readable(n, path)}
            self.files = _open(there)
        self.missing = [n for n in self._paths if self.files is None or n not in there]

    def suspect(self) -> None:
        """Report to projectors that one of these may be damaged: they check and replace it."""
        broken = {n: path for n, path in self._paths.items() if not _is_readable(n, path)}
        for path in (broken or self._paths).values():
            with contextlib.suppress(OSError):
                suspect_path(path).touch()

    def close(self) -> None:
        """Close the files."""
        files, self.files = self.files, None
        if files is not None:
            with contextlib.suppress(apsw.Error):
                files.close()


class OpenShards:
    """The shards of a store.

    Args:
        folder: The store.
        shards: How many it has.
    """

    def __init__(self, folder: Path, shards: int) -> None:
        paths = {number: schema.shard_path(folder, number) for number in range(shards)}
        self._groups = [
            _ShardGroup({n: paths[n] for n in range(at, min(at + TOGETHER, shards))})
            for at in range(0, shards, TOGETHER)
        ]
        self._folder = folder
        self.files: list[AttachedShards] = []
        self._missing: list[int] = []
        for group in self._groups:
            group.open()
        self._take_up()
        self._look_at = monotonic() + _LOOK_EVERY

    @property
    def lineage(self) -> str:
        """The lineages of all shards together."""
        return "".join(shard.lineage for files in self.files for shard in files.shards)

    def begin(self) -> bool:
        """Open a snapshot; return whether anything has changed since the last one."""
        changed = False
        now = monotonic()
        if now >= self._look_at:
            self._look_at = now + _LOOK_EVERY
            # `sum`, not `any`: all of them have to be checked.
            if sum([group.look() for group in self._groups]):
                self._take_up()
                changed = True
        for files in self.files:
            changed |= files.begin()
        return changed

    def _take_up(self) -> None:
        self.files = [group.files for group in self._groups if group.files is not None]
        missing = [number for group in self._groups for number in group.missing]
        if missing != self._missing:
            logger.error(
                "action=shards_unreadable store=%s shards=%s before=%s",
                self._folder,
                missing,
                self._missing,
            )
            self._missing = missing

    def suspect(self) -> None:
        """Report to projectors that a shard may be damaged."""
        for group in self._groups:
            group.suspect()

    def close(self) -> None:
        """Close all files."""
        for group in self._groups:
            group.close()
        self.files = []


def _open(paths: dict[int, Path]) -> AttachedShards | None:
    """Open some shards, and read each of them once; None where that fails."""
    if not paths:
        return None
    files: AttachedShards | None = None
    try:
        files = AttachedShards(paths)
        files.begin()
        files.end()
    except (StoreError, apsw.Error, ValueError, LookupError, TypeError) as error:
        logger.warning("action=shard_unreadable shards=%s %s", sorted(paths), error)
        if files is not None:
            with contextlib.suppress(apsw.Error):
                files.close()
        return None
    return files


def _is_readable(number: int, path: Path) -> bool:
    """Tell whether a shard can be opened, and its first pages read."""
    files = _open({number: path})
    if files is None:
        return False
    try:
        for probe in _PROBES:
            files.db.execute(probe).fetchall()
    except (apsw.Error, ValueError):
        return False
    finally:
        with contextlib.suppress(apsw.Error):
            files.close()
    return True


def watermark_of(rows: Sequence[CheckpointRow], partitions: int, lineage: str) -> Watermark:
    """Return the watermark of a snapshot.

    Args:
        rows: The checkpoint of each partition; a missing one is in a shard that can't be read.
        partitions: How many partitions there are.
        lineage: That of all shards together.
    """
    none = dict.fromkeys(range(partitions), 0)
    there = {row[0] for row in rows}
    return Watermark(
        position=none | {row[0]: row[1] for row in rows},
        timestamps=none | {row[0]: row[5] for row in rows},
        recovering=frozenset(row[0] for row in rows if row[1] < row[2]) | (none.keys() - there),
        last={row[0]: LastRecord(*row[3:7]) for row in rows if row[3] >= 0},
        beats={row[0]: row[7] for row in rows},
        proved={row[0]: row[8] for row in rows},
        stopped={row[0]: row[9] for row in rows if row[9]},
        lineage=lineage,
    )
