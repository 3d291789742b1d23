"""SQL that finds rows of jobs by their ids: each id is looked up together with its hash.

The ids are compared before a complete row is read: other ids may have the same hash. With one list
of hashes and one of ids (`hash IN (...) AND id IN (...)`) a statement takes half as long again,
since SQLite makes a table of each list whenever it is executed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Final

from projections.sqlite.tables.rows import hashes_of
from projections.sqlite.tables.statement_sizes import room_for

#: Ids in one statement, at most: more take several statements.
_MOST: Final = 384
#: A value that equals nothing.
NOTHING: Final = (None,)

#: The values of a statement, by position.
Values = list[int | str | None]


def in_pieces(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    """Yield ids in pieces that fit into one statement each."""
    for at in range(0, len(ids), _MOST):
        yield ids[at : at + _MOST]


def put_ids(values: Values, ids: Sequence[str], seed: int) -> int:
    """Add ids to the values of a statement with the tables of `named`.

    Args:
        values: The values of the statement.
        ids: Ids of jobs, each once, no more than fit into a statement.
        seed: The seed of the shard's hashes.

    Returns:
        For how many ids the statement needs room.
    """
    room = room_for(len(ids))
    for pair in zip(hashes_of(ids, seed), ids, strict=True):
        values += pair
    values += NOTHING * (2 * (room - len(ids)))
    return room


@lru_cache(maxsize=256)
def named(shard: str, room: int) -> str:
    """Return the tables of a FROM clause: the jobs with the ids that `put_ids` has added.

    Args:
        shard: The shard's name on its connection.
        room: For how many ids.
    """
    pairs = ",".join(["(?,?)"] * room)
    return (
        f"(VALUES {pairs}) asked CROSS JOIN {shard}.jobs INDEXED BY jobs_by_hash "
        "ON hash=asked.column1 AND id=asked.column2"
    )
