"""Listings of the past: jobs in the order of any listing, each looked at as it was at a cut.

Owner, viewers, type and creation hardly ever change, so what a job was is looked for where it is;
only those that were said again to be something else are looked for among their versions. A job's
state at the cut is in its trail. What a trail does not tell is told by the row, where the job has
not changed since; else its events have to be folded, and this only says where they lie.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import orjson

from jobtrail.core.asof import Cut, prefix
from jobtrail.core.events import MAX_TAGS
from jobtrail.core.job import Job
from jobtrail.core.trail import Prefix
from projections.ports.read import Cursor, Filters, PastJob, PastPage, job_of
from projections.postgres.connection import Connection
from projections.postgres.layout import partition_in
from projections.postgres.listing import Listing, Place, lines
from projections.postgres.trails import chunks

#: Jobs that one request looks at, at most: some 10 us each.
_MOST_LOOKED_AT: Final = 10_000
#: Events that it has read from the log, at most, unless a single job has more.
_MOST_EVENTS: Final = 2_000
#: So many entries of a trail before its last ones take as long as another job.
_AS_ONE: Final = 32
#: Jobs whose trails are read at a time.
_CHUNK: Final = 250


class _Known(NamedTuple):
    """What is known of a job that is listed."""

    place: Place
    spilled: int
    #: The last entries.
    trail: bytes
    tags: str | None


class PastListing:
    """One look into the past.

    Args:
        connection: In the transaction of the snapshot.
        listing: Of the same cut.
        filters: What was asked for.
        cut: Up to where the log counts.
    """

    def __init__(
        self, connection: Connection, listing: Listing, filters: Filters, cut: Cut
    ) -> None:
        self._connection = connection
        self._listing = listing
        self._states = frozenset(filters.states)
        self._tags = filters.tags
        self._since = filters.updated_since
        self._cut = cut

    def look(self, size: int, after: Cursor | None, skip: int) -> PastPage:
        """Return what matched, as far as one request looks.

        Args:
            size: How many jobs, at most.
            after: Where to begin.
            skip: How many to pass over.
        """
        found: list[tuple[Place, Prefix]] = []
        skipped = events = looked_at = 0
        reached = after
        wanted = min(size + skip + 1, _CHUNK)
        for looked in self._listing.looks(after, wanted, _MOST_LOOKED_AT):
            for known in self._read(looked.places):
                if looked_at >= _MOST_LOOKED_AT:
                    return self._page(found, skipped, reached)
                looked_at += 1 + known.spilled // _AS_ONE
                then = prefix(self._trail(known), partition_in(known.place.row), self._cut)
                if then is not None and self._matches(known, then):
                    if skipped < skip:
                        skipped += 1
                    else:
                        events += 0 if then.complete else len(then.events)
                        if len(found) == size or (found and events > _MOST_EVENTS):
                            return self._page(found, skipped, reached)
                        found.append((known.place, then))
                reached = known.place.at
            reached = looked.reached
        return self._page(found, skipped, reached)

    def _read(self, places: Sequence[Place]) -> Iterator[_Known]:
        """Yield jobs that may have been there, read a few at a time."""
        for at in range(0, len(places), _CHUNK):
            chunk = places[at : at + _CHUNK]
            rows = self._connection.execute(
                "SELECT row, spilled, trail, tags FROM jobs WHERE row = ANY(%s)",
                ([place.row for place in chunk],),
            ).fetchall()
            known = {row: rest for row, *rest in rows}
            for place in chunk:
                yield _Known(place, *known[place.row])

    def _trail(self, of: _Known) -> Iterator[bytes]:
        """Yield a trail in pieces: it may be long, and not all of it be wanted."""
        if of.spilled:
            yield from chunks(self._connection, of.place.row)
        yield of.trail

    def _matches(self, known: _Known, then: Prefix) -> bool:
        """Tell whether a job matches, or may: tags are looked at where they are known."""
        if self._states and then.state not in self._states:
            return False
        if self._since is not None and then.updated_at < self._since:
            return False
        if not self._tags:
            return True
        tags = orjson.loads(known.tags) if known.tags else {}
        if then.complete:
            return all(tags.get(key) == value for key, value in self._tags)
        # Tags are only ever added or changed, as long as there is room for more.
        return len(tags) >= MAX_TAGS or all(key in tags for key, _value in self._tags)

    def _page(
        self, found: Sequence[tuple[Place, Prefix]], skipped: int, reached: Cursor | None
    ) -> PastPage:
        """Return what was found, with the jobs that are as they were."""
        whole = [place for place, then in found if then.complete]
        read = zip(whole, lines(self._connection, whole), strict=True)
        jobs: dict[int, Job] = {place.row: job_of(*line) for place, line in read}
        return PastPage(
            [
                PastJob(
                    place.at,
                    jobs.get(place.row),
                    partition_in(place.row),
                    () if then.complete else then.events,
                )
                for place, then in found
            ],
            skipped,
            reached,
        )
