"""What a caller's question reads of each shard: their audiences come before any row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from projections.ports.meter import Meter, TooLong
from projections.ports.read import Caller, Filters
from projections.sqlite.read import counting
from projections.sqlite.read.listing import Source
from projections.sqlite.read.shards import ALL, Files, Shard


def sources_of(
    files: Files, caller: Caller, filters: Filters, meter: Meter, table: str = "jobs"
) -> tuple[list[Shard], list[Source]]:
    """Return the shards that may hold what is asked for, and of each what is to be read.

    The caller's audiences are in what is read: nothing else of a shard is ever looked at for them.
    A bulk of others costs what one costs that is not there.

    Args:
        files: Shards of one connection.
        caller: Who asks.
        filters: Whose types, owner and bulk count.
        meter: Where it is active, it bounds the audiences.
        table: What is listed: jobs, or what jobs have been.

    Raises:
        TooLong: There are more audiences than that.
    """
    most = meter.audiences if meter.active else ALL
    shards: list[Shard] = []
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
    all_files: Sequence[Files], caller: Caller, filters: Filters, meter: Meter
) -> Iterator[tuple[Files, list[Shard], list[Source]]]:
    """Yield where something may match: what the counters count as none needs no search.

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


def _may_match(files: Files, sources: list[Source], filters: Filters) -> bool:
    """Ask the counters first: what they count as none needs no search."""
    if not sources:
        return False
    if not filters.states and not filters.job_types:
        return True
    return bool(files.db.execute(*counting.any_counted(sources, filters)).fetchone()[0])
