"""The write side of the store in memory."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager

from jobtrail.core.errors import FencedError, StoreError
from jobtrail.core.trail import ENTRY_BYTES, Elsewhere, trail_has
from projections.memory.store import MemoryStore, Partition
from projections.ports.write import Batch, Beat, Checkpoint, Entry


class MemoryWriter:
    """A projector's hold on a store; see `projections.ports.write.ProjectionWriter`."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    @property
    def reads_at_once(self) -> bool:
        """A read waits for nobody, so it costs no more than it does in a thread."""
        return True

    def checkpoints(self) -> dict[int, Checkpoint]:
        """Return every partition's checkpoint."""
        return {number: part.checkpoint for number, part in self._store.partitions.items()}

    def load(self, partition: int, ids: Iterable[str]) -> dict[str, Entry]:
        """Return those of these jobs of a partition that are stored."""
        part = self._store.partitions[partition]
        return {
            job_id: Entry(part.jobs[job_id].with_last_entries, stored=part.generation)
            for job_id in ids
            if job_id in part.jobs
        }

    def seen(self, partition: int, entry: Entry, keys: Collection[bytes]) -> Set[bytes]:
        """Return those of these keys of events that a job has had before its last entries."""
        earlier = entry.job.earlier
        assert isinstance(earlier, Elsewhere)
        stored = self._store.partitions[partition].jobs.get(entry.job.id)
        trail = stored.trail[: earlier.stored * ENTRY_BYTES] if stored else b""
        return {key for key in keys if trail_has(trail, key)}

    def part_of(self, partition: int) -> int:
        """Return which part of the store holds a partition: each is one of its own."""
        return partition

    def apply(self, batches: Sequence[Batch]) -> None:
        """Write batches and move their partitions' checkpoints: all of it at once.

        Raises:
            FencedError: The stored checkpoint of one is not its `start`; nothing was written.
        """
        with self._changing() as changed:
            for batch in batches:
                changed[batch.partition] = self._part(changed, batch.partition).after(batch)
        for batch in batches:
            for entry in batch.changes:
                entry.stored = changed[batch.partition].generation
                entry.former, entry.handed_on = (), False
                if entry.job.earlier is not None:
                    entry.job.earlier = Elsewhere(entry.job.earlier.entries)

    @contextmanager
    def _changing(self) -> Iterator[dict[int, Partition]]:
        """Take in new values of partitions; where something goes wrong, none of them."""
        with self._store.lock:
            changed: dict[int, Partition] = {}
            yield changed
            self._store.partitions = {**self._store.partitions, **changed}

    def _part(self, changed: Mapping[int, Partition], partition: int) -> Partition:
        part = changed.get(partition) or self._store.partitions.get(partition)
        if part is None:
            raise FencedError(
                "The store has no such partition.",
                where=f"partition {partition}",
                expected=f"one of {len(self._store.partitions)} partitions",
            )
        return part

    def reset(self, partition: int, begins: Mapping[int, int], ends: Mapping[int, int]) -> None:
        """Empty a partition, to be folded again from the log."""
        with self._changing() as changed:
            checkpoint = Checkpoint(begins[partition], None, ends[partition])
            generation = self._part(changed, partition).generation + 1
            changed[partition] = Partition(checkpoint, generation)

    def wait_for_no_more(self, ends: Mapping[int, int]) -> None:
        """Let reads wait for nothing after these offsets: the log has lost what was there."""
        with self._changing() as changed:
            for partition, end in ends.items():
                part = self._part(changed, partition)
                until = min(part.checkpoint.recover_to, end)
                changed[partition] = part._replace(
                    checkpoint=part.checkpoint._replace(recover_to=until)
                )

    def skip(self, partition: int, until: int) -> int:
        """Move a partition's checkpoint over a hole in the log; return where it was.

        Raises:
            StoreError: It is not before `until`.
        """
        with self._changing() as changed:
            part = self._part(changed, partition)
            begin = part.checkpoint.next_offset
            if begin >= until:
                raise StoreError(
                    "There is nothing to skip.",
                    where=f"partition {partition}",
                    expected=f"a checkpoint before offset {until}",
                    found=f"offset {begin}",
                )
            changed[partition] = part._replace(
                checkpoint=part.checkpoint._replace(next_offset=until),
                skipped=(*part.skipped, (begin, until)),
            )
        return begin

    def beat(self, beats: Mapping[int, Beat]) -> None:
        """Say that a projector lives, and how far it is."""
        now = time.time_ns() // 1000
        with self._changing() as changed:
            for partition, beat in beats.items():
                part = self._part(changed, partition)
                proved = max(part.beat.proved, beat.proved)
                changed[partition] = part._replace(beat_at=now, beat=beat._replace(proved=proved))

    def repair(self, begins: Mapping[int, int], ends: Mapping[int, int]) -> list[int]:
        """Return the partitions whose checkpoints may have changed: memory is never damaged."""
        return []

    def rest(self) -> None:
        """Do nothing: what was written can be read fast."""

    def close(self) -> None:
        """Do nothing: the store lives on."""
