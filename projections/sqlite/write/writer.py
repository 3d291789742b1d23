"""The write side of the SQLite store: a batch of one partition is one transaction."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from pathlib import Path
from typing import TypeVar

from projections.ports.write import Beat, Checkpoint, Entry, FoldedBatch
from projections.sqlite.files import schema
from projections.sqlite.write.shard import ShardWriter

_T = TypeVar("_T")


class SqliteWriter:
    """Writes a store for a projector.

    Args:
        folder: The store; `schema.create` has made it.

    Raises:
        StoreError: A file is missing or can't be opened.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._layout = schema.read_layout(folder)
        self._shards = [
            ShardWriter(schema.shard_path(folder, shard)) for shard in range(self._layout.shards)
        ]

    @property
    def reads_at_once(self) -> bool:
        """A file on this machine is read in less time than a thread takes to be asked."""
        return True

    def part_of(self, partition: int) -> int:
        """Return the number of a partition's shard."""
        return partition % self._layout.shards

    def checkpoints(self) -> dict[int, Checkpoint]:
        """Return every partition's checkpoint."""
        found: dict[int, Checkpoint] = {}
        for shard in self._shards:
            found |= shard.checkpoints()
        return found

    def load(self, partition: int, ids: Iterable[str]) -> dict[str, Entry]:
        """Return those of these jobs of a partition that the store has, with their last entries."""
        return self._shards[self.part_of(partition)].load(list(ids))

    def seen(self, partition: int, entry: Entry, keys: Collection[bytes]) -> Set[bytes]:
        """Return those of these keys of events that a job has had before its last entries."""
        return self._shards[self.part_of(partition)].seen(entry, keys)

    def apply(self, batches: Sequence[FoldedBatch]) -> None:
        """Write batches and move their partitions' checkpoints, in one transaction.

        Args:
            batches: One or more, of partitions of the same shard.

        Raises:
            FencedError: The stored checkpoint of one is not its `start`; nothing was written.
            StoreError: The store can't be written; nothing was written.
        """
        (part,) = {self.part_of(batch.partition) for batch in batches}
        self._shards[part].apply(batches)

    def reset(self, partition: int, begins: Mapping[int, int], ends: Mapping[int, int]) -> None:
        """Empty the shard with a partition, to be folded again from the log's beginning."""
        shard = self.part_of(partition)
        self._shards[shard].reset(self._of(shard, begins), self._of(shard, ends))

    def wait_for_no_more(self, ends: Mapping[int, int]) -> None:
        """Let reads wait for no offset after these: the log has lost the records there.

        Raises:
            StoreError: A shard can't be written.
        """
        for number, shard in enumerate(self._shards):
            if mine := self._of(number, ends):
                shard.wait_for_no_more(mine)

    def skip(self, partition: int, until: int) -> int:
        """Move a partition's checkpoint over a hole in the log; return where it was.

        Raises:
            StoreError: It is not before `until`, or the shard can't be written.
        """
        return self._shards[self.part_of(partition)].skip(partition, until)

    def beat(self, beats: Mapping[int, Beat]) -> None:
        """Write a projector's heartbeats.

        Raises:
            StoreError: A shard can't be written.
        """
        for number, shard in enumerate(self._shards):
            if mine := self._of(number, beats):
                shard.beat(mine)

    def repair(self, begins: Mapping[int, int], ends: Mapping[int, int]) -> list[int]:
        """Replace shards that are damaged or missing, or whose file is another one.

        Returns:
            The partitions whose checkpoints may have changed.

        Raises:
            StoreError: That can't be done now.
        """
        changed: list[int] = []
        schema.keep_layout(self._folder, self._layout)
        for number, shard in enumerate(self._shards):
            mine = self._of(number, begins)
            if shard.repair(mine, self._of(number, ends)):
                changed += mine
        return changed

    def _of(self, shard: int, figures: Mapping[int, _T]) -> dict[int, _T]:
        """Return the figures of a shard's partitions."""
        return {p: figure for p, figure in figures.items() if self.part_of(p) == shard}

    def checkpoint_wal(self) -> None:
        """Move what was written from each shard's WAL into its file, so that reads are faster."""
        for shard in self._shards:
            shard.checkpoint_wal()

    def close(self) -> None:
        """Close all files."""
        for shard in self._shards:
            shard.db.close()
