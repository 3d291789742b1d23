"""The service's access to the projections.

A service may start before the first projector has made a store, and outlive a store that is
replaced. So the reader is opened at the first read, and again after a read that failed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import NamedTuple

from jobtrail.core.errors import StoreError, StoreNotReady
from projections.ports.meter import Meter
from projections.ports.read import ProjectionReader, Snapshot, Watermark
from services.api.problems.problems import Problem, recovering, store_unavailable

logger = logging.getLogger(__name__)


class Store:
    """Reads the projections. A snapshot must not be kept over an await.

    On an event loop, all that is read in one turn of the loop comes from one snapshot: opening and
    closing one takes a tenth of a small answer's time. It is fresh enough for each of them: their
    requests arrived before the turn began. In a thread without an event loop each snapshot is
    opened and closed by itself.

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
        # Made once: they have no state of their own.
        self._complete = _StoreSnapshot(self, allow_recovering=False)
        self._any = _StoreSnapshot(self, allow_recovering=True)
        self._current: _Current | None = None

    @property
    def partitions(self) -> int:
        """How many partitions the folded log has. Available once a snapshot was opened."""
        assert self._reader is not None, "no snapshot was opened yet"
        return self._reader.partitions

    def snapshot(self, *, allow_recovering: bool = False) -> AbstractContextManager[Snapshot]:
        """Open a consistent view of the projections.

        Args:
            allow_recovering: Whether partitions may be recovering; the snapshot's watermark says
                which are.

        Raises:
            Problem: 503: the store can't be read, then the StoreError is the problem's cause; or
                partitions are recovering and may not be.
        """
        return self._any if allow_recovering else self._complete

    def enter(self) -> Snapshot:
        """Return the current snapshot, opened by the first who asks; for `_StoreSnapshot`.

        Raises:
            StoreError: The store can't be read.
        """
        if self._current is None:
            manager = self._ready_reader().snapshot()
            try:
                snapshot = manager.__enter__()
            except StoreError:
                self.close()
                raise
            snapshot.watermark = self._judge(snapshot.watermark)
            try:
                asyncio.get_running_loop().call_soon(self._end_turn, manager)
                is_shared = True
            except RuntimeError:
                is_shared = False
            self._current = _Current(manager, snapshot, is_shared)
        return self._current.snapshot

    def leave(self) -> None:
        """Close the current snapshot, unless the event loop does at the end of its turn.

        Raises:
            StoreError: The store can't be read.
        """
        if self._current is not None and not self._current.is_shared:
            self.fail(None, None, None)

    def fail(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the current snapshot at once, as after an error.

        Raises:
            StoreError: The store can't be read.
        """
        current, self._current = self._current, None
        try:
            if current is not None:
                current.manager.__exit__(kind, error, trace)
        except StoreError:
            self.close()
            raise
        if isinstance(error, StoreError):
            self.close()

    def close(self) -> None:
        """Close the store; the next read opens it again."""
        self._current = None
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

    def _end_turn(self, manager: AbstractContextManager[Snapshot]) -> None:
        """Close the snapshot of this turn, where it is still open."""
        if self._current is None or self._current.manager is not manager:
            return
        try:
            self.fail(None, None, None)
        except StoreError as error:
            logger.error("action=store_reopen %s", error)


class _Current(NamedTuple):
    """The snapshot that is open."""

    #: Closes it.
    manager: AbstractContextManager[Snapshot]
    snapshot: Snapshot
    #: Whether it lasts until the end of this turn of the event loop.
    is_shared: bool


class _StoreSnapshot:
    """Enters and leaves the current snapshot; a store that can't be read is a problem.

    Not a generator: that would cost each request 3 us.
    """

    __slots__ = ("_allow_recovering", "_store")

    def __init__(self, store: Store, *, allow_recovering: bool) -> None:
        self._store = store
        self._allow_recovering = allow_recovering

    def __enter__(self) -> Snapshot:
        try:
            snapshot = self._store.enter()
            if self._allow_recovering or not snapshot.watermark.recovering:
                return snapshot
            self._store.leave()
        except StoreError as error:
            raise as_problem(error) from error
        raise is_recovering(snapshot.watermark)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                self._store.leave()
            else:
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
