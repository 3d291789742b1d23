"""States of jobs in SQL, found by their ids among what a caller sees."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final

import orjson

from projections.reading import Caller, Status
from projections.sqlite.files import Files
from projections.sqlite.listing import room_for
from projections.sqlite.rows import hashes_of

#: Who may see more audiences is asked for by job, not the job by them.
_FEW: Final = 32
#: In place of a number of audiences.
_BY_PRINCIPAL: Final = -1
#: NULL equals nothing.
_NOTHING: Final = (None,)


def states_of(files: Files, caller: Caller, asked: Sequence[Sequence[str]]) -> Iterable[Status]:
    """Return the states of jobs with these ids, of each shard, that the caller sees."""
    values: list[int | str | None] = []
    parts: list[tuple[str, int, int]] = []
    principals = caller.principals
    for shard in files.shards:
        ids = asked[shard.number]
        if not ids:
            continue
        room = 0
        seen: Sequence[int | str] = ()
        if not caller.reads_all:
            audiences = shard.audiences(principals, _FEW)
            if audiences is None:
                room, seen = _BY_PRINCIPAL, (orjson.dumps(principals).decode(),)
            elif audiences:
                room, seen = room_for(len(audiences)), audiences
            else:
                continue
        jobs = room_for(len(ids))
        for pair in zip(hashes_of(ids, shard.seed), ids, strict=True):
            values += pair
        values += _NOTHING * (2 * (jobs - len(ids)))
        values += seen
        values += _NOTHING * (room - len(seen))
        parts.append((shard.name, jobs, room))
    if not parts:
        return ()
    found: Iterable[Status] = files.db.execute(_by_hash(tuple(parts)), values)
    return found


@lru_cache(maxsize=256)
def _by_hash(parts: tuple[tuple[str, int, int], ...]) -> str:
    """Return the statement that finds the states of jobs by their ids and the hashes of these.

    The ids are compared before the outputs are read: others may have the same hashes. Each hash
    goes with its id: two lists (`hash IN (...) AND id IN (...)`) take twice as long, since SQLite
    makes a table of each for every execution.

    Args:
        parts: Per shard its name, for how many jobs there is room, and for how many audiences; 0
            for all jobs, `_BY_PRINCIPAL` for principals in their place.
    """
    return " UNION ALL ".join(
        "SELECT id, state, output FROM "  # noqa: S608
        f"(VALUES {_marks('(?,?)', jobs)}) asked CROSS JOIN {shard}.jobs INDEXED BY jobs_by_hash "
        f"ON hash=asked.column1 AND id=asked.column2{_seen(shard, audiences)}"
        for shard, jobs, audiences in parts
    )


def _marks(mark: str, count: int) -> str:
    return ",".join([mark] * count)


def _seen(shard: str, audiences: int) -> str:
    if audiences > 0:
        return f" WHERE audience IN ({_marks('?', audiences)})"
    if audiences == _BY_PRINCIPAL:
        # Who sees very much is looked for job by job.
        return (
            f" WHERE EXISTS(SELECT 1 FROM {shard}.audience_members m "  # noqa: S608
            "WHERE m.principal IN (SELECT value FROM json_each(?)) AND m.audience=jobs.audience)"
        )
    return ""
