"""What `store.json` says, found out from the shards: where it is torn, or was changed by hand.

Shard k holds the checkpoints of the partitions p with p % shards == k, from the moment it is made.
So the shards' files say how many shards and partitions the store has, and a `store.json` that
says something else is not believed: with it, half of the jobs could be missing from answers.

`python -m projections.sqlite.files.layout FOLDER` shows all of that as JSON.
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


class _Shard(NamedTuple):
    """What a shard that can be read says of its store."""

    schema: int
    #: Its partitions and up to where they are.
    checkpoints: dict[int, int]
    #: Per partition when its projector last showed itself, microseconds since the epoch, and why
    #: it stands still, empty where it does not; none where no projector has been there.
    beats: dict[int, tuple[int, str]]


class Shards(NamedTuple):
    """What all shards of a store say of it."""

    #: The numbers of those whose files are there.
    there: frozenset[int]
    #: Those that can be read and can be what their names say.
    readable: dict[int, _Shard]

    def may_be(self, shards: int, partitions: int) -> bool:
        """Tell whether nothing that the shards say speaks against a layout."""
        return all(number < shards for number in self.readable) and all(
            shard.checkpoints.keys() == set(range(number, partitions, shards))
            for number, shard in self.readable.items()
        )

    def layouts(self) -> list[tuple[int, int]]:
        """Return the layouts, shards and partitions, that the shards may be of."""
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


def look(folder: Path) -> Shards:
    """Return what the shards in a folder say; none of them is changed."""
    there: set[int] = set()
    readable: dict[int, _Shard] = {}
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            named = _SHARD.fullmatch(path.name)
            if named is None or int(named[1]) >= _MOST_SHARDS:
                continue
            number = int(named[1])
            there.add(number)
            found = _read(path)
            # One that begins with another partition is another shard's file.
            if found is not None and min(found.checkpoints, default=None) == number:
                readable[number] = found
    return Shards(frozenset(there), readable)


def _read(path: Path) -> _Shard | None:
    # Where a WAL is missing it stays so: who writes sees by that what was lost.
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
            return _Shard(int(version), {int(p): int(offset) for p, offset in rows}, _beats(db))
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
    """Find out from the shards what `store.json` should say.

    Args:
        folder: The store.
        hint: What it says, where it can be read but does not agree with the shards: what is right
            of it decides where they leave a choice.

    Returns:
        None where the shards leave a choice.
    """
    shards = look(folder)
    found = shards.layouts()
    whole = [each for each in found if shards.there == set(range(each[0]))]
    hinted = [] if hint is None else [each for each in found if each[1] == hint.partitions]
    for choice in (whole, found, hinted):
        if len(choice) == 1:
            return Layout(_schema(shards), *choice[0])
    return None


def left_layout(folder: Path) -> Layout | None:
    """Find out what the `store.json` said that is missing from a folder.

    Call it with the store's lock held: somebody may be making the store.

    Returns:
        None where the shards leave a choice, or some may not have been made.
    """
    shards = look(folder)
    found = shards.layouts()
    if len(found) != 1 or shards.there != set(range(found[0][0])):
        return None
    return Layout(_schema(shards), *found[0])


def _schema(shards: Shards) -> int:
    """Return the version of the shards' tables; 0 where they don't agree."""
    versions = {shard.schema for shard in shards.readable.values()}
    return versions.pop() if len(versions) == 1 else 0


def checked(folder: Path, said: Layout | None) -> Layout | None:
    """Hold what `store.json` says against the shards, and correct it where they know better.

    Args:
        folder: The store.
        said: What it says; None where it can't be read.

    Returns:
        The layout that counts; None where it can't be known.
    """
    if said is not None:
        shards = look(folder)
        if shards.may_be(said.shards, said.partitions):
            return said
        if not shards.layouts() and any(
            shards._replace(readable={number: shard}).may_be(said.shards, said.partitions)
            for number, shard in shards.readable.items()
        ):
            # They contradict each other: one is another store's, and its writer will see that.
            return said
    found = recovered_layout(folder, said)
    if found is None:
        return None
    if said is not None:
        found = Layout(said.schema, found.shards, found.partitions)
    write(folder, found, "did not agree with the shards" if said else "could not be read")
    return found


def write(folder: Path, layout: Layout, why: str) -> None:
    """Write what was found out, and say so; one that can't be written is found out again."""
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
    """Return what there is to know of a store's layout; nothing is changed."""
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
