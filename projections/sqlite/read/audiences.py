"""Restricts what is read of each shard to the caller's audiences, before any row is read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from projections.ports.meter import Meter, TooLong
from projections.ports.read import Caller, Filters
from projections.sqlite.read import counting
from projections.sqlite.read.listing import Source
from projections.sqlite.read.shards import ALL, AttachedShards, ShardReader


def sources_of(
    files: AttachedShards, caller: Caller, filters: Filters, meter: Meter, table: str = "jobs"
) -> tuple[list[ShardReader], list[Source]]:
    """Return the shards that may have matches, and what is to be read of each.

    Only rows of the caller's audiences are read for them. Asking for a bulk of others costs the
    same as asking for one that does not exist.

    Args:
        files: The shards of one connection.
        caller: On whose behalf is read.
        filters: Its types, owner and bulk are used.
        meter: Where it is active, it limits the audiences.
        table: What is listed: `jobs`, or their versions in `incarnations`.

    Raises:
        TooLong: There are more audiences than that.
    """
    most = meter.audiences if meter.active else ALL
    shards: list[ShardReader] = []
    sources: list[Source] = []
    principals = caller.principals
    for shard in files.shards:
        types: tuple[int, ...] = ()
        if filters.job_types:
            types = shard.types(filters.job_types)
            if not types:
                continue
        audiences: tuple[int, ...] | None = None
        if not caller.reads_all:
            audiences = shard.audiences(principals, most)
            if audiences is None:
                raise TooLong
        elif filters.bulk_id is not None:
            audiences = _some(shard.of_bulk(filters.bulk_id, most, table))
        if filters.owner is not None:
            owned = _some(shard.owned(filters.owner, most))
            audiences = owned if audiences is None else tuple(set(owned) & set(audiences))
        if audiences is None or audiences:
            shards.append(shard)
            sources.append(Source(shard.name, audiences, types, shard.totalled.audiences, table))
    return shards, sources


def matching(
    all_files: Sequence[AttachedShards], caller: Caller, filters: Filters, meter: Meter
) -> Iterator[tuple[AttachedShards, list[ShardReader], list[Source]]]:
    """Yield where something may match: where the counters count no job, nothing is searched.

    Raises:
        TooLong: As above.
    """
    for files in all_files:
        shards, sources = sources_of(files, caller, filters, meter)
        if _may_match(files, sources, filters):
            yield files, shards, sources


def _some(audiences: tuple[int, ...] | None) -> tuple[int, ...]:
    if audiences is None:
        raise TooLong
    return audiences


def _may_match(files: AttachedShards, sources: list[Source], filters: Filters) -> bool:
    """Tell by the counters whether a search may find anything."""
    if not sources:
        return False
    if not filters.states and not filters.job_types:
        return True
    return bool(files.db.execute(*counting.any_counted(sources, filters)).fetchone()[0])
