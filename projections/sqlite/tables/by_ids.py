"""How rows of jobs are found by their ids, in SQL: each id is asked for beside its hash.

The ids are compared before anything wide is read: others may have the same hashes. With one list of
hashes and one of ids (`hash IN (...) AND id IN (...)`) a statement takes half as long again, since
SQLite makes a table of each list whenever it is executed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Final

from projections.sqlite.tables.rows import hashes_of
from projections.sqlite.tables.statement_sizes import room_for

#: Ids in one statement, at most: more are asked for in several.
_MOST: Final = 384
#: Equals nothing.
NOTHING: Final = (None,)

#: Of a statement, by their places in it.
Values = list[int | str | None]


def in_pieces(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    """Yield some ids as often as there are more than one statement takes."""
    for at in range(0, len(ids), _MOST):
        yield ids[at : at + _MOST]


def put_ids(values: Values, ids: Sequence[str], seed: int) -> int:
    """Add ids to the values of a statement, as `named` asks for them.

    Args:
        values: Of the statement.
        ids: The jobs', each once, as many as a statement takes.
        seed: Of the shard's hashes.

    Returns:
        For how many ids the statement has to have room.
    """
    room = room_for(len(ids))
    for pair in zip(hashes_of(ids, seed), ids, strict=True):
        values += pair
    values += NOTHING * (2 * (room - len(ids)))
    return room


@lru_cache(maxsize=256)
def named(shard: str, room: int) -> str:
    """Return what stands behind FROM: the jobs with the ids that were `put_ids`.

    Args:
        shard: What the shard is called on its connection.
        room: For how many ids.
    """
    pairs = ",".join(["(?,?)"] * room)
    return (
        f"(VALUES {pairs}) asked CROSS JOIN {shard}.jobs INDEXED BY jobs_by_hash "
        "ON hash=asked.column1 AND id=asked.column2"
    )
