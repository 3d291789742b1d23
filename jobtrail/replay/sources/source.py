"""What replay reads from: the log in Kafka, an archive of it, or both as one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

import pyarrow as pa


class Source(Protocol):
    """Records of the log, by partition and offset."""

    @property
    def name(self) -> str:
        """What it is called, for people."""

    def begins(self) -> dict[int, int]:
        """Return the first offset that can be read, per partition; every partition is named."""

    def ends(self) -> dict[int, int]:
        """Return the offset behind the last one, per partition: what is there now."""

    def read(self, start: Mapping[int, int], end: Mapping[int, int]) -> Iterator[pa.RecordBatch]:
        """Read a range of each partition.

        Args:
            start: The first offset per partition; one that is not named is read from where it
                begins when it is come to.
            end: The offset to stop before, per partition that is read; not behind `ends()`.

        Returns:
            Batches of `schemas.RECORDS`, each of one partition, ordered by offset within a
            partition; partitions follow one another in any order, also mixed. Where an offset has
            no record, the log accounts for it: a control record, an aborted transaction, or one
            that compaction took out.

        Raises:
            LogGapError: Offsets of the range are missing that nothing accounts for.
            LogUnavailable: The log does not answer.
        """

    def close(self) -> None:
        """Let go of connections and files."""


class Log(Source, Protocol):
    """The log itself."""

    def is_compacted(self) -> bool:
        """Tell whether it may have fewer records of a range later than it has now."""
