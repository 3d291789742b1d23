"""Derives from the shards what `store.json` should say, where it is damaged or was edited.

Shard k holds the checkpoints of the partitions p with p % shards == k, from the moment it is made.
So the shards' files say how many shards and partitions the store has, and a `store.json` that
says something else is corrected: with it, half of the jobs could be missing from answers.

`python -m projections.sqlite.files.layout FOLDER` prints all of that as JSON.
"""

from __future__ import annotations

import contextlib
import logging
import re
import sys
from pathlib import Path
from typing import Any, Final, NamedTuple

import apsw
import msgspec

from jobtrail.files.atomic import atomic_write
from jobtrail.terminal.text import out_json
from projections.sqlite.files import schema
from projections.sqlite.files.schema import Layout

logger = logging.getLogger(__name__)

#: The bounds of the settings `shards` and `partitions`.
_MOST_SHARDS: Final = 64
_MOST_PARTITIONS: Final = 1024
_SHARD: Final = re.compile(r"shard-(\d+)\.db")


class _ShardSummary(NamedTuple):
    """What a readable shard says about its store."""

    schema: int
    #: Its partitions and their next offsets.
    checkpoints: dict[int, int]
    #: Per partition the last heartbeat of a projector, microseconds since the epoch, and why the
    #: partition has stopped, empty where it has not; empty where there was no heartbeat.
    beats: dict[int, tuple[int, str]]


class ShardSummaries(NamedTuple):
    """What all shards of a store say about it."""

    #: The numbers of the shards whose files exist.
    there: frozenset[int]
    #: Those that can be read and whose content fits their names.
    readable: dict[int, _ShardSummary]

    def may_be(self, shards: int, partitions: int) -> bool:
        """Tell whether the shards are consistent with a layout."""
        return all(number < shards for number in self.readable) and all(
            shard.checkpoints.keys() == set(range(number, partitions, shards))
            for number, shard in self.readable.items()
        )

    def layouts(self) -> list[tuple[int, int]]:
        """Return all layouts (shards, partitions) that the shards are consistent with."""
        most = max((max(shard.checkpoints) for shard in self.readable.values()), default=None)
        if most is None:
            return []
        return [
            (shards, partitions)
            for shards in range(1, _MOST_SHARDS + 1)
            # Each shard has its last partition less than `shards` before the end.
            for partitions in range(most + 1, min(most + shards, _MOST_PARTITIONS) + 1)
            if self.may_be(shards, partitions)
        ]


def look(folder: Path) -> ShardSummaries:
    """Read the shards in a folder, without changing any of them."""
    there: set[int] = set()
    readable: dict[int, _ShardSummary] = {}
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            named = _SHARD.fullmatch(path.name)
            if named is None or int(named[1]) >= _MOST_SHARDS:
                continue
            number = int(named[1])
            there.add(number)
            found = _read(path)
            # A file whose first partition has another number is another shard's.
            if found is not None and min(found.checkpoints, default=None) == number:
                readable[number] = found
    return ShardSummaries(frozenset(there), readable)


def _read(path: Path) -> _ShardSummary | None:
    # A missing WAL must stay missing: it shows the writer that commits were lost.
    wal = Path(f"{schema.file_of(path)}-wal")
    immutable = "" if wal.exists() else "?immutable=1"
    flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_URI
    try:
        db = apsw.Connection(f"{path.absolute().as_uri()}{immutable}", flags)
        try:
            db.set_busy_timeout(1_000)
            db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
            db.execute("PRAGMA query_only=ON")
            ((version,),) = _rows(db, "PRAGMA user_version")
            rows = _rows(db, "SELECT partition, next_offset FROM checkpoints")
            return _ShardSummary(
                int(version), {int(p): int(offset) for p, offset in rows}, _beats(db)
            )
        finally:
            db.close()
    except (apsw.Error, TypeError, ValueError):
        return None


def _beats(db: apsw.Connection) -> dict[int, tuple[int, str]]:
    try:
        rows = _rows(db, "SELECT partition, at, stopped FROM beats")
    except apsw.SQLError:
        return {}  # stores of an earlier version have none
    return {int(partition): (int(at), str(stopped)) for partition, at, stopped in rows}


def _rows(db: apsw.Connection, statement: str) -> list[Any]:
    return db.execute(statement).fetchall()


def recovered_layout(folder: Path, hint: Layout | None = None) -> Layout | None:
    """Derive from the shards what `store.json` should say.

    Args:
        folder: The store.
        hint: What it says, where it can be read but does not agree with the shards: its number of
            partitions decides where several layouts are possible.

    Returns:
        None where several layouts are possible.
    """
    shards = look(folder)
    found = shards.layouts()
    complete = [each for each in found if shards.there == set(range(each[0]))]
    hinted = [] if hint is None else [each for each in found if each[1] == hint.partitions]
    for choice in (complete, found, hinted):
        if len(choice) == 1:
            return Layout(_schema(shards), *choice[0])
    return None


def left_layout(folder: Path) -> Layout | None:
    """Derive what a missing `store.json` said.

    The caller has locked the store: another process may be making it.

    Returns:
        None where several layouts are possible, or some shards may not have been made.
    """
    shards = look(folder)
    found = shards.layouts()
    if len(found) != 1 or shards.there != set(range(found[0][0])):
        return None
    return Layout(_schema(shards), *found[0])


def _schema(shards: ShardSummaries) -> int:
    """Return the version of the shards' tables; 0 where they don't agree."""
    versions = {shard.schema for shard in shards.readable.values()}
    return versions.pop() if len(versions) == 1 else 0


def checked(folder: Path, said: Layout | None) -> Layout | None:
    """Compare what `store.json` says with the shards, and correct it where they disagree.

    Args:
        folder: The store.
        said: What it says; None where it can't be read.

    Returns:
        The layout that is used; None where it can't be derived.
    """
    if said is not None:
        shards = look(folder)
        if shards.may_be(said.shards, said.partitions):
            return said
        if not shards.layouts() and any(
            shards._replace(readable={number: shard}).may_be(said.shards, said.partitions)
            for number, shard in shards.readable.items()
        ):
            # They contradict each other: one is another store's, which its writer will notice.
            return said
    found = recovered_layout(folder, said)
    if found is None:
        return None
    if said is not None:
        found = Layout(said.schema, found.shards, found.partitions)
    write(folder, found, "did not agree with the shards" if said else "could not be read")
    return found


def write(folder: Path, layout: Layout, why: str) -> None:
    """Write and log a derived layout; if it can't be written, it is derived again next time."""
    logger.error(
        "action=layout_found_out store=%s store.json %s: the shards are %d of %d partitions",
        folder,
        why,
        layout.shards,
        layout.partitions,
    )
    with contextlib.suppress(OSError):
        atomic_write(folder / "store.json", msgspec.json.encode(layout))


def report(folder: Path) -> dict[str, Any]:
    """Return all about a store's layout; nothing is changed."""
    said: Layout | None = None
    with contextlib.suppress(OSError, msgspec.MsgspecError):
        said = msgspec.json.decode((folder / "store.json").read_bytes(), type=Layout)
    shards = look(folder)
    found = recovered_layout(folder, said)
    return {
        "schema": schema.SCHEMA_VERSION,
        "exists": (folder / "store.json").exists(),
        "said": said,
        "agrees": said is not None and shards.may_be(said.shards, said.partitions),
        "found": found,
        "there": sorted(shards.there),
        "unreadable": sorted(shards.there - shards.readable.keys()),
        "checkpoints": {
            str(partition): offset
            for shard in shards.readable.values()
            for partition, offset in sorted(shard.checkpoints.items())
        },
        "beats": {
            str(partition): {"at": at, "stopped": stopped}
            for shard in shards.readable.values()
            for partition, (at, stopped) in sorted(shard.beats.items())
        },
    }


if __name__ == "__main__":
    out_json(msgspec.json.encode(report(Path(sys.argv[1]))))
