"""Listings of the past: jobs in the order of any listing, each as it was at a cut.

Owner, viewers, type and creation time hardly ever change, so most jobs are listed from their rows;
only jobs with several versions are listed from `incarnations`. A job's state at the cut is in its
trail. Everything else is in the row, if the job has not changed since the cut; otherwise its events
have to be folded, and the listing returns their offsets.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from heapq import merge
from itertools import islice
from typing import Final, NamedTuple

import orjson

from jobtrail.core.asof import Cut, prefix
from jobtrail.core.events import MAX_TAGS
from jobtrail.core.job import Job
from jobtrail.core.partitions import partition_of
from jobtrail.core.trail import Prefix
from projections.ports.read import Cursor, Filters, PastJob, PastPage
from projections.sqlite.read.listing import Listing, Source, listings
from projections.sqlite.read.shards import AttachedShards, ShardReader
from projections.sqlite.tables.rows import COLUMNS
from projections.sqlite.tables.trails import chunks

#: Jobs that one request reads, at most: some 10 us each.
_MOST_LOOKED_AT: Final = 10_000
#: Events that a request has to read from the log, at most, unless a single job has more.
_MOST_EVENTS: Final = 2_000
#: So many entries of a trail in chunks count as another job: they take as long.
_AS_ONE: Final = 32
_CHUNK: Final = 250
_JOBS: Final = "jobs"
_JOB_VERSIONS: Final = "incarnations"


class _Stream(NamedTuple):
    """What one statement lists: jobs, or job versions."""

    files: AttachedShards
    shards: list[ShardReader]
    table: str
    listing: Listing


class _At(NamedTuple):
    """The place of a listed job or job version."""

    created_at: int
    id: str
    stream: int
    source: int
    row: int


class _Candidate(NamedTuple):
    """What is stored of it: the job's row and trail, and whether it is the version at the cut."""

    row: int
    spilled: int
    #: The last entries.
    trail: bytes
    tags: str | None
    then: bool


#: Shards, and what of each may be listed.
_Listed = tuple[list[ShardReader], list[Source]]


def streams(
    files: AttachedShards, jobs: _Listed, job_versions: _Listed, filters: Filters, cut: Cut,
    after: Cursor | None,
) -> Iterator[_Stream]:  # fmt: skip
    """Yield the streams that list the jobs of some shards that may have matched.

    Args:
        files: Their connection.
        jobs: The sources of their jobs.
        job_versions: The sources of their job versions.
        filters: What was asked for.
        cut: Up to where the log counts.
        after: Where to begin.
    """
    # The conditions on columns that hardly change; the rest is checked job by job.
    asked = filters._replace(states=(), tags=(), updated_since=None, owner=None)
    ever = asked
    if cut.instant is not None:
        # A job with one version was created by its first event, which has to be before the cut.
        bounds = [bound for bound in (asked.created_to, cut.instant) if bound is not None]
        asked = asked._replace(created_to=min(bounds))
    shards, sources = jobs
    for listing in listings(sources, asked, after):
        yield _Stream(files, shards, _JOBS, listing)
    moved = [
        (shard, source)
        for shard, source in zip(*job_versions, strict=True)
        if files.db.execute(
            f"SELECT EXISTS(SELECT 1 FROM {shard.name}.incarnations)"  # noqa: S608
        ).fetchone()[0]
    ]
    for listing in listings([source for _shard, source in moved], ever, after):
        yield _Stream(files, [shard for shard, _source in moved], _JOB_VERSIONS, listing)


class PastListing:
    """One search in the past.

    Args:
        asked: From `streams`, of all files.
        partitions: How many partitions the log has.
        filters: What was asked for.
        cut: Up to where the log counts.
    """

    def __init__(
        self, asked: Sequence[_Stream], partitions: int, filters: Filters, cut: Cut
    ) -> None:
        self._asked = asked
        self._partitions = partitions
        self._states = frozenset(filters.states)
        self._tags = filters.tags
        self._since = filters.updated_since
        self._cut = cut

    def look(self, size: int, skip: int) -> PastPage:
        """Return the matches, as far as one request reads."""
        found: list[tuple[_At, _Candidate, Prefix]] = []
        skipped = events = looked_at = 0
        # Several versions of a job may be at one place: a page ends only between places.
        current: Cursor | None = None
        last_done: Cursor | None = None
        for at, candidate, then in self._candidates():
            place = Cursor(at.created_at, at.id)
            if place != current:
                current, last_done = place, current
                if looked_at >= _MOST_LOOKED_AT:
                    break
            looked_at += 1 + candidate.spilled // _AS_ONE
            if then is None or not self._matches(candidate, then):
                continue
            if skipped < skip:
                skipped += 1
                continue
            events += 0 if then.complete else len(then.events)
            if len(found) == size or (found and events > _MOST_EVENTS):
                break
            found.append((at, candidate, then))
        else:
            last_done = None
        return PastPage(self._whole(found), skipped, last_done)

    def _candidates(self) -> Iterator[tuple[_At, _Candidate, Prefix | None]]:
        """Yield what is listed, with its trail up to the cut; None where it was not so then."""
        places = merge(*(self._places(number) for number in range(len(self._asked))), key=_order)
        while chunk := list(islice(places, _CHUNK)):
            candidate = self._read(chunk)
            for at in chunk:
                of = candidate[at.stream, at.source, at.row]
                then = None
                if of.then:
                    partition = 0
                    if self._cut.instant is None:
                        partition = partition_of(at.id, self._partitions)
                    then = prefix(self._trail(at, of), partition, self._cut)
                yield at, of, then

    def _trail(self, at: _At, of: _Candidate) -> Iterator[bytes]:
        """Yield a trail in pieces: it may be long, and often its beginning is enough."""
        if of.spilled:
            stream = self._asked[at.stream]
            yield from chunks(stream.files.db, of.row, stream.shards[at.source].name)
        yield of.trail

    def _places(self, number: int) -> Iterator[_At]:
        stream = self._asked[number]
        limits = {"limit": 2 * _MOST_LOOKED_AT, "offset": 0}
        for created_at, job_id, row, source in stream.files.db.execute(
            stream.listing.text, {**stream.listing.values, **limits}
        ):
            yield _At(created_at, job_id, number, source, row)

    def _read(self, chunk: Sequence[_At]) -> dict[tuple[int, int, int], _Candidate]:
        by_source: dict[tuple[int, int], list[int]] = {}
        for at in chunk:
            by_source.setdefault((at.stream, at.source), []).append(at.row)
        return {
            (stream, source, row): candidate
            for (stream, source), rows in by_source.items()
            for row, candidate in self._read_rows(self._asked[stream], source, rows)
        }

    def _read_rows(
        self, stream: _Stream, source: int, rows: Sequence[int]
    ) -> Iterator[tuple[int, _Candidate]]:
        name = stream.shards[source].name
        if stream.table == _JOBS:
            # A job with several versions is found among the job versions.
            statement = (
                f"SELECT row, spilled, trail, tags, row, EXISTS("  # noqa: S608
                f"SELECT 1 FROM {name}.incarnations i WHERE i.job = j.row) "
                f"FROM {name}.jobs j WHERE row IN (SELECT value FROM json_each(?))"
            )
        else:
            statement = (
                "SELECT j.row, j.spilled, j.trail, j.tags, i.row, i.id, i.since, i.since_offset, "  # noqa: S608
                f"i.until, i.until_offset FROM {name}.incarnations i "
                f"JOIN {name}.jobs j ON j.row = i.job "
                "WHERE i.row IN (SELECT value FROM json_each(?))"
            )
        db = stream.files.db
        values = (orjson.dumps(rows).decode(),)
        for row, spilled, trail, tags, listed, *rest in db.execute(statement, values).fetchall():
            then = not rest[0] if stream.table == _JOBS else self._in_force(*rest)
            yield listed, _Candidate(row, spilled, trail, tags, then)

    def _in_force(
        self, job_id: str, since: int, first: int, until: int | None, end: int | None
    ) -> bool:
        """Tell whether the cut is within the times, or the offsets, of a job version."""
        instant, position = self._cut
        if instant is not None:
            return since <= instant and (until is None or until > instant)
        stop = position.get(partition_of(job_id, self._partitions), 0)
        return first < stop and (end is None or end >= stop)

    def _matches(self, candidate: _Candidate, then: Prefix) -> bool:
        """Tell whether a job matches, or may: its tags are checked if the row still has them."""
        if self._states and then.state not in self._states:
            return False
        if self._since is not None and then.updated_at < self._since:
            return False
        if not self._tags:
            return True
        tags = orjson.loads(candidate.tags) if candidate.tags else {}
        if then.complete:
            return all(tags.get(key) == value for key, value in self._tags)
        # Tags are only ever added or changed, as long as there is room for more.
        return len(tags) >= MAX_TAGS or all(key in tags for key, _value in self._tags)

    def _whole(self, found: Sequence[tuple[_At, _Candidate, Prefix]]) -> list[PastJob]:
        """Return what was found, with the jobs that have not changed since."""
        rows_of: dict[tuple[int, int], list[int]] = {}
        for at, candidate, then in found:
            if then.complete:
                rows_of.setdefault((at.stream, at.source), []).append(candidate.row)
        jobs: dict[str, Job] = {}
        for (number, source), rows in rows_of.items():
            stream = self._asked[number]
            shard = stream.shards[source]
            for row in stream.files.db.execute(
                f"SELECT {COLUMNS} FROM {shard.name}.jobs "  # noqa: S608
                "WHERE row IN (SELECT value FROM json_each(?))",
                (orjson.dumps(rows).decode(),),
            ).fetchall():
                jobs[row[0]] = shard.names.job(row)
        return [
            PastJob(
                Cursor(at.created_at, at.id),
                jobs[at.id] if then.complete else None,
                partition_of(at.id, self._partitions),
                () if then.complete else then.events,
            )
            for at, _known, then in found
        ]


def _order(at: _At) -> tuple[int, str]:
    return -at.created_at, at.id
