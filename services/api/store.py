"""The service's access to the projections.

A service may start before the first projector has made a store, and outlive a store that is
replaced. So the reader is opened at the first read, and again after a read that failed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType

from jobtrail.core.errors import StoreError, StoreNotReady
from projections.ports.meter import Meter
from projections.ports.read import ProjectionReader, Snapshot, Watermark
from services.api.problems.problems import Problem, recovering, store_unavailable

logger = logging.getLogger(__name__)


class Store:
    """Reads the projections. A snapshot must not be kept over an await.

    All requests of one turn of the event loop are answered from one snapshot: opening and closing
    one takes a tenth of a small answer's time. It is as fresh as one of their own: what they ask
    arrived before the turn began.

    Args:
        open_reader: Opens the store; raises StoreError while it can't be.
        judge: Returns a watermark in which partitions of another log count as recovering.
        meter: Bounds what is read; None: nothing does.
    """

    def __init__(
        self,
        open_reader: Callable[[], ProjectionReader],
        judge: Callable[[Watermark], Watermark] = lambda watermark: watermark,
        meter: Meter | None = None,
    ) -> None:
        self._open = open_reader
        self._judge = judge
        self._meter = meter
        self._reader: ProjectionReader | None = None
        #: They keep nothing of who uses them.
        self._whole, self._some = _Answering(self, whole=True), _Answering(self, whole=False)
        #: Of this turn: what closes the snapshot, and the snapshot.
        self._turn: tuple[AbstractContextManager[Snapshot], Snapshot] | None = None

    @property
    def partitions(self) -> int:
        """How many partitions the folded log has; a snapshot must have been opened before."""
        assert self._reader is not None, "no snapshot was opened yet"
        return self._reader.partitions

    @contextmanager
    def view(self, *, judged: bool = True) -> Iterator[Snapshot]:
        """Open a consistent view as of now, of a store that may be recovering.

        Args:
            judged: Whether what is of another log counts as recovering.

        Raises:
            StoreError: It can't be read.
        """
        self._end_turn()
        try:
            with self._ready_reader().snapshot() as snapshot:
                if judged:
                    snapshot.held = self._judge(snapshot.held)
                yield snapshot
        except StoreError:
            self.close()
            raise

    def snapshot(self) -> AbstractContextManager[Snapshot]:
        """Open a consistent view that any question can be answered from truly.

        Raises:
            Problem: 503, where there is none at the moment.
        """
        return self._whole

    def some(self) -> AbstractContextManager[Snapshot]:
        """Open a consistent view, of which some partitions may be recovering.

        Raises:
            Problem: 503, where there is none at the moment.
        """
        return self._some

    def of_this_turn(self) -> Snapshot:
        """Return the snapshot of this turn of the event loop, opened by the first who asks.

        Raises:
            StoreError: It can't be read.
        """
        if self._turn is None:
            opened = self._ready_reader().snapshot()
            try:
                snapshot = opened.__enter__()
            except StoreError:
                self.close()
                raise
            snapshot.held = self._judge(snapshot.held)
            self._turn = (opened, snapshot)
            asyncio.get_running_loop().call_soon(self._end_turn, opened)
        return self._turn[1]

    def fail(
        self, kind: type[BaseException] | None, error: BaseException, trace: TracebackType | None
    ) -> None:
        """Close the snapshot of this turn: something went wrong while it was read.

        Raises:
            StoreError: It can't be read.
        """
        turn, self._turn = self._turn, None
        try:
            if turn is not None:
                turn[0].__exit__(kind, error, trace)
        except StoreError:
            self.close()
            raise
        if isinstance(error, StoreError):
            self.close()

    def close(self) -> None:
        """Close the store; the next read opens it again."""
        self._turn = None
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def _ready_reader(self) -> ProjectionReader:
        """Return the reader, opened again if it was closed."""
        if self._reader is None:
            self._reader = self._open()
            if self._meter is not None:
                self._reader.meter = self._meter
        return self._reader

    def _end_turn(self, opened: AbstractContextManager[Snapshot] | None = None) -> None:
        """Close the snapshot of this turn, where there is one, and it is this one."""
        turn = self._turn
        if turn is None or opened not in (None, turn[0]):
            return
        self._turn = None
        try:
            turn[0].__exit__(None, None, None)
        except StoreError as error:
            logger.error("action=store_reopen %s", error)
            self.close()


class _Answering:
    """The snapshot of this turn; a store that can't be answered from is a problem.

    No generator: one would cost each request 3 us.
    """

    __slots__ = ("_store", "_whole")

    def __init__(self, store: Store, *, whole: bool) -> None:
        self._store = store
        self._whole = whole

    def __enter__(self) -> Snapshot:
        try:
            snapshot = self._store.of_this_turn()
        except StoreError as error:
            raise as_problem(error) from error
        if self._whole and snapshot.held.recovering:
            raise is_recovering(snapshot.held)
        return snapshot

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            return
        try:
            self._store.fail(kind, error, trace)
        except StoreError as found:
            raise as_problem(found) from found
        if isinstance(error, StoreError):
            raise as_problem(error) from error


def as_problem(error: StoreError) -> Problem:
    """Return the answer where a store can't be read."""
    if isinstance(error, StoreNotReady):
        return recovering("The projections are about to be made.", str(error))
    return store_unavailable(str(error))


def is_recovering(watermark: Watermark) -> Problem:
    """Return the answer to what can't be read from these projections yet."""
    reasons = {watermark.stopped[p] for p in watermark.recovering if p in watermark.stopped}
    if reasons:
        return recovering(" ".join(sorted(reasons)))
    return recovering(
        f"{len(watermark.recovering)} of {len(watermark.position)} partitions are being folded "
        "again from the log. No partial answer is given."
    )
