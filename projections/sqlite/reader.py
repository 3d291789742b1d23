"""The read side of the SQLite store: consistent snapshots over all shards.

A caller's listing is a merge over the few audiences that his principals belong to, each read from
an index that lies in the order of the answer, so a page costs the same at any depth. His counts
are sums over the same audiences' counters, or the totals that those with many of these have.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import apsw

from jobtrail.asof import Cut
from jobtrail.errors import StoreError
from jobtrail.job import VERDICTS, Job
from jobtrail.partitions import partition_of
from jobtrail.states import STATES
from projections.reading import Caller, Cursor, Filters, Held, Line, Looked, Status
from projections.sqlite import counting, schema
from projections.sqlite.files import TOGETHER, Files, Shard
from projections.sqlite.listing import Listing, Source, among, listings, put
from projections.sqlite.pages import in_order, lines, merged
from projections.sqlite.past import PastCounts
from projections.sqlite.past_listing import PastListing, streams
from projections.sqlite.rows import hash_of
from projections.sqlite.writer import read_jobs

#: Up to so many shards it costs less to ask all of them for an id than to tell which one has it.
_ASK_ALL: Final = 2


class SqliteReader:
    """An API process's view of a store. Not to be shared between threads.

    Args:
        folder: The store.

    Raises:
        StoreNotReady: No projector has made it yet.
        StoreError: It can't be opened.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._layout = schema.read_layout(folder)
        paths = [schema.shard_path(folder, shard) for shard in range(self._layout.shards)]
        self._files = [
            Files(paths[at : at + TOGETHER], at) for at in range(0, len(paths), TOGETHER)
        ]
        self._held: Held | None = None

    @property
    def partitions(self) -> int:
        """How many partitions the folded log has."""
        return self._layout.partitions

    def snapshot(self) -> _Opened:
        """Open a consistent view of every shard; shards may be at different positions.

        Raises:
            StoreError: The store can't be read.
        """
        return _Opened(self)

    def begin(self) -> SqliteSnapshot:
        """Open the view; `end` has to follow, whatever happens."""
        changed = False
        for files in self._files:
            changed |= files.begin()
        if changed or self._held is None:
            rows = [row for files in self._files for s in files.shards for row in s.checkpoints]
            self._held = Held(
                position={row[0]: row[1] for row in rows},
                timestamps={row[0]: row[2] for row in rows},
                recovering=frozenset(row[0] for row in rows if row[1] < row[3]),
            )
        return SqliteSnapshot(self._files, self._layout.partitions, self._held)

    def end(self) -> None:
        """Let go of the view."""
        for files in self._files:
            files.end()

    def unreadable(self, error: apsw.Error) -> StoreError:
        """Say what keeps the store from being read."""
        return StoreError(
            "The projection store can't be read.",
            where=str(self._folder),
            found=schema.said(error),
        )

    def close(self) -> None:
        """Close all files."""
        for files in self._files:
            files.db.close()


class _Opened:
    """A snapshot as a context manager; one of a generator would cost four times as much."""

    __slots__ = ("_reader",)

    def __init__(self, reader: SqliteReader) -> None:
        self._reader = reader

    def __enter__(self) -> SqliteSnapshot:
        try:
            return self._reader.begin()
        except BaseException as error:
            self._reader.end()
            if isinstance(error, apsw.Error):
                raise self._reader.unreadable(error) from error
            raise

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self._reader.end()
        if isinstance(error, apsw.Error):
            raise self._reader.unreadable(error) from error


class SqliteSnapshot:
    """One consistent view; see `projections.reading.Snapshot`."""

    __slots__ = ("_files", "_partitions", "held")

    def __init__(self, files: list[Files], partitions: int, held: Held) -> None:
        self._files = files
        self._partitions = partitions
        self.held = held

    @property
    def _shards(self) -> list[Shard]:
        return [shard for files in self._files for shard in files.shards]

    def _asked(self, ids: Sequence[str]) -> list[list[int]]:
        """Return for which hashes of ids each shard is asked."""
        total = len(self._shards)
        if total <= _ASK_ALL:
            return [[hash_of(job_id) for job_id in ids]] * total
        asked: list[list[int]] = [[] for _ in range(total)]
        for job_id in ids:
            asked[partition_of(job_id, self._partitions) % total].append(hash_of(job_id))
        return asked

    def states(self, caller: Caller, ids: Sequence[str]) -> list[Status]:
        """Return the states of those of these jobs that the caller sees."""
        asked, wanted = self._asked(ids), set(ids)
        return [
            status
            for files in self._files
            for status in _states(files, caller, asked)
            if status[0] in wanted
        ]

    def watched(self, ids: list[str]) -> dict[str, Job]:
        """Return these jobs with their trails, whoever may see them."""
        found: dict[str, Job] = {}
        wanted = set(ids)
        for number, hashes in enumerate(self._asked(ids)):
            files = self._files[number // TOGETHER]
            shard = files.shards[number % TOGETHER]
            for columns, *_, trail in read_jobs(files.db, wanted, hashes, shard.name):
                job = shard.names.job(columns)
                job.trail = trail
                found[job.id] = job
        return found

    def search(
        self,
        caller: Caller,
        filters: Filters,
        *,
        size: int,
        after: Cursor | None = None,
        offset: int = 0,
    ) -> list[Line]:
        """Return a page of jobs, newest first."""
        asked: list[tuple[Files, list[Shard], Listing]] = []
        for files in self._files:
            shards, sources = _sources(files, caller, filters.job_types, filters.owner)
            if _may_match(files, sources, filters):
                found = listings(sources, filters, after)
                asked += [(files, shards, listing) for listing in found]
        if len(asked) == 1:
            files, shards, listing = asked[0]
            values = listing.values
            values["limit"], values["offset"] = size, offset
            rows = files.db.execute(listing.rows, values).fetchall()
            return lines(in_order(rows), shards)
        return merged(asked, size, offset)

    def summary(self, caller: Caller, filters: Filters) -> dict[str | None, list[int]]:
        """Count jobs by type and state, from counters and the edges of the two edge days."""
        totals: dict[str | None, list[int]] = {}
        for files in self._files:
            shards, sources = _sources(files, caller, filters.job_types)
            if statement := counting.whole_days(sources, filters):
                for row in files.db.execute(*statement).fetchall():
                    name = shards[row[0]].names.type_name(row[1])
                    total = totals.get(name)
                    totals[name] = (
                        list(row[2:])
                        if total is None
                        else [a + b for a, b in zip(total, row[2:], strict=True)]
                    )
            if statement := counting.edges(sources, filters):
                for number, job_type, state, count in files.db.execute(*statement):
                    name = shards[number].names.type_name(job_type)
                    if filters.job_types and name not in filters.job_types:
                        continue
                    totals.setdefault(name, [0] * len(STATES))[state] += count
        return _present(totals)

    def search_at(
        self,
        caller: Caller,
        filters: Filters,
        cut: Cut,
        *,
        size: int,
        after: Cursor | None = None,
        skip: int = 0,
    ) -> Looked:
        """Look for jobs that matched at a cut, newest first, as all of them were then."""
        asked = [
            stream
            for files in self._files
            for stream in streams(
                files,
                *_sources(files, caller, filters.job_types, filters.owner),
                filters,
                cut,
                after,
            )
        ]
        return PastListing(asked, self._partitions, filters, cut).look(size, skip)

    def summary_at(self, caller: Caller, filters: Filters, cut: Cut) -> dict[str | None, list[int]]:
        """Count jobs by type and state as they were at a cut."""
        totals: dict[str | None, list[int]] = {}
        for files in self._files:
            shards, sources = _sources(files, caller, filters.job_types)
            for shard, source in zip(shards, sources, strict=True):
                counted = PastCounts(files.db, source, filters, cut).count()
                for job_type, counts in counted.items():
                    name = shard.names.type_name(job_type)
                    before = totals.get(name, [0] * len(STATES))
                    totals[name] = [a + b for a, b in zip(before, counts, strict=True)]
        return _present(totals)

    def verdicts(self) -> dict[str, int]:
        """Count the records that are applied, by the fold's verdict; `dead` is no valid event."""
        names = (*VERDICTS, "dead")
        sums = ", ".join(f"sum({name.replace('-', '_')})" for name in names)
        rows = [
            files.db.execute(f"SELECT {sums} FROM {shard.name}.checkpoints").fetchone()  # noqa: S608
            for files in self._files
            for shard in files.shards
        ]
        return {
            name: sum(counts) for name, counts in zip(names, zip(*rows, strict=True), strict=True)
        }


def _present(totals: dict[str | None, list[int]]) -> dict[str | None, list[int]]:
    """Return the types of which there are jobs, by name."""
    names = [name for name in totals if any(totals[name])]
    names.sort(key=lambda name: (name is None, name or ""))
    return {name: totals[name] for name in names}


def _states(files: Files, caller: Caller, asked: list[list[int]]) -> list[Status]:
    """Return the states of jobs with these hashes, of each shard, that the caller sees."""
    values: dict[str, Any] = {}
    parts: list[tuple[str, int, int]] = []
    for shard in files.shards:
        hashes = asked[shard.number]
        audiences = None if caller.reads_all else shard.audiences(caller.principals)
        if not hashes or (audiences is not None and not audiences):
            continue
        room = 0 if audiences is None else put(values, f"audience{len(parts)}", audiences)
        parts.append((shard.name, put(values, f"hash{len(parts)}", hashes), room))
    if not parts:
        return []
    found: list[Status] = files.db.execute(_by_hash(tuple(parts)), values).fetchall()
    return found


@lru_cache(maxsize=256)
def _by_hash(parts: tuple[tuple[str, int, int], ...]) -> str:
    """Return the statement that finds the states of jobs by the hashes of their ids.

    Args:
        parts: Per shard its name, for how many hashes there is room, and for how many audiences; 0
            for all jobs.
    """
    return " UNION ALL ".join(
        f"SELECT id, state, output FROM {shard}.jobs INDEXED BY jobs_by_hash "  # noqa: S608
        f"WHERE {among('hash', f'hash{number}', hashes)}"
        + (f" AND {among('audience', f'audience{number}', audiences)}" if audiences else "")
        for number, (shard, hashes, audiences) in enumerate(parts)
    )


def _sources(
    files: Files, caller: Caller, job_types: tuple[str, ...], owner: str | None = None
) -> tuple[list[Shard], list[Source]]:
    """Return the shards that may hold what is asked for, and of each what is to be read.

    The caller's audiences are in what is read: nothing else of a shard is ever looked at for him.
    """
    shards: list[Shard] = []
    sources: list[Source] = []
    principals = caller.principals
    for shard in files.shards:
        types: tuple[int, ...] = ()
        if job_types:
            types = shard.types(job_types)
            if not types:
                continue
        audiences = None if caller.reads_all else shard.audiences(principals)
        if owner is not None:
            owned = shard.owned(owner)
            audiences = owned if audiences is None else tuple(set(owned).intersection(audiences))
        if audiences is None or audiences:
            shards.append(shard)
            sources.append(Source(shard.name, audiences, types, shard.totalled.audiences))
    return shards, sources


def _may_match(files: Files, sources: list[Source], filters: Filters) -> bool:
    """Ask the counters first: what they count as none needs no search."""
    if not sources:
        return False
    if not filters.states and not filters.job_types:
        return True
    return bool(files.db.execute(*counting.any_counted(sources, filters)).fetchone()[0])
