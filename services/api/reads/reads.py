"""Long reads of the projections: in a thread, by turns of callers, bounded in time, and charged.

The thread has a connection of its own. SQLite releases the interpreter lock while it reads, so that
the event loop does not wait. The functions that read bound the rows and bytes of one read; a read
that takes too long all the same is ended, and answered with a problem.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final, NamedTuple, TypeVar

from jobtrail.settings import Settings
from projections.ports.meter import Meter, TooLong
from projections.ports.read import Filters, Snapshot, Watermark
from services.api.limits.limits import Rate
from services.api.limits.overload import busy, read_too_long, too_many_reads
from services.api.limits.turns import FairQueue
from services.api.problems.problems import Problem
from services.api.store import Store

_T = TypeVar("_T")
#: A caller, and which filters a search has.
_SearchKind = tuple[str | bool, ...]

#: Steps of SQLite's virtual machine, and seconds, that a read on the event loop may take: a page of
#: 20 jobs takes a tenth of either.
_BRIEF_STEPS: Final = 40_000
_BRIEF_SECONDS: Final = 0.001
#: Bytes of rows that it may return, and audiences that it may check.
_BRIEF_BYTES: Final = 256 << 10
_BRIEF_AUDIENCES: Final = 96
#: Seconds of processor time that are charged as one request.
_PRICE: Final = 0.000_25
#: Seconds for which searches of the same kind by a caller are not tried on the event loop after one
#: was too long for it; and the processor time that such a try takes, in seconds.
_NOT_TRIED: Final = 0.25
_TRY: Final = 0.001
#: Callers and kinds of searches that are remembered as too long.
_REMEMBERED: Final = 1_024


def brief_meter(page_bytes: int) -> Meter:
    """Return the bounds of reads on the event loop.

    Args:
        page_bytes: The most bytes of a page.
    """
    rows = min(_BRIEF_BYTES, page_bytes)
    return Meter(_BRIEF_STEPS, rows=rows, audiences=_BRIEF_AUDIENCES, seconds=_BRIEF_SECONDS)


def long_meter() -> Meter:
    """Return the bound of long reads: that of time alone, checked each half millisecond."""
    return Meter(2**62, rows=2**62, audiences=2**61, every=20_000)


class ReadLimits(NamedTuple):
    """Bounds of long reads."""

    total: int
    per_caller: int
    #: Seconds until the turn of a read, and of the read itself.
    deadline: float
    seconds: float
    #: Jobs that one request reads, whether they match or not, and bytes of its page.
    rows: int
    page_bytes: int

    @classmethod
    def of(cls, settings: Settings) -> ReadLimits:
        """Return the bounds of a process."""
        return cls(
            settings.max_reads,
            settings.max_reads_per_caller,
            settings.read_deadline,
            settings.max_read_seconds,
            settings.max_read_rows,
            settings.max_page_bytes,
        )


class _RunningRead:
    """One read: until when it may run, and what it cost."""

    __slots__ = ("abandoned", "cost", "until")

    def __init__(self, until: float) -> None:
        self.until = until
        #: Whether its request was cancelled.
        self.abandoned = False
        #: Seconds of processor time.
        self.cost = 0.0

    def is_over(self) -> bool:
        return self.abandoned or time.monotonic() > self.until


class Reads:
    """Runs long reads of the projections.

    Args:
        store: The projections; used by this object alone.
        limits: The bounds of long reads.
        rate: Is charged for the processor time of reads.
    """

    def __init__(self, store: Store, limits: ReadLimits, rate: Rate) -> None:
        self._store = store
        self.limits = limits
        self._rate = rate
        self._queue = FairQueue(limits.total, limits.per_caller, self._full)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="reads")
        #: By kind of search, until when it is not tried on the event loop.
        self._too_long: dict[_SearchKind, float] = {}
        #: How many reads were refused or ended, by reason; seconds of processor time of all reads.
        self.refused: Counter[str] = Counter(caller=0, process=0, deadline=0)
        self.seconds = 0.0

    def __len__(self) -> int:
        """Return how many reads run or wait for their turn."""
        return len(self._queue)

    def _full(self, own: bool) -> Problem:
        self.refused["caller" if own else "process"] += 1
        return too_many_reads(self.limits.per_caller) if own else busy()

    async def read(
        self, user: str, ask: Callable[[Snapshot], _T], *, begun: bool = False
    ) -> tuple[_T, Watermark]:
        """Read the projections, when it is the caller's turn.

        Args:
            user: Who asks.
            ask: Reads a snapshot without recovering partitions; called in the thread.
            begun: Whether a part of the answer is sent already; such a read is never refused.

        Returns:
            The result, and the watermark of the snapshot.

        Raises:
            Problem: 429 or 503 where too many wait, 503 where it takes too long or the projections
                can't be read; what `ask` raises.
        """
        return await self._in_turn(user, partial(self._ask, ask), begun=begun)

    async def beside(self, user: str, work: Callable[[Callable[[], bool]], _T]) -> _T:
        """Run other long work in the thread, when it is the caller's turn.

        Args:
            user: Who asks.
            work: Called in the thread with a function that tells whether the time is up.

        Raises:
            Problem: As `read`; what `work` raises, but for `TooLong`.
        """
        return await self._in_turn(user, lambda read: work(read.is_over))

    async def _in_turn(
        self, user: str, work: Callable[[_RunningRead], _T], *, begun: bool = False
    ) -> _T:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(None if begun else self.limits.deadline):
                await self._queue.enter(user, begun=begun)
        except TimeoutError:
            self.refused["deadline"] += 1
            raise busy() from None
        read = _RunningRead(time.monotonic() + self.limits.seconds)
        future = loop.run_in_executor(self._thread, _measured, read, work)
        # The turn ends with the read, even if the request is cancelled before.
        future.add_done_callback(partial(self._done, user, read))
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            read.abandoned = True
            raise
        except TooLong:
            self.refused["deadline"] += 1
            raise read_too_long(self.limits.seconds) from None

    def _ask(self, ask: Callable[[Snapshot], _T], read: _RunningRead) -> tuple[_T, Watermark]:
        with self._store.snapshot() as snapshot:
            snapshot.meter.is_over = read.is_over
            with snapshot.meter:
                return ask(snapshot), snapshot.watermark

    def _done(self, user: str, read: _RunningRead, future: asyncio.Future[object]) -> None:
        if not future.cancelled():
            future.exception()
        self.seconds += read.cost
        self._rate.charge(user, read.cost / _PRICE)
        self._queue.leave(user, read.cost)

    def is_brief(self, user: str, filters: Filters, skip: int) -> bool:
        """Tell whether a search is worth a try on the event loop.

        Args:
            user: Who asks.
            filters: Of the search.
            skip: How many matches it skips.
        """
        if not self._too_long:
            return True
        kind = _kind(user, filters, skip)
        until = self._too_long.get(kind)
        if until is None:
            return True
        if until > time.monotonic():
            return False
        del self._too_long[kind]
        return True

    def was_too_long(self, user: str, filters: Filters, skip: int) -> None:
        """Note that a search was too long for the event loop, and charge the caller for the try."""
        if len(self._too_long) >= _REMEMBERED:
            del self._too_long[next(iter(self._too_long))]
        self._too_long[_kind(user, filters, skip)] = time.monotonic() + _NOT_TRIED
        self._rate.charge(user, _TRY / _PRICE)

    def close(self) -> None:
        """Wait for the running read, then close the projections."""
        self._thread.shutdown(wait=True, cancel_futures=True)
        self._store.close()


def _kind(user: str, filters: Filters, skip: int) -> _SearchKind:
    """Return the kind of a search: those of one kind take about as long."""
    return user, skip > 0, *(value is not None and value != () for value in filters)


def _measured(read: _RunningRead, work: Callable[[_RunningRead], _T]) -> _T:
    began = time.thread_time()
    try:
        return work(read)
    finally:
        read.cost = time.thread_time() - began
