"""States of jobs in SQL, found by their ids among what a caller sees."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final

import orjson

from projections.ports.read import Caller, Status
from projections.sqlite.read.shards import Files
from projections.sqlite.tables.by_ids import NOTHING, Values, named, put_ids
from projections.sqlite.tables.statement_sizes import room_for

#: Who may see more audiences is asked for by job, not the job by them.
_FEW: Final = 32
#: In place of a number of audiences.
_BY_PRINCIPAL: Final = -1


def states_of(files: Files, caller: Caller, asked: Sequence[Sequence[str]]) -> Iterable[Status]:
    """Return the states of jobs with these ids, of each shard, that the caller sees.

    Args:
        files: Shards of one connection.
        caller: Who asks.
        asked: The ids that each shard is asked for, by its number; as many as a statement takes.
    """
    values: Values = []
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
        jobs = put_ids(values, ids, shard.seed)
        values += seen
        values += NOTHING * (room - len(seen))
        parts.append((shard.name, jobs, room))
    if not parts:
        return ()
    found: Iterable[Status] = files.db.execute(_by_hash(tuple(parts)), values)
    return found


@lru_cache(maxsize=256)
def _by_hash(parts: tuple[tuple[str, int, int], ...]) -> str:
    """Return the statement that finds the states of jobs by their ids.

    Args:
        parts: Per shard its name, for how many jobs there is room, and for how many audiences; 0
            for all jobs, `_BY_PRINCIPAL` for principals in their place.
    """
    return " UNION ALL ".join(
        f"SELECT id, state, output FROM {named(shard, jobs)}{_seen(shard, audiences)}"  # noqa: S608
        for shard, jobs, audiences in parts
    )


def _seen(shard: str, audiences: int) -> str:
    if audiences > 0:
        return f" WHERE audience IN ({','.join('?' * audiences)})"
    if audiences == _BY_PRINCIPAL:
        # Who sees very much is looked for job by job.
        return (
            f" WHERE EXISTS(SELECT 1 FROM {shard}.audience_members m "  # noqa: S608
            "WHERE m.principal IN (SELECT value FROM json_each(?)) AND m.audience=jobs.audience)"
        )
    return ""
