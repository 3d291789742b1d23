"""The service's one way to the projections: opened when they are there, and never read untruly.

A service may start before its first projector has made a store, and outlive a store that was
replaced; so the reader is opened at the first read, and anew after one that failed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

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

    @contextlib.contextmanager
    def view(self) -> Iterator[Snapshot]:
        """Open a consistent view, of a store that may be recovering.

        Raises:
            StoreError: It can't be read.
        """
        if self._reader is None:
            self._reader = self._open()
        try:
            with self._reader.snapshot() as snapshot:
                yield snapshot
        except StoreError:
            self.close()
            raise

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[Snapshot]:
        """Open a consistent view that any question can be answered from truly.

        Raises:
            Problem: 503, where there is none at the moment.
        """
        with self.some() as snapshot:
            if snapshot.held.recovering:
                raise is_recovering(snapshot.held)
            yield snapshot

    @contextlib.contextmanager
    def some(self) -> Iterator[Snapshot]:
        """Open a consistent view, of which some partitions may be recovering.

        Raises:
            Problem: 503, where there is none at the moment.
        """
        try:
            with self.view() as snapshot:
                yield snapshot
        except StoreNotReady as error:
            raise recovering("The projections are about to be made.", str(error)) from error
        except StoreError as error:
            raise store_unavailable(str(error)) from error

    def close(self) -> None:
        """Let go of the store; the next read opens it again."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None


def is_recovering(held: Held) -> Problem:
    """Return the answer to what can't be read from these projections yet."""
    return recovering(
        f"{len(held.recovering)} of {len(held.position)} partitions are being folded anew from "
        "the log. No partial answer is given."
    )
