"""An archive as a source of records."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from operator import attrgetter
from typing import Self

import pyarrow as pa

from jobtrail.core.errors import ArchiveError
from jobtrail.replay.archive.checking import ascend, behind
from jobtrail.replay.archive.description import Archive, Span, missing
from jobtrail.replay.archive.segment_files import damaged, read_file
from jobtrail.replay.sources.holes import Hole, Holes


class ArchiveSource:
    """Reads an archive (a `Source`), a row group at a time, from the files that a range lies in.

    Args:
        archive: The archive; what is added to it is seen after `refresh`.
        holes: What to do where records are missing; None: stop.
    """

    def __init__(self, archive: Archive, holes: Holes | None = None) -> None:
        self.archive = archive
        self._holes = holes or Holes()

    @classmethod
    def open(cls, location: str, holes: Holes | None = None) -> Self:
        """Open the archive in a folder or at `s3://bucket/prefix`.

        Args:
            location: Where it lies.
            holes: What to do where records are missing; None: stop.

        Raises:
            ArchiveError: There is none, or it can't be read.
        """
        return cls(Archive.open(location), holes)

    @property
    def name(self) -> str:
        """The topic and where its archive lies."""
        return f"{self.archive.description.topic} in {self.archive.store.location}"

    def begins(self) -> dict[int, int]:
        """Return the first offset of each partition: where the log began when this was made."""
        return self.archive.begins()

    def ends(self) -> dict[int, int]:
        """Return the offset behind the last record of each partition."""
        return self.archive.ends()

    def until(self, partition: int, offset: int) -> int:
        """Return where the records that lie from an offset on without a gap end.

        Args:
            partition: The partition.
            offset: The first offset; it is returned where the archive does not hold it.
        """
        spans = self.archive.spans[partition]
        for span in spans[max(_place(spans, offset), 0) :]:
            if not span.first <= offset <= span.last:
                break
            offset = span.last + 1
        return offset

    def following(self, partition: int, offset: int) -> int | None:
        """Return where the next segment behind an offset begins; None where there is none."""
        spans = self.archive.spans[partition]
        place = _place(spans, offset) + 1
        return spans[place].first if place < len(spans) else None

    def read(self, start: Mapping[int, int], end: Mapping[int, int]) -> Iterator[pa.RecordBatch]:
        """Read a range of each partition, one partition behind the other; see `Source`.

        Raises:
            LogGapError: The archive does not hold all of it.
            ArchiveError: A file is damaged or missing.
        """
        begins = self.begins()
        ranges = {p: (start.get(p, begins[p]), last) for p, last in sorted(end.items())}
        for partition, (first, last) in ranges.items():
            for hole in missing(partition, self.archive.spans[partition], first, last):
                self._meet(hole)
        for partition, (first, last) in ranges.items():
            yield from self._partition(partition, first, last)

    def close(self) -> None:
        """Nothing is held open between two reads."""

    def _meet(self, hole: Span) -> None:
        self._holes.meet(
            Hole(*hole),
            "The archive does not hold some of the records.",
            where=f"{self.archive.store.location}, ",
            found="no segment that has them",
            hint="Run `jobtrail archive` while the log still has them, or read the archive "
            "together with the log.",
        )

    def _partition(self, partition: int, at: int, end: int) -> Iterator[pa.RecordBatch]:
        while at < end:
            if self.until(partition, at) == at:
                # A hole that was passed over.
                following = self.following(partition, at)
                at = end if following is None else min(following, end)
                continue
            spans = self.archive.spans[partition]
            span = spans[_place(spans, at)]
            upto = min(end, span.last + 1)
            try:
                for batch in self._records(span, at, upto):
                    yield batch
                    at = behind(batch)
                at = upto
            except (FileNotFoundError, ArchiveError) as error:
                # A longer segment may have taken its place, and the file is deleted.
                self.archive.refresh()
                if span not in self.archive.spans[partition] and at < self.until(partition, at):
                    continue
                if isinstance(error, ArchiveError):
                    raise
                raise damaged(self.archive.store, span.manifest, str(error)) from error

    def _records(self, span: Span, at: int, end: int) -> Iterator[pa.RecordBatch]:
        """Read a part of one segment, and check that these are the records that it should hold."""
        manifest = self.archive.manifest(span)
        for first, last in manifest.holes or ():
            if first < end and last >= at:
                self._meet(Span(span.partition, first, last))
        begin, count = at, 0
        for batch in read_file(self.archive.store, manifest.file, manifest.held, at, end):
            if not ascend(batch, span.partition, at, end):
                raise damaged(
                    self.archive.store, manifest.file, f"other records than offset {at} and on"
                )
            at = behind(batch)
            count += len(batch)
            yield batch
        if count < end - begin - manifest.held.without:
            raise damaged(
                self.archive.store, manifest.file, f"{count} records from offset {begin} to {end}"
            )


def _place(spans: list[Span], offset: int) -> int:
    """Return which segment is the last to begin at or before an offset; -1 where none does."""
    return bisect_right(spans, offset, key=attrgetter("first")) - 1
