"""States of jobs in SQL, found by their ids among what a caller sees."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, Final

from projections.reading import Caller, Status
from projections.sqlite.files import Files
from projections.sqlite.listing import among, put
from projections.sqlite.rows import hash_of

#: Who may see more audiences is asked for by job, not the job by them.
_FEW: Final = 32


def states_of(files: Files, caller: Caller, asked: Sequence[Sequence[str]]) -> Iterable[Status]:
    """Return the states of jobs with these ids, of each shard, that the caller sees."""
    values: dict[str, Any] = {}
    parts: list[tuple[str, int, int]] = []
    principals = caller.principals
    for shard in files.shards:
        ids = asked[shard.number]
        if not ids:
            continue
        number, room = len(parts), 0
        if not caller.reads_all:
            audiences = shard.audiences(principals, _FEW)
            if audiences is None:
                room = -put(values, "principal", principals)
            elif audiences:
                room = put(values, f"audience{number}", audiences)
            else:
                continue
        put(values, f"id{number}", ids)
        hashes = [hash_of(job_id, shard.seed) for job_id in ids]
        parts.append((shard.name, put(values, f"hash{number}", hashes), room))
    if not parts:
        return ()
    found: Iterable[Status] = files.db.execute(_by_hash(tuple(parts)), values)
    return found


@lru_cache(maxsize=256)
def _by_hash(parts: tuple[tuple[str, int, int], ...]) -> str:
    """Return the statement that finds the states of jobs by their ids and the hashes of these.

    The ids are compared before the outputs are read: others may have the same hashes.

    Args:
        parts: Per shard its name, for how many jobs there is room, and for how many audiences; 0
            for all jobs, and less where there is room for so many principals in their place.
    """
    return " UNION ALL ".join(
        f"SELECT id, state, output FROM {shard}.jobs INDEXED BY jobs_by_hash "  # noqa: S608
        f"WHERE {among('hash', f'hash{number}', jobs)} AND {among('id', f'id{number}', jobs)}"
        f"{_seen(shard, number, audiences)}"
        for number, (shard, jobs, audiences) in enumerate(parts)
    )


def _seen(shard: str, number: int, audiences: int) -> str:
    if audiences > 0:
        return f" AND {among('audience', f'audience{number}', audiences)}"
    if audiences < 0:
        # Who sees very much is looked for job by job.
        return (
            f" AND EXISTS(SELECT 1 FROM {shard}.audience_members m "  # noqa: S608
            f"WHERE {among('m.principal', 'principal', -audiences)} AND m.audience=jobs.audience)"
        )
    return ""
