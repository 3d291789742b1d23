"""The read side of the SQLite store: consistent snapshots over all shards.

A caller's listing is a merge over the few audiences that their principals belong to, each read from
an index that lies in the order of the answer, so a page costs the same at any depth. Their counts
are sums over the same audiences' counters, or the totals that those with many of these have.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final

import apsw

from jobtrail.core.asof import Cut
from jobtrail.core.errors import StoreError
from jobtrail.core.job import Job
from jobtrail.core.partitions import partition_of
from jobtrail.core.states import STATES
from jobtrail.core.trail import VERDICTS
from projections.ports.meter import Meter, TooLong
from projections.ports.read import (
    Audience,
    Caller,
    Cursor,
    Filters,
    Line,
    ListingPart,
    PastPage,
    Status,
    Trail,
    Watermark,
)
from projections.sqlite.files import schema
from projections.sqlite.read import counting
from projections.sqlite.read.audiences import matching, sources_of
from projections.sqlite.read.listing import Listing, listings
from projections.sqlite.read.opened import UNREADABLE, OpenShards, watermark_of
from projections.sqlite.read.pages import bounded, lines, merged
from projections.sqlite.read.past_counts import PastCounts
from projections.sqlite.read.past_listing import PastListing, streams
from projections.sqlite.read.scanning import BoundedSearch
from projections.sqlite.read.shards import ALL, AttachedShards, CheckpointRow, ShardReader
from projections.sqlite.read.states import states_of
from projections.sqlite.tables.rows import hash_of
from projections.sqlite.tables.stored_jobs import read_audiences, read_jobs
from projections.sqlite.tables.trails import SqliteTrail

#: Up to so many shards it costs less to look an id up in all of them than to derive its shard.
_ASK_ALL: Final = 2
#: Up to so many streams a page's rows are read in one statement, which reads one more per stream.
_FEW_STREAMS: Final = 16


class SqliteReader:
    """An API process's view of a store. Not to be shared between threads.

    A shard that can't be read is left out: its partitions count as recovering until there is
    another file in its place, and the others are answered from.

    Args:
        folder: The store.

    Raises:
        StoreNotReady: No projector has made it yet.
        StoreError: It can't be opened.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._layout = schema.read_layout(folder)
        self._shards = OpenShards(folder, self._layout.shards)
        self._metered: list[AttachedShards] | None = None
        self._watermark: Watermark | None = None
        self._meter = Meter(2**62, rows=2**62, audiences=ALL)

    @property
    def partitions(self) -> int:
        """How many partitions the folded log has."""
        return self._layout.partitions

    @property
    def meter(self) -> Meter:
        """Ends reads that exceed their limits; it may be replaced."""
        return self._meter

    @meter.setter
    def meter(self, meter: Meter) -> None:
        self._meter = meter
        self._metered = None

    def snapshot(self) -> _OpenSnapshot:
        """Open a consistent view of every shard; shards may be at different positions.

        Raises:
            StoreError: The store can't be read.
        """
        return _OpenSnapshot(self._begin, self._end, self._unreadable)

    def _begin(self) -> SqliteSnapshot:
        """Open the view; `_end` has to follow in any case."""
        changed = self._shards.begin()
        if changed or self._watermark is None:
            # Cleared first: after an error in the next line, shards would report no change again.
            self._watermark = None
            self._watermark = watermark_of(
                self._rows(), self._layout.partitions, self._shards.lineage
            )
        if self._shards.files is not self._metered:
            self._metered = self._shards.files
            for files in self._metered:
                files.db.set_progress_handler(self._meter.tick, self._meter.every)
        return SqliteSnapshot(self._shards.files, self._layout, self._watermark, self._meter)

    def _rows(self) -> list[CheckpointRow]:
        """Return the checkpoints of the partitions, each from the shard that the layout says.

        Raises:
            StoreError: There are partitions beyond the layout.
        """
        shards = [shard for files in self._shards.files for shard in files.shards]
        rows = [(shard.number, row) for shard in shards for row in shard.checkpoints]
        beyond = [row[0] for _, row in rows if row[0] >= self._layout.partitions]
        if beyond:
            raise StoreError(
                "The store's shards don't fit what its `store.json` says.",
                where=str(self._folder),
                expected=f"{self._layout.partitions} partitions",
                found=f"partition {beyond[0]}",
                hint="Start the projector: it says how the two are brought together.",
            )
        return [row for number, row in rows if row[0] % self._layout.shards == number]

    def _end(self) -> None:
        """Close the view."""
        for files in self._shards.files:
            files.end()

    def _unreadable(self, error: BaseException) -> StoreError:
        """Return the error of a store that can't be read; report damage to projectors."""
        self._watermark = None
        if not isinstance(error, apsw.Error) or schema.is_damage(error):
            self._shards.suspect()
        return StoreError(
            "The projection store can't be read.",
            where=str(self._folder),
            found=schema.said(error) if isinstance(error, apsw.Error) else repr(error),
        )

    def close(self) -> None:
        """Close all files."""
        self._shards.close()


class _OpenSnapshot:
    """A snapshot as a context manager; one made of a generator would cost four times as much."""

    __slots__ = ("_begin", "_end", "_unreadable")

    def __init__(
        self,
        begin: Callable[[], SqliteSnapshot],
        end: Callable[[], None],
        unreadable: Callable[[BaseException], StoreError],
    ) -> None:
        self._begin = begin
        self._end = end
        self._unreadable = unreadable

    def __enter__(self) -> SqliteSnapshot:
        try:
            return self._begin()
        except BaseException as error:
            with contextlib.suppress(apsw.Error):
                self._end()
            if isinstance(error, UNREADABLE):
                raise self._unreadable(error) from error
            raise

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        try:
            self._end()
        except apsw.Error as found:
            raise self._unreadable(found) from found
        if isinstance(error, apsw.InterruptError):
            raise TooLong from error
        if isinstance(error, UNREADABLE):
            raise self._unreadable(error) from error


class SqliteSnapshot:
    """One consistent view; see `projections.ports.read.Snapshot`."""

    __slots__ = ("_files", "_partitions", "_total", "meter", "watermark")

    def __init__(
        self, files: list[AttachedShards], layout: schema.Layout, watermark: Watermark, meter: Meter
    ) -> None:
        self._files = files
        self._partitions = layout.partitions
        self._total = layout.shards
        self.watermark = watermark
        self.meter = meter

    def _asked(self, ids: Sequence[str]) -> Sequence[Sequence[str]]:
        """Return the ids to look up in each shard, by its number."""
        total = self._total
        if total <= _ASK_ALL:
            return [ids] * total
        asked: list[list[str]] = [[] for _ in range(total)]
        for job_id in ids:
            asked[partition_of(job_id, self._partitions) % total].append(job_id)
        return asked

    def states(self, caller: Caller, ids: Sequence[str]) -> list[Status]:
        """Return the states of those of these jobs that the caller sees, of each once."""
        asked = self._asked(list(dict.fromkeys(ids)))
        found = []
        left = self.meter.rows
        for files in self._files:
            for status in states_of(files, caller, asked):
                found.append(status)
                if status[2]:
                    left -= len(status[2])
                    if left < 0 and self.meter.active:
                        raise TooLong
        return found

    def watched(self, ids: list[str]) -> dict[str, Job]:
        """Return these jobs with the last entries of their trails, for any caller."""
        found: dict[str, Job] = {}
        asked = self._asked(ids)
        for files in self._files:
            for shard in files.shards:
                mine = asked[shard.number]
                for found_job in read_jobs(files.db, mine, shard.seed, shard.names, shard.name):
                    found[found_job.job.id] = found_job.job
        return found

    def audiences(self, places: Iterable[tuple[str, int]]) -> dict[str, Audience]:
        """Return the audiences of jobs, for internal use."""
        asked: list[list[str]] = [[] for _ in range(self._total)]
        for job_id, partition in places:
            asked[partition % self._total].append(job_id)
        found: dict[str, Audience] = {}
        for files in self._files:
            for shard in files.shards:
                mine = asked[shard.number]
                found.update(read_audiences(files.db, mine, shard.seed, shard.names, shard.name))
        return found

    def trail(self, job_id: str) -> Trail | None:
        """Return access to a job's trail; None where there is no such job."""
        asked = self._asked([job_id])
        for files in self._files:
            for shard in files.shards:
                place = (
                    asked[shard.number]
                    and files.db.execute(
                        f"SELECT row, trail FROM {shard.name}.jobs INDEXED BY jobs_by_hash "  # noqa: S608
                        "WHERE hash=? AND id=?",
                        (hash_of(job_id, shard.seed), job_id),
                    ).fetchone()
                )
                if place:
                    return SqliteTrail(files.db, shard.name, *place)
        return None

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
        asked: list[tuple[AttachedShards, list[ShardReader], Listing]] = []
        for files, shards, sources in matching(self._files, caller, filters, self.meter):
            found = listings(sources, filters, after)
            asked += [(files, shards, listing) for listing in found]
        if not asked:
            return []
        if len(asked) == 1 and not offset and asked[0][2].streams <= _FEW_STREAMS:
            files, shards, listing = asked[0]
            values = listing.values
            values["limit"], values["offset"] = size, 0
            return lines(bounded(files.db.execute(listing.rows, values), self.meter), shards)
        return merged(asked, size, offset, self.meter)

    def search_some(
        self,
        caller: Caller,
        filters: Filters,
        *,
        size: int,
        after: Cursor | None = None,
        skip: int = 0,
        most: int,
        most_bytes: int,
    ) -> ListingPart:
        """Return the jobs that match among the next ones of a listing."""
        looking = BoundedSearch(list(matching(self._files, caller, filters, self.meter)), filters)
        return looking.look(size, after, skip, most, most_bytes)

    def summary(self, caller: Caller, filters: Filters) -> dict[str | None, list[int]]:
        """Count jobs by type and state, from counters and the edges of the two edge days."""
        totals: dict[str | None, list[int]] = {}
        types = Filters(job_types=filters.job_types)
        for files in self._files:
            shards, sources = sources_of(files, caller, types, self.meter)
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
    ) -> PastPage:
        """Look for jobs that matched at a cut, newest first, as all of them were then."""
        asked = [
            stream
            for files in self._files
            for stream in streams(
                files,
                sources_of(files, caller, filters, self.meter),
                sources_of(files, caller, filters, self.meter, "incarnations"),
                filters,
                cut,
                after,
            )
        ]
        return PastListing(asked, self._partitions, filters, cut).look(size, skip)

    def summary_at(self, caller: Caller, filters: Filters, cut: Cut) -> dict[str | None, list[int]]:
        """Count jobs by type and state as they were at a cut."""
        totals: dict[str | None, list[int]] = {}
        types = Filters(job_types=filters.job_types)
        for files in self._files:
            shards, sources = sources_of(files, caller, types, self.meter)
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
        sums = ", ".join(f'sum("{name.replace("-", "_")}")' for name in names)
        rows = [
            files.db.execute(f"SELECT {sums} FROM {shard.name}.checkpoints").fetchone()  # noqa: S608
            for files in self._files
            for shard in files.shards
        ]
        return {
            name: sum(counts) for name, counts in zip(names, zip(*rows, strict=True), strict=True)
        }


def _present(totals: dict[str | None, list[int]]) -> dict[str | None, list[int]]:
    """Return the types that have jobs, sorted by name."""
    names = [name for name in totals if any(totals[name])]
    names.sort(key=lambda name: (name is None, name or ""))
    return {name: totals[name] for name in names}
