"""Reads the states of jobs by their ids, where the caller may see them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final

import orjson

from projections.ports.read import Caller, Status
from projections.sqlite.read.shards import AttachedShards
from projections.sqlite.tables.by_ids import NOTHING, Values, named, put_ids
from projections.sqlite.tables.statement_sizes import room_for

#: For a caller with more audiences, visibility is checked job by job.
_FEW: Final = 32
#: Stands for a check job by job, in place of a number of audiences.
_BY_PRINCIPAL: Final = -1


def states_of(
    files: AttachedShards, caller: Caller, asked: Sequence[Sequence[str]]
) -> Iterable[Status]:
    """Return the states of those of these jobs that the caller may see.

    Args:
        files: Shards of one connection.
        caller: On whose behalf is read.
        asked: The ids to look up in each shard, by its number; no more than fit into a statement.
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
        # A caller with many audiences is checked job by job.
        return (
            f" WHERE EXISTS(SELECT 1 FROM {shard}.audience_members m "  # noqa: S608
            "WHERE m.principal IN (SELECT value FROM json_each(?)) AND m.audience=jobs.audience)"
        )
    return ""
