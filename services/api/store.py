"""The service's one way to the projections: opened when they are there, and never read untruly.

A service may start before its first projector has made a store, and outlive a store that was
replaced; so the reader is opened at the first read, and anew after one that failed.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType

from jobtrail.errors import StoreError, StoreNotReady
from projections.reading import Held, ProjectionReader, Snapshot
from services.api.problems import Problem, recovering, store_unavailable


class Store:
    """Reads the projections. A snapshot must not be held over an await.

    Args:
        open_reader: Opens the store; raises StoreError while it can't be.
    """

    def __init__(self, open_reader: Callable[[], ProjectionReader]) -> None:
        self._open = open_reader
        self._reader: ProjectionReader | None = None

    @property
    def partitions(self) -> int:
        """How many partitions the folded log has. Known once a snapshot was opened."""
        assert self._reader is not None, "no snapshot was opened yet"
        return self._reader.partitions

    def view(self) -> AbstractContextManager[Snapshot]:
        """Open a consistent view, of a store that may be recovering.

        Raises:
            StoreError: It can't be read.
        """
        return _View(self)

    def snapshot(self) -> AbstractContextManager[Snapshot]:
        """Open a consistent view that any question can be answered from truly.

        Raises:
            Problem: 503, where there is none at the moment.
        """
        return _Answering(self, whole=True)

    def some(self) -> AbstractContextManager[Snapshot]:
        """Open a consistent view, of which some partitions may be recovering.

        Raises:
            Problem: 503, where there is none at the moment.
        """
        return _Answering(self, whole=False)

    def reader(self) -> ProjectionReader:
        """Return the projections, opened anew where they were let go of.

        Raises:
            StoreError: They can't be opened.
        """
        if self._reader is None:
            self._reader = self._open()
        return self._reader

    def close(self) -> None:
        """Let go of the store; the next read opens it again."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None


class _View:
    """A view of the projections, which are let go of when they can't be read.

    These two are no generators: those would cost each request 5 us.
    """

    __slots__ = ("_opened", "_store")

    def __init__(self, store: Store) -> None:
        self._store = store
        self._opened: AbstractContextManager[Snapshot] | None = None

    def __enter__(self) -> Snapshot:
        opened = self._store.reader().snapshot()
        try:
            snapshot = opened.__enter__()
        except StoreError:
            self._store.close()
            raise
        self._opened = opened
        return snapshot

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._opened is not None
        try:
            self._opened.__exit__(kind, error, trace)
        except StoreError:
            self._store.close()
            raise
        if isinstance(error, StoreError):
            self._store.close()


class _Answering(_View):
    """The same, and a store that can't be answered from is a problem."""

    __slots__ = ("_whole",)

    def __init__(self, store: Store, *, whole: bool) -> None:
        super().__init__(store)
        self._whole = whole

    def __enter__(self) -> Snapshot:
        try:
            snapshot = super().__enter__()
        except StoreError as error:
            raise _problem(error) from error
        if self._whole and snapshot.held.recovering:
            self.__exit__(None, None, None)
            raise is_recovering(snapshot.held)
        return snapshot

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            super().__exit__(kind, error, trace)
        except StoreError as found:
            raise _problem(found) from found
        if isinstance(error, StoreError):
            raise _problem(error) from error


def _problem(error: StoreError) -> Problem:
    if isinstance(error, StoreNotReady):
        return recovering("The projections are about to be made.", str(error))
    return store_unavailable(str(error))


def is_recovering(held: Held) -> Problem:
    """Return the answer to what can't be read from these projections yet."""
    return recovering(
        f"{len(held.recovering)} of {len(held.position)} partitions are being folded anew from "
        "the log. No partial answer is given."
    )
