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
            start: The first offset per partition.
            end: The offset to stop before, per partition; not behind `ends()`.

        Returns:
            Batches of `schemas.RECORDS`, each of one partition, ordered by offset within a
            partition, without a gap; partitions follow one another in any order, also mixed.

        Raises:
            LogGapError: Offsets of the range are missing.
            LogUnavailable: The log does not answer.
        """

    def close(self) -> None:
        """Let go of connections and files."""
