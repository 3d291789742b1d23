"""Reads that may be long: beside the event loop, by turns of callers, with a bound and a price.

They have a thread and a connection of their own. SQLite lets go of the interpreter while it reads,
so the event loop waits for none of it. What may be read at a time is bounded in rows and bytes by
who asks; what takes too long all the same is ended, and said to be.
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
from services.api.limits.turns import Line
from services.api.problems.problems import Problem
from services.api.store import Store

_T = TypeVar("_T")
#: A caller, and which filters a search has.
_Kind = tuple[str | bool, ...]

#: Steps of SQLite's that a read on the event loop may take, and seconds: a page of 20 takes a tenth
#: of either.
_BRIEF_STEPS: Final = 40_000
_BRIEF_SECONDS: Final = 0.001
#: Bytes of rows that it may bring, and audiences that it may look at.
_BRIEF_BYTES: Final = 256 << 10
_BRIEF_AUDIENCES: Final = 96
#: Seconds of a processor that cost a caller as much as a request does.
_PRICE: Final = 0.000_25
#: Seconds for which a caller's reads of a kind are not tried on the event loop, once one of them
#: was too long for it; and what such a try takes, in seconds of a processor.
_NOT_TRIED: Final = 0.25
_TRY: Final = 0.001
#: Callers and kinds that are remembered.
_REMEMBERED: Final = 1_024


def brief(page_bytes: int) -> Meter:
    """Return the bound of reads on the event loop.

    Args:
        page_bytes: What a page may have.
    """
    rows = min(_BRIEF_BYTES, page_bytes)
    return Meter(_BRIEF_STEPS, rows=rows, audiences=_BRIEF_AUDIENCES, seconds=_BRIEF_SECONDS)


def long() -> Meter:
    """Return the bound of reads beside it: that of time alone, looked at each half millisecond."""
    return Meter(2**62, rows=2**62, audiences=2**61, every=20_000)


class Limits(NamedTuple):
    """How much may be read beside the event loop."""

    total: int
    per_caller: int
    #: Seconds from a request to the end of its read, and of the read alone.
    deadline: float
    seconds: float
    #: Jobs that one request looks at, and bytes of what it brings.
    rows: int
    page_bytes: int

    @classmethod
    def of(cls, settings: Settings) -> Limits:
        """Return the bounds of a process."""
        return cls(
            settings.max_reads,
            settings.max_reads_per_caller,
            settings.read_deadline,
            settings.max_read_seconds,
            settings.max_read_rows,
            settings.max_page_bytes,
        )


class _Read:
    """One read: until when it may go on, and what it took."""

    __slots__ = ("cost", "left", "until")

    def __init__(self, until: float) -> None:
        self.until = until
        #: Nobody waits for it any more.
        self.left = False
        #: Seconds of a processor.
        self.cost = 0.0

    def is_over(self) -> bool:
        return self.left or time.monotonic() > self.until


class Reads:
    """Reads the projections beside the event loop.

    Args:
        store: The projections; read by nobody else.
        limits: How much may be read.
        rate: Is charged for what reads take.
    """

    def __init__(self, store: Store, limits: Limits, rate: Rate) -> None:
        self._store = store
        self.limits = limits
        self._rate = rate
        self._line = Line(limits.total, limits.per_caller, self._full)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="reads")
        #: Until when what is not tried on the event loop.
        self._too_long: dict[_Kind, float] = {}
        #: How many reads were refused or ended, by the reason; seconds of a processor.
        self.refused: Counter[str] = Counter(caller=0, process=0, deadline=0)
        self.seconds = 0.0

    def __len__(self) -> int:
        """Return how many reads are under way or wait for their turn."""
        return len(self._line)

    def _full(self, own: bool) -> Problem:
        self.refused["caller" if own else "process"] += 1
        return too_many_reads(self.limits.per_caller) if own else busy()

    async def read(
        self, user: str, ask: Callable[[Snapshot], _T], *, begun: bool = False
    ) -> tuple[_T, Watermark]:
        """Ask the projections something, when it is the caller's turn.

        Args:
            user: Who asks.
            ask: Asks a view that is whole, in another thread.
            begun: Whether it goes on with an answer that has begun: that is not refused.

        Returns:
            The answer, and what the projections held.

        Raises:
            Problem: 429 or 503 where too many wait, 503 where it takes too long or the projections
                can't be read; what `ask` raises.
        """
        return await self._in_turn(user, partial(self._ask, ask), begun=begun)

    async def beside(self, user: str, work: Callable[[Callable[[], bool]], _T]) -> _T:
        """Do something else that takes long, when it is the caller's turn.

        Args:
            user: Who asks.
            work: Is done in another thread; is given what tells whether it has to end.

        Raises:
            Problem: As `read`; what `work` raises, but for `TooLong`.
        """
        return await self._in_turn(user, lambda read: work(read.is_over))

    async def _in_turn(self, user: str, work: Callable[[_Read], _T], *, begun: bool = False) -> _T:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(None if begun else self.limits.deadline):
                await self._line.enter(user, begun=begun)
        except TimeoutError:
            self.refused["deadline"] += 1
            raise busy() from None
        read = _Read(time.monotonic() + self.limits.seconds)
        future = loop.run_in_executor(self._thread, _measured, read, work)
        # The thread is not free before it has ended, whoever may have gone away.
        future.add_done_callback(partial(self._done, user, read))
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            read.left = True
            raise
        except TooLong:
            self.refused["deadline"] += 1
            raise read_too_long(self.limits.seconds) from None

    def _ask(self, ask: Callable[[Snapshot], _T], read: _Read) -> tuple[_T, Watermark]:
        with self._store.snapshot() as snapshot:
            snapshot.meter.is_over = read.is_over
            with snapshot.meter:
                return ask(snapshot), snapshot.watermark

    def _done(self, user: str, read: _Read, future: asyncio.Future[object]) -> None:
        if not future.cancelled():
            future.exception()
        self.seconds += read.cost
        self._rate.charge(user, read.cost / _PRICE)
        self._line.leave(user, read.cost)

    def is_brief(self, user: str, filters: Filters, skip: int) -> bool:
        """Tell whether a search is worth a try on the event loop.

        Args:
            user: Who asks.
            filters: What for.
            skip: How many matches are passed over.
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
        """Take in that a search was tried on the event loop in vain: its caller pays for that."""
        if len(self._too_long) >= _REMEMBERED:
            del self._too_long[next(iter(self._too_long))]
        self._too_long[_kind(user, filters, skip)] = time.monotonic() + _NOT_TRIED
        self._rate.charge(user, _TRY / _PRICE)

    def close(self) -> None:
        """Wait for what is being read, then let go of the projections."""
        self._thread.shutdown(wait=True, cancel_futures=True)
        self._store.close()


def _kind(user: str, filters: Filters, skip: int) -> _Kind:
    """Return what searches of a caller have in common that take about as long."""
    return user, skip > 0, *(value is not None and value != () for value in filters)


def _measured(read: _Read, work: Callable[[_Read], _T]) -> _T:
    began = time.thread_time()
    try:
        return work(read)
    finally:
        read.cost = time.thread_time() - began
