"""Reads the log for listeners who lag, once for all who are at about the same position.

When an API process ends, all of its listeners reconnect at once and have to receive what happened
since, each from another position. If each read the same records for themselves, fifty of them
would take more time than passes in the log, and would never catch up.

So they queue for one reader. Mostly it serves the listener who lags most: the others wait until it
reaches their position, and then one read serves all of them. In between it serves callers in turn,
so that nobody waits for a listener who reads a long history, or for the many listeners of one
caller.
"""

from __future__ import annotations

import asyncio
import logging
from bisect import bisect_left
from collections.abc import Sequence
from typing import Final, NamedTuple

from services.api.feed.changes import Change, changes
from services.api.feed.log_cache import LogCache
from services.api.live.bodies import Bodies
from services.api.problems.problems import Problem, internal, log_changed, stopping
from services.api.store import Store

logger = logging.getLogger(__name__)

#: The most offsets of a span.
SPAN: Final = 500
#: Records that are read at first, and at most, in one step, before other requests are served. It
#: grows from few, since each record may be of a job with a large output.
_FIRST: Final = 4
_AT_ONCE: Final = 64
#: Bytes of memory at which a span ends: a span that is too large for the cache would be read again
#: for each part that a listener is sent.
_ENOUGH: Final = 2 << 20
#: Seconds that a span is cached: its audiences are those of the time when it was read.
_CACHED_FOR: Final = 5.0
#: One in so many turns goes to the caller who has had none of these for longest.
_FAIR: Final = 4
#: Bytes of memory of a span beside its changes.
_COST: Final = 500


class Span(NamedTuple):
    """Consecutive offsets of a partition, and the changes that the records there made."""

    partition: int
    begin: int
    #: The offset after the last one.
    end: int
    changes: Sequence[Change]
    #: Offset and mark of the last record before `end`; None where there was none.
    last: tuple[int, int] | None
    #: Bytes of memory.
    size: int

    def from_offset(self, offset: int) -> Sequence[Change]:
        """Return the changes from an offset on."""
        return self.changes[bisect_left(self.changes, offset, key=_offset_of) :]


def _offset_of(change: Change) -> int:
    return change.entry.offset


class _SpanRequest(NamedTuple):
    """A queued request for a span."""

    partition: int
    begin: int
    end: int
    user: str
    future: asyncio.Future[Span]


class Spans:
    """Reads spans of the log, and caches them for a few seconds.

    Args:
        bodies: Reads the log; used by this object alone.
        store: The projections.
        most: Bytes of the cached spans.
    """

    def __init__(self, bodies: Bodies, store: Store, most: int) -> None:
        self._bodies = bodies
        self._store = store
        self._cache = LogCache[Span](most, _CACHED_FOR)
        #: The queued requests, the oldest first.
        self._requests: list[_SpanRequest] = []
        self._reader: asyncio.Task[None] | None = None
        #: How many turns there were, and the last one of each caller of those given in turn.
        self._turn = 0
        self._turns: dict[str, int] = {}
        #: How often the log was replaced.
        self._logs = 0
        self._closed = False
        #: How many spans were read.
        self.made = 0

    @property
    def scans(self) -> int:
        """How often the log was read."""
        return self._bodies.scans

    @property
    def size(self) -> int:
        """Bytes of the cached spans."""
        return self._cache.size

    @property
    def dropped(self) -> int:
        """How many spans were dropped early, because the cache was full."""
        return self._cache.dropped

    async def read(self, partition: int, begin: int, end: int, user: str) -> Span:
        """Return a span that contains an offset; it may begin before it, and end before `end`.

        Args:
            partition: Which.
            begin: The offset.
            end: The offset after the last one that is wanted; the projections have applied all
                before it.
            user: Who asks.

        Raises:
            Problem: As `Bodies.scan`; 410 if the log was replaced in the meantime; 503 if the
                projections can't be read, or the service stops.
        """
        span = self._cache.find(partition, begin)
        if span is not None:
            return span
        if self._closed:
            raise stopping()
        future: asyncio.Future[Span] = asyncio.get_running_loop().create_future()
        asked = _SpanRequest(partition, begin, end, user, future)
        self._requests.append(asked)
        if self._reader is None:
            self._reader = asyncio.create_task(self._read_all())
        try:
            return await future
        finally:
            # Answered, failed or cancelled.
            if asked in self._requests:
                self._requests.remove(asked)

    async def _read_all(self) -> None:
        """Read spans until the queue is empty."""
        try:
            while self._requests:
                await self._read_for(self._next())
                # So that those who were served use the span before the next one is read.
                await asyncio.sleep(0)
        finally:
            self._reader = None

    def _next(self) -> _SpanRequest:
        """Return the request to serve next; of equal ones the oldest."""
        self._turn += 1
        if self._turn % _FAIR:
            return max(self._requests, key=_remaining)
        turns = {asked.user: self._turns.get(asked.user, 0) for asked in self._requests}
        first = min(self._requests, key=lambda asked: turns[asked.user])
        # Callers without a queued request are forgotten.
        self._turns = turns | {first.user: self._turn}
        return first

    async def _read_for(self, first: _SpanRequest) -> None:
        partition, begin, logs = first.partition, first.begin, self._logs
        # All spans end at multiples of `SPAN`, so that listeners come to share them.
        end = min(first.end, (begin // SPAN + 1) * SPAN)
        try:
            span = await self._read(partition, begin, end)
        except Problem as problem:
            # If the log or the projections can't be read, that is the answer to all of them.
            one = problem.status < 500
            self._fail(problem, [first] if one else list(self._requests))
        except Exception:
            logger.exception("action=span_failed partition=%d begin=%d", partition, begin)
            self._fail(internal(), [first])
        else:
            # A span of a log that was replaced is of no use.
            if logs == self._logs:
                self._cache.add(span)
                self._serve(span)

    async def _read(self, partition: int, begin: int, end: int) -> Span:
        found: list[Change] = []
        size, last, reached, some = _COST, None, begin, _FIRST
        while reached < end and size < _ENOUGH:
            scanned = await self._bodies.scan(partition, reached, min(reached + some, end))
            with self._store.snapshot() as snapshot:
                more = list(changes(snapshot, scanned.records, self._store.partitions))
            found += more
            size += sum(change.size for change in more)
            last = scanned.last or last
            reached, some = scanned.reached, min(2 * some, _AT_ONCE)
            await asyncio.sleep(0)
        self.made += 1
        return Span(partition, begin, reached, found, last, size)

    def _serve(self, span: Span) -> None:
        waiting = []
        for asked in self._requests:
            if asked.partition == span.partition and span.begin <= asked.begin < span.end:
                if not asked.future.done():
                    asked.future.set_result(span)
            else:
                waiting.append(asked)
        self._requests = waiting

    def _fail(self, problem: Problem, some: Sequence[_SpanRequest]) -> None:
        for asked in some:
            if not asked.future.done():
                asked.future.set_exception(problem)
        self._requests = [asked for asked in self._requests if not asked.future.done()]

    def forget(self) -> None:
        """Drop the cache and fail the queued requests: the log was replaced."""
        self._logs += 1
        self._cache.clear()
        self._fail(log_changed(), list(self._requests))

    async def close(self) -> None:
        """Stop reading, and fail the queued requests."""
        self._closed = True
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)
        self._fail(stopping(), list(self._requests))
        await self._bodies.close()


def _remaining(asked: _SpanRequest) -> int:
    return asked.end - asked.begin
