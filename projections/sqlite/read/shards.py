"""Some shards of a store, read through one connection: their snapshot, audiences and names.

Attached to one connection, several files take one BEGIN and one statement per read, and SQLite
itself merges their indexes, reading no further than the answer needs. Within a transaction each
file is seen as it was at its first read: that is all that a snapshot guarantees.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from time import monotonic
from typing import Final

import apsw
import orjson

from jobtrail.core.errors import StoreError
from projections.sqlite.files import schema
from projections.sqlite.tables.rows import MAX_NAMES, Names
from projections.sqlite.tables.totals import Totalled

#: Files that one connection reads; SQLite attaches ten at most.
TOGETHER: Final = 8
#: Bytes of the audiences that are cached per shard: with two each, 30,000 principals.
_AUDIENCES_BYTES: Final = 8 * 1024 * 1024
#: Bytes of a principal in that cache, beside 40 for each of its audiences.
_PRINCIPAL_BYTES: Final = 200
#: Up to so many new audiences are handled one by one; for more, the cache is cleared.
_FEW: Final = 256

#: Seconds without a change after which files are mapped again.
_STEADY: Final = 0.2

#: More audiences than there are.
ALL: Final = 2**62

#: partition, next offset, the offset up to which it recovers, the last record (offset, mark,
#: timestamp, epoch; offset -1 for none), and the last heartbeat: when, proved, stopped
CheckpointRow = tuple[int, int, int, int, int, int, int, int, int, str]


class ShardReader:
    """One file, under its name in a connection.

    What is cached of it (checkpoints, names, audiences) is checked when SQLite reports that the
    file has changed, before anything else of a snapshot is read.
    """

    def __init__(self, db: schema.Connection, name: str, number: int) -> None:
        #: Its number among all shards.
        self.number = number
        #: What its tables' names begin with.
        self.name = name
        self.names = Names(db, name)
        self.totalled = Totalled(db, name)
        self.checkpoints: list[CheckpointRow] = []
        #: Changes when the log that was folded turns out to be another one.
        self.lineage = ""
        #: The seed of the hashes of ids.
        self.seed = 0
        self._db = db
        self._version: int | None = None
        self._generation = ""
        self._newest = 0
        self._types: dict[str, int] = {}
        self._audiences: dict[str, tuple[int, ...]] = {}
        #: Of principals with many audiences: how many at least. They never have fewer.
        self._many: dict[str, int] = {}
        self._size = 0
        self._ask_members = (
            f"SELECT audience FROM {name}.audience_members WHERE principal=? LIMIT ?"  # noqa: S608
        )

    def begin(self) -> bool:
        """Refresh the caches inside a transaction that has read; return whether any has changed."""
        # It differs once another connection has committed. Source: SQLite's documentation of
        # `SQLITE_FCNTL_DATA_VERSION`. The pragma of that name takes ten times as long.
        version = self._db.data_version(self.name)
        if version == self._version:
            return False
        self.checkpoints = self._db.execute(
            "SELECT partition, next_offset, recover_to, last_offset, last_mark, last_timestamp, "  # noqa: S608
            "last_epoch, coalesce(at, 0), coalesce(proved, 0), coalesce(stopped, '') "
            f"FROM {self.name}.checkpoints LEFT JOIN {self.name}.beats USING(partition)"
        ).fetchall()
        generation, self.lineage, self.seed, newest = self._db.execute(
            "SELECT filling, lineage, seed, "  # noqa: S608
            f"(SELECT coalesce(max(audience), 0) FROM {self.name}.audiences) "
            f"FROM {self.name}.filling"
        ).fetchone()
        if generation != self._generation:
            # Emptied and folded again: numbers stand for other names now.
            self.names.clear()
            self.totalled.clear()
            self._types.clear()
            self._many.clear()
            self._forget_audiences()
        elif newest != self._newest:
            self._take_up(self._newest)
        self.totalled.look()
        self._generation, self._newest, self._version = generation, newest, version
        return True

    def audiences(self, principals: Sequence[str], most: int = ALL) -> tuple[int, ...] | None:
        """Return the audiences that any of these principals belongs to, each once.

        Args:
            principals: The principals.
            most: How many there may be; None is returned where there are more.
        """
        cached = self._audiences
        if len(principals) == 1:
            found = cached.get(principals[0])
            found = self._members(principals[0], most) if found is None else found
            return found if found is None or len(found) <= most else None
        of_all: set[int] = set()
        for principal in principals:
            found = cached.get(principal)
            found = self._members(principal, most) if found is None else found
            if found is None or len(found) > most:
                return None
            of_all.update(found)
        return tuple(sorted(of_all)) if len(of_all) <= most else None

    def owned(self, owner: str, most: int = ALL) -> tuple[int, ...] | None:
        """Return the audiences of one owner; None where there are more than `most`."""
        rows = self._db.execute(
            f"SELECT audience FROM {self.name}.audiences WHERE owner=? LIMIT ?",  # noqa: S608
            (owner, most + 1),
        ).fetchall()
        return tuple(number for (number,) in rows) if len(rows) <= most else None

    def of_bulk(self, bulk_id: str, most: int = ALL, table: str = "jobs") -> tuple[int, ...] | None:
        """Return the audiences of a bulk's jobs; None where there are more than `most`.

        Args:
            bulk_id: The bulk.
            most: How many there may be.
            table: Where they are looked for: `jobs`, or their versions in `incarnations`.
        """
        least = (
            f"SELECT min(audience) FROM {self.name}.{table} INDEXED BY {table}_by_bulk "  # noqa: S608
            "WHERE bulk_id=:bulk"
        )
        rows = self._db.execute(
            f"WITH RECURSIVE its(audience) AS ({least} UNION ALL "  # noqa: S608
            f"SELECT ({least} AND audience>its.audience) FROM its WHERE its.audience IS NOT NULL) "
            "SELECT audience FROM its WHERE audience IS NOT NULL LIMIT :limit",
            {"bulk": bulk_id, "limit": most + 1},
        ).fetchall()
        return tuple(number for (number,) in rows) if len(rows) <= most else None

    def types(self, names: Iterable[str]) -> tuple[int, ...]:
        """Return the numbers of those of these types that exist."""
        return tuple(number for name in names if (number := self._type(name)) is not None)

    def _type(self, name: str) -> int | None:
        number = self._types.get(name)
        if number is None:
            row = self._db.execute(
                f"SELECT type FROM {self.name}.types WHERE name=?",  # noqa: S608
                (name,),
            ).fetchone()
            if row is None:
                # Not cached: the next batch may add it.
                return None
            if len(self._types) >= MAX_NAMES:
                self._types.clear()
            number = self._types[name] = row[0]
        return number

    def _members(self, principal: str, most: int) -> tuple[int, ...] | None:
        if most < self._many.get(principal, 0):
            return None
        rows = self._db.execute(self._ask_members, (principal, most + 1)).fetchall()
        if len(rows) > most:
            if len(self._many) >= MAX_NAMES:
                self._many.clear()
            self._many[principal] = len(rows)
            return None
        found = tuple(number for (number,) in rows)
        self._size += _PRINCIPAL_BYTES + len(principal) + 40 * len(found)
        if self._size > _AUDIENCES_BYTES:
            self._forget_audiences()
        self._audiences[principal] = found
        return found

    def _take_up(self, newest: int) -> None:
        """Drop cached principals with new audiences.

        Audiences are only ever added, with their members: so what is cached of other principals
        stays true until the shard is emptied.
        """
        rows = self._db.execute(
            f"SELECT owner, viewers FROM {self.name}.audiences WHERE audience>? LIMIT ?",  # noqa: S608
            (newest, _FEW + 1),
        ).fetchall()
        if len(rows) > _FEW:
            self._forget_audiences()
            return
        for owner, viewers in rows:
            for principal in (f"user:{owner}", *orjson.loads(viewers)):
                self._audiences.pop(principal, None)

    def _forget_audiences(self) -> None:
        self._audiences.clear()
        self._size = 0


class AttachedShards:
    """Some shards that are read through one connection.

    Args:
        paths: Their files by their numbers, `TOGETHER` at most.

    Raises:
        StoreError: One can't be opened.
    """

    def __init__(self, paths: Mapping[int, Path]) -> None:
        (first, path), *others = paths.items()
        self.db = schema.connect(path, read_only=True)
        self.shards = [ShardReader(self.db, "main", first)]
        for place, (number, path) in enumerate(others, 1):
            name = f"shard{place}"
            self._attach(path, name)
            self.shards.append(ShardReader(self.db, name, number))
        self._mapped = True
        self._steady_at = 0.0
        tables = ", ".join(f"{shard.name}.filling" for shard in self.shards)
        #: Reads from every file: the snapshot of each begins with its first read.
        self._begin = f"BEGIN;SELECT 1 FROM {tables} LIMIT 0"  # noqa: S608

    def _attach(self, path: Path, name: str) -> None:
        try:
            self.db.execute(f"ATTACH ? AS {name}", (f"{path.absolute().as_uri()}?mode=rw",))
            # The size of the first file's cache; how much is mapped, it has from the connection.
            (size,) = self.db.execute("PRAGMA main.cache_size").fetchone()
            self.db.execute(f"PRAGMA {name}.cache_size={size}")
        except apsw.Error as error:
            self.db.close()
            raise StoreError(
                "A shard of the projection store can't be opened.",
                where=str(path),
                found=schema.said(error),
            ) from None

    def begin(self) -> bool:
        """Open a snapshot; return whether any file has changed since the last one."""
        self.db.execute(self._begin)
        changed = False
        for shard in self.shards:
            changed |= shard.begin()
        if changed:
            self._steady_at = monotonic() + _STEADY
        return changed

    def end(self) -> None:
        """Close the snapshot."""
        if self.db.in_transaction:
            self.db.execute("COMMIT")
        if (monotonic() >= self._steady_at) is not self._mapped:
            self._map()

    def _map(self) -> None:
        """Map the files into memory while nobody writes to them, and read them otherwise.

        A mapped page is read without a call. But whenever a file has changed SQLite drops the
        complete mapping, and each page has to be loaded again, which takes longer.
        """
        self._mapped = not self._mapped
        self.db.execute(f"PRAGMA mmap_size={schema.MAPPED if self._mapped else 0}")

    def close(self) -> None:
        """Close the files."""
        self.db.close()
