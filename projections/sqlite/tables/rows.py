"""Converts jobs to rows and back, in one place, so that writer and reader can't differ."""

from __future__ import annotations

from collections.abc import Sequence
from sys import getsizeof
from typing import Any, Final

import orjson
from xxhash import xxh3_64_intdigest

from jobtrail.core.job import Job
from projections.ports.read import Audience, job_of
from projections.sqlite.files.schema import Connection

#: The columns that every reader of a job needs, in the order of `job_of`.
COLUMNS: Final = (
    "id, state, created_at, updated_at, started_at, ended_at, attempt, progress, bulk_id, tags, "
    "error, output, audience, type"
)
#: Further columns that only the fold needs.
FOLD_COLUMNS: Final = "source, writers"
_HALF: Final = 1 << 63
_ALL: Final = (1 << 64) - 1


def hash_of(job_id: str, seed: int) -> int:
    """Return the hash by which a job is found: 64 bits with a sign, as SQLite's integers.

    Several ids may have the same hash.

    Args:
        job_id: The job's id.
        seed: The seed of the shard's generation: 64 bits with a sign.
    """
    return xxh3_64_intdigest(job_id.encode(), seed & _ALL) - _HALF


def hashes_of(ids: Sequence[str], seed: int) -> list[int]:
    """Return the hashes of several ids, as `hash_of` does."""
    seed &= _ALL
    return [xxh3_64_intdigest(job_id.encode(), seed) - _HALF for job_id in ids]


def pack_writers(writers: tuple[str, ...]) -> str | None:
    """Return a job's writers as they are stored in a row."""
    return orjson.dumps(writers).decode() if writers else None


def unpack_writers(writers: str | None) -> tuple[str, ...]:
    """Return a job's writers from what `pack_writers` has made."""
    return tuple(orjson.loads(writers)) if writers else ()


#: Names that are cached at a time, and about how many bytes of them: most take 300, but an audience
#: may have 256 viewers of 262 characters each.
MAX_NAMES: Final = 100_000
MAX_NAMES_BYTES: Final = 32 * 1024 * 1024
_NAME_BYTES: Final = 160


def size_of_names(*names: str | None) -> int:
    """Return about how many bytes some names that belong together take in a cache."""
    return _NAME_BYTES + sum(map(getsizeof, names))


class Names:
    """The names of a shard's surrogate keys for types and audiences, cached.

    Args:
        db: Reads the shard.
        shard: Its name in that connection.
    """

    def __init__(self, db: Connection, shard: str = "main") -> None:
        self._db = db
        self._shard = shard
        self._types: dict[int, str | None] = {}
        self._audiences: dict[int, Audience] = {}
        self._size = 0

    @property
    def count(self) -> int:
        """How many names are cached."""
        return len(self._types) + len(self._audiences)

    def clear(self) -> None:
        """Clear the cache: the shard has a new generation, or the cache is full."""
        self._types.clear()
        self._audiences.clear()
        self._size = 0

    def _make_room(self, *names: str | None) -> None:
        """Clear the cache where these names don't fit any more."""
        self._size += size_of_names(*names)
        if self.count >= MAX_NAMES or self._size > MAX_NAMES_BYTES:
            self.clear()

    def type_name(self, number: int) -> str | None:
        """Return a type's name; None for the type of jobs without `job.created` so far."""
        if number not in self._types:
            row = self._db.execute(
                f"SELECT name FROM {self._shard}.types WHERE type=?",  # noqa: S608
                (number,),
            ).fetchone()
            name = row[0] if row else None
            self._make_room(name)
            self._types[number] = name
        return self._types[number]

    def audience(self, number: int) -> Audience:
        """Return the owner and the viewers of an audience."""
        found = self._audiences.get(number)
        if found is None:
            row = self._db.execute(
                f"SELECT owner, viewers FROM {self._shard}.audiences WHERE audience=?",  # noqa: S608
                (number,),
            ).fetchone()
            found = (row[0], tuple(orjson.loads(row[1]))) if row else (None, ())
            self._make_room(found[0], *found[1])
            self._audiences[number] = found
        return found

    def job(self, row: Sequence[Any]) -> Job:
        """Build a job, without its trail, from `COLUMNS`."""
        return job_of(row, self.audience(row[-2]), self.type_name(row[-1]))
