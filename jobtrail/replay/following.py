"""Events in the order of the log, from some place on, as far as it goes and then as they come.

What a job is at the log's end is not known of a log that goes on. So filters choose an event by
what its job is once the event is taken in, as those of `GET /jobs/events` do; of jobs that were
there before the place where it begins, the log tells what they were.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from jobtrail.replay.filters import Filters
from jobtrail.replay.folding.by_event import read_events
from jobtrail.replay.folding.jobs_at_start import KnownJobs
from jobtrail.replay.replay import Replay, When, instant_of, position_of
from jobtrail.replay.schemas import EVENTS

#: Events that are folded together before the first one that is wanted.
_TOGETHER: Final = 20_000


class Following:
    """Goes through a log. Use it as a context manager.

    Args:
        replay: The log.
        filters: Which events are wanted, by their jobs.
        since: Where to begin: a position, or the first instant that an event may name; None: where
            the log begins.
        position: Where to go on, of what began there; None: begin.
        ended: Is set where somebody wants it to end.
    """

    def __init__(
        self,
        replay: Replay,
        filters: Filters,
        since: When | None = None,
        position: Mapping[int, int] | None = None,
        ended: threading.Event | None = None,
    ) -> None:
        self._replay = replay
        self._filters = filters
        self._first = instant_of(since)
        self._ended = ended or threading.Event()
        #: Where to go on: per partition the offset behind what was given.
        self.position = {**replay.begins, **(position or position_of(since) or {})}
        self._known = KnownJobs() if filters and not filters.ids_only else None
        self._is_known = self._known is None

    def __enter__(self) -> Following:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Forget the jobs."""
        if self._known is not None:
            self._known.close()

    def new(self) -> Iterator[pa.RecordBatch]:
        """Yield what was not given yet, up to the log's end when `Replay.refresh` last looked.

        Yields:
            Batches of `schemas.EVENTS`, also without a row; with each, `position` is behind it.
        """
        self._get_to_know()
        for events in self._replay.event_batches(since=self.position):
            if self._ended.is_set():
                return
            wanted = self._wanted(events)
            last = {name: events.column(name)[-1].as_py() for name in ("partition", "offset")}
            self.position[last["partition"]] = last["offset"] + 1
            yield wanted
        if not self._ended.is_set():
            self.position |= self._replay.ends

    def _get_to_know(self) -> None:
        """Fold what the log told before the place where this begins."""
        if self._known is None or self._is_known:
            return
        ids = Filters(job_ids=self._filters.job_ids)
        before = self._replay.events(ids, until=self.position)
        while some := list(islice(before, _TOGETHER)):
            if self._ended.is_set():
                return
            self._known.take((event, place) for place, event in some)
        self._is_known = True

    def _wanted(self, events: pa.RecordBatch) -> pa.RecordBatch:
        if self._filters.job_ids:
            ids = pa.array(self._filters.job_ids, pa.string())
            events = events.filter(pc.is_in(events.column("job_id"), value_set=ids))
        if self._known is not None and len(events):
            jobs = self._known.take(read_events(events))
            events = events.filter(pa.array([self._filters.matches(job) for job in jobs]))
        if self._first is not None:
            first = pa.scalar(self._first, EVENTS.field("time").type)
            events = events.filter(pc.greater_equal(events.column("time"), first))
        return events
