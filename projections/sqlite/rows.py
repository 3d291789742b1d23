"""How a job lies in a row, both ways, so that the writer and the reader can't differ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import orjson
from xxhash import xxh3_64_intdigest

from jobtrail.job import Job
from projections.reading import Audience, job_of
from projections.sqlite.schema import Connection

#: The columns that every reader of a job wants, in the order that `job_of` takes them.
COLUMNS: Final = (
    "id, state, created_at, updated_at, started_at, ended_at, attempt, progress, bulk_id, tags, "
    "error, output, audience, type"
)
#: What only the fold wants beside them.
FOLD_COLUMNS: Final = "source, writers"
_HALF: Final = 1 << 63
_ALL: Final = (1 << 64) - 1


def hash_of(job_id: str, seed: int) -> int:
    """Return the number by which a job is found: 64 bits with a sign, as SQLite's integers are.

    Several ids may have the same one.

    Args:
        job_id: The job's.
        seed: Of the shard's filling: 64 bits with a sign.
    """
    return xxh3_64_intdigest(job_id.encode(), seed & _ALL) - _HALF


def pack_writers(writers: tuple[str, ...]) -> str | None:
    """Return a job's writers as a row has them."""
    return orjson.dumps(writers).decode() if writers else None


def unpack_writers(writers: str | None) -> tuple[str, ...]:
    """Return the same the other way round."""
    return tuple(orjson.loads(writers)) if writers else ()


#: Names that are remembered at a time: about 300 bytes each.
MAX_NAMES: Final = 100_000


class Names:
    """The names behind a shard's numbers for types and audiences, read once each.

    Args:
        db: Reads the shard.
        shard: Its name in that connection.
    """

    def __init__(self, db: Connection, shard: str = "main") -> None:
        self._db = db
        self._shard = shard
        self._types: dict[int, str | None] = {}
        self._audiences: dict[int, Audience] = {}

    def clear(self) -> None:
        """Forget everything: the shard was filled anew."""
        self._types.clear()
        self._audiences.clear()

    def type_name(self, number: int) -> str | None:
        """Return a type's name; None for the type of jobs whose `job.created` is not seen yet."""
        if number not in self._types:
            row = self._db.execute(
                f"SELECT name FROM {self._shard}.types WHERE type=?",  # noqa: S608
                (number,),
            ).fetchone()
            self._types[number] = row[0] if row else None
        return self._types[number]

    def audience(self, number: int) -> Audience:
        """Return the owner and the viewers of an audience."""
        found = self._audiences.get(number)
        if found is None:
            if len(self._audiences) >= MAX_NAMES:
                self.clear()
            row = self._db.execute(
                f"SELECT owner, viewers FROM {self._shard}.audiences WHERE audience=?",  # noqa: S608
                (number,),
            ).fetchone()
            found = (row[0], tuple(orjson.loads(row[1]))) if row else (None, ())
            self._audiences[number] = found
        return found

    def job(self, row: Sequence[Any]) -> Job:
        """Build a job, without its trail, from `COLUMNS`."""
        return job_of(row, self.audience(row[-2]), self.type_name(row[-1]))
