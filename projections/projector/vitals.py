"""What a projector does and how it fares: for its health endpoint, which only reads it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from jobtrail.core.errors import FencedError, StoreError
from projections.ports.write import Beat, Checkpoint, FoldedBatch, Tally
from projections.sqlite.write.writer import SqliteWriter


class Progress:
    """Since when each partition stays where it is, with something to apply.

    Args:
        stalled_after: Seconds of that which are too long.
        clock: Seconds that only go up.
    """

    def __init__(self, stalled_after: float, clock: Callable[[], float] = time.monotonic) -> None:
        #: Seconds.
        self.stalled_after = stalled_after
        self._clock = clock
        self._moved: dict[int, tuple[int, float]] = {}
        self._stays: frozenset[int] = frozenset()
        #: Per partition the next offset to apply, and where the log ends, as of the last look.
        self.next_offsets: dict[int, int] = {}
        self.ends: dict[int, int] = {}

    def forget(self) -> None:
        """Count from now on."""
        self._moved.clear()
        self._stays = frozenset()

    def note(
        self, checkpoints: Mapping[int, Checkpoint], ends: Mapping[int, int], counted: set[int]
    ) -> None:
        """Take in a look at the store and the log.

        Args:
            checkpoints: Per partition how far the store is; read before the ends.
            ends: Per partition where the log ends.
            counted: The partitions that should get on.
        """
        now = self._clock()
        self.next_offsets = {p: at.next_offset for p, at in checkpoints.items()}
        self.ends = dict(ends)
        stays = set()
        for partition, offset in self.next_offsets.items():
            at, _ = self._moved.get(partition, (-1, now))
            if at != offset or offset >= ends.get(partition, 0) or partition not in counted:
                self._moved[partition] = (offset, now)
            else:
                stays.add(partition)
        self._stays = frozenset(stays)

    def still_for(self) -> dict[int, float]:
        """Return by partition for how many seconds it stays, with something to apply."""
        now = self._clock()
        return {p: now - self._moved[p][1] for p in self._stays}

    def stuck(self) -> str | None:
        """Return why a partition counts as stuck, None where none does."""
        for partition, seconds in sorted(self.still_for().items()):
            if seconds > self.stalled_after:
                return (
                    f"partition {partition} stays at offset {self.next_offsets[partition]}, the "
                    f"log ends at {self.ends[partition]}, nothing was applied for {seconds:.0f} s"
                )
        return None


class Vitals:
    """What is known of a projector.

    Args:
        stalled_after: Seconds without progress, with events to apply, that are too long.
    """

    def __init__(self, stalled_after: float) -> None:
        self.progress = Progress(stalled_after)
        #: Set once the process is told to stop.
        self.draining = asyncio.Event()
        #: Whether the log has answered when it was asked last.
        self.log_answers = False
        #: Records that this process has applied, by how they were judged.
        self.tally = Tally()
        #: When it last has written some. Unix seconds; 0 for never.
        self.applied_at = 0.0
        #: When it last said in the store that it lives. Seconds of `time.monotonic`; None: not yet.
        self.beaten_at: float | None = None
        #: Why the store could not be written the last time; empty where it could.
        self.store_fault = ""
        #: Set when the projector is there.
        self.assigned: Callable[[], set[int]] = set
        self.stopped: Callable[[], Mapping[int, str]] = dict
        self.rebalances: Callable[[], int] = int


class MeteredWriter(SqliteWriter):
    """A store that notes what is written to it, and whether it can be.

    Args:
        folder: The store.
        vitals: Where it is noted. The store's thread writes there, one call at a time.

    Raises:
        StoreError: A file is missing or can't be opened.
    """

    def __init__(self, folder: Path, vitals: Vitals) -> None:
        super().__init__(folder)
        self._vitals = vitals

    def apply(self, batches: Sequence[FoldedBatch]) -> None:
        """Write batches and move their partitions' checkpoints, in one transaction.

        Args:
            batches: One or more, of partitions of the same shard.

        Raises:
            FencedError: The stored checkpoint of one is not its `start`; nothing was written.
            StoreError: The store can't be written; nothing was written.
        """
        vitals = self._vitals
        try:
            super().apply(batches)
        except FencedError:
            # It can be written: another projector has.
            raise
        except StoreError as error:
            vitals.store_fault = error.what
            raise
        vitals.store_fault = ""
        vitals.applied_at = time.time()
        for batch in batches:
            vitals.tally = Tally(*map(sum, zip(vitals.tally, batch.tally, strict=True)))
            vitals.progress.next_offsets[batch.partition] = batch.next_offset

    def beat(self, beats: Mapping[int, Beat]) -> None:
        """Say that a projector lives, and how far it is.

        Raises:
            StoreError: A shard can't be written.
        """
        try:
            super().beat(beats)
        except StoreError as error:
            self._vitals.store_fault = error.what
            raise
        if beats:
            self._vitals.store_fault = ""
            self._vitals.beaten_at = time.monotonic()
