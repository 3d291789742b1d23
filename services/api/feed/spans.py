"""What listeners have to read from the log, read once for all who are at about the same place.

When an API process ends, all of its listeners come back at once and have to be told what happened
since, each from another place. Each on its own would read and look up the same records: with fifty
of them that takes more time than passes in the log, so they would never be level again.

So they stand in line for one reader. Mostly it serves the one who is furthest behind: those before
them wait until they are reached, and then one read serves all. In between it serves callers by
turns, so that nobody waits for somebody who reads a long history, or for the many listeners of one.
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

#: Records of a span at most.
SPAN: Final = 500
#: Records that are looked up at first, and at most, before others are served: each may have a job
#: with much output, as one that was created and has ended since. Together they are no more than
#: what is kept of them may be.
_FIRST: Final = 4
_AT_ONCE: Final = 64
#: Bytes in memory from which on a span ends: one that is too large to be kept would be read again
#: for each part that a listener is sent.
_ENOUGH: Final = 2 << 20
#: Seconds that a span is kept: who may see a job is what it was when it was read.
_KEPT_FOR: Final = 5.0
#: Each so many turns one is for the caller whose last one of these was longest ago.
_FAIR: Final = 4
#: What a span takes beside its changes, in bytes.
_COST: Final = 500


class Span(NamedTuple):
    """Consecutive offsets of a partition, and what the records there changed."""

    partition: int
    begin: int
    #: The offset behind.
    end: int
    changes: Sequence[Change]
    #: Offset and mark of the last record before `end`; None where there was none.
    last: tuple[int, int] | None
    #: Bytes that it takes in memory.
    size: int

    def from_offset(self, offset: int) -> Sequence[Change]:
        """Return the changes from an offset on."""
        return self.changes[bisect_left(self.changes, offset, key=_offset_of) :]


def _offset_of(change: Change) -> int:
    return change.entry.offset


class _SpanRequest(NamedTuple):
    """One who stands in line."""

    partition: int
    begin: int
    end: int
    user: str
    future: asyncio.Future[Span]


class Spans:
    """Reads spans of the log, and keeps them for a moment.

    Args:
        bodies: The log; read by nobody else.
        store: The projections.
        most: Bytes that are kept.
    """

    def __init__(self, bodies: Bodies, store: Store, most: int) -> None:
        self._bodies = bodies
        self._store = store
        self._cache = LogCache[Span](most, _KEPT_FOR)
        #: Who stands in line, longest first.
        self._requests: list[_SpanRequest] = []
        self._reader: asyncio.Task[None] | None = None
        #: How many turns there were, and which one was a caller's last of those by turns.
        self._turn = 0
        self._turns: dict[str, int] = {}
        #: How often the log became another one.
        self._logs = 0
        self._closed = False
        #: How many spans were made.
        self.made = 0

    @property
    def scans(self) -> int:
        """How often the log was read for them."""
        return self._bodies.scans

    @property
    def size(self) -> int:
        """Bytes of what is kept."""
        return self._cache.size

    @property
    def dropped(self) -> int:
        """How many spans were dropped early, for want of room."""
        return self._cache.dropped

    async def read(self, partition: int, begin: int, end: int, user: str) -> Span:
        """Return a span in which an offset lies; it may begin before, and end before `end`.

        Args:
            partition: Where.
            begin: The offset.
            end: The offset behind the last one that is wanted; the projections hold all before it.
            user: Who asks.

        Raises:
            Problem: As `Bodies.scan`; 410 where the log became another one meanwhile; 503 where
                the projections can't be read, or the service is stopped.
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
            # Served, or gone away.
            if asked in self._requests:
                self._requests.remove(asked)

    async def _read_all(self) -> None:
        """Read for as long as somebody stands in line."""
        try:
            while self._requests:
                await self._read_for(self._next())
                # So that those who were served look at it before the next is read.
                await asyncio.sleep(0)
        finally:
            self._reader = None

    def _next(self) -> _SpanRequest:
        """Return whose turn it is; of those whose it might be, the one who has waited longest."""
        self._turn += 1
        if self._turn % _FAIR:
            return max(self._requests, key=_left)
        turns = {asked.user: self._turns.get(asked.user, 0) for asked in self._requests}
        first = min(self._requests, key=lambda asked: turns[asked.user])
        # Who is not there now has no need of it.
        self._turns = turns | {first.user: self._turn}
        return first

    async def _read_for(self, first: _SpanRequest) -> None:
        partition, begin, logs = first.partition, first.begin, self._logs
        # Spans end at the same places, whoever they were read for: so listeners come together.
        end = min(first.end, (begin // SPAN + 1) * SPAN)
        try:
            span = await self._read(partition, begin, end)
        except Problem as problem:
            # Where the log or the projections can't be read, nobody else has to find that out.
            one = problem.status < 500
            self._fail(problem, [first] if one else list(self._requests))
        except Exception:
            logger.exception("action=span_failed partition=%d begin=%d", partition, begin)
            self._fail(internal(), [first])
        else:
            # What was read of another log is of use to nobody.
            if logs == self._logs:
                self._cache.keep(span)
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
        """Forget what was read, and tell who stands in line: the log is another one."""
        self._logs += 1
        self._cache.clear()
        self._fail(log_changed(), list(self._requests))

    async def close(self) -> None:
        """Read no more; who stands in line is told so."""
        self._closed = True
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)
        self._fail(stopping(), list(self._requests))
        await self._bodies.close()


def _left(asked: _SpanRequest) -> int:
    return asked.end - asked.begin
