"""An archive and the log that it is of, read as one: no seam, no gap, no record twice."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from jobtrail.core.errors import ArchiveError
from jobtrail.replay.archive.content import Content
from jobtrail.replay.archive.description import Span
from jobtrail.replay.archive.reading import ArchiveSource
from jobtrail.replay.sources.holes import Hole, Holes
from jobtrail.replay.sources.source import Log, Source

#: How many records are compared at either end of what both hold.
_COMPARED: Final = 100


class JoinedSource:
    """Reads from the archive what it holds, and the rest from the log (a `Source`).

    So the cluster is asked only for what is not archived yet. Archive and log are read again
    for every stretch: records that move from one to the other while somebody reads are not missed.

    Args:
        archive: The archive.
        log: The log that it is of.
        holes: What to do where neither has some of the records; None: stop.

    Raises:
        ArchiveError: The archive is of another log.
    """

    def __init__(self, archive: ArchiveSource, log: Log, holes: Holes | None = None) -> None:
        check_same(archive, log)
        self._holes = holes or Holes()
        self._archive = archive
        self._log = log

    @property
    def name(self) -> str:
        """The log, and where its archive lies."""
        return f"{self._log.name} and its archive in {self._archive.archive.store.location}"

    def begins(self) -> dict[int, int]:
        """Return the first offset of each partition that either has."""
        log = self._log.begins()
        return {p: min(begin, log[p]) for p, begin in self._archive.begins().items()}

    def ends(self) -> dict[int, int]:
        """Return the offset behind the last record of each partition."""
        log = self._log.ends()
        return {p: max(end, log[p]) for p, end in self._archive.ends().items()}

    def read(self, start: Mapping[int, int], end: Mapping[int, int]) -> Iterator[pa.RecordBatch]:
        """Read a range of each partition; see `Source`.

        Raises:
            LogGapError: Neither has some of the records.
            ArchiveError: A file of the archive is damaged or missing.
            LogUnavailable: The log does not answer.
        """
        begins = self.begins() if end.keys() - start.keys() else {}
        at = {p: start.get(p, begins.get(p, 0)) for p in end}
        while rest := {p: end[p] for p in at if at[p] < end[p]}:
            self._archive.archive.refresh()
            begins = self._log.begins()
            stretches = [self._stretch(Span(p, at[p], rest[p] - 1), begins[p]) for p in rest]
            for source, archived in ((self._archive, True), (self._log, False)):
                upto = {s.partition: s.end for s in stretches if s.archived is archived}
                if upto:
                    yield from source.read({p: at[p] for p in upto}, upto)
                    at |= upto
            at |= {s.partition: s.end for s in stretches if s.archived is None}

    def close(self) -> None:
        """Let go of both."""
        self._archive.close()
        self._log.close()

    def _stretch(self, wanted: Span, log_begins: int) -> _Stretch:
        """Return where the first records of a range lie, and up to where they lie there."""
        partition, at, _ = wanted
        end = wanted.last + 1
        if (until := self._archive.until(partition, at)) > at:
            return _Stretch(partition, min(until, end), archived=True)
        following = self._archive.following(partition, at)
        until = end if following is None else min(following, end)
        if at < log_begins:
            lost = min(until, log_begins) - 1
            self._holes.meet(
                Hole(partition, at, lost),
                "Neither the archive nor the log has some of the records.",
                found=f"a log that begins at offset {log_begins}",
                hint=f"Read from offset {lost + 1} on, or up to {at}. Archive more often than the "
                "log's retention deletes.",
            )
            return _Stretch(partition, lost + 1, archived=None)
        return _Stretch(partition, until, archived=False)


class _Stretch(NamedTuple):
    """The next records of a partition that lie in one place."""

    partition: int
    #: The offset behind them.
    end: int
    #: Whether they are in the archive; else in the log; None: in neither, which is passed over.
    archived: bool | None


def check_same(archive: ArchiveSource, log: Log) -> None:
    """Check that an archive is of a log, by the records at both ends of what both hold.

    Args:
        archive: The archive.
        log: What may be its log.

    Raises:
        ArchiveError: They have other partitions, the log ends before the archive does, or they
            hold other records at the same offsets.
    """
    begins, ends = archive.begins(), archive.ends()
    log_begins, log_ends = log.begins(), log.ends()
    where = archive.archive.store.location
    if begins.keys() != log_begins.keys():
        raise _another(where, f"{len(begins)} partitions", f"{len(log_begins)}")
    for partition, end in ends.items():
        if log_ends[partition] < end:
            raise _another(
                f"{where}, partition {partition}",
                f"a log that ends at offset {end} or behind it",
                f"one that ends at {log_ends[partition]}",
            )
    heads, tails = {}, {}
    for partition, end in ends.items():
        first = max(begins[partition], log_begins[partition])
        # From where the archive has no gap: a gap may be there that the log does not have.
        head = min(archive.until(partition, first), first + _COMPARED)
        last = archive.archive.spans[partition][-1:]
        tail = max([first, end - _COMPARED, *(span.first for span in last)])
        if first < head:
            heads[partition] = (first, head)
        if tail < end:
            tails[partition] = (tail, end)
    for ranges in (heads, tails):
        kept, found = _hashes(archive, ranges), _hashes(log, ranges)
        for partition, (first, end) in ranges.items():
            same = kept[partition] == found[partition] or (
                log.is_compacted() and _is_left(archive, log, Span(partition, first, end - 1))
            )
            if not same:
                raise _another(
                    f"{where}, partition {partition}",
                    f"at offsets {first} to {end - 1} the records {kept[partition]}",
                    found[partition],
                )


def _hashes(source: Source, ranges: Mapping[int, tuple[int, int]]) -> dict[int, str]:
    """Return the hash of the records of a range per partition."""
    contents = {partition: Content(partition) for partition in ranges}
    if ranges:
        start = {partition: first for partition, (first, _) in ranges.items()}
        end = {partition: end for partition, (_, end) in ranges.items()}
        for batch in source.read(start, end):
            contents[batch["partition"][0].as_py()].add(batch)
    return {partition: content.digest() for partition, content in contents.items()}


def _is_left(archive: ArchiveSource, log: Source, range_: Span) -> bool:
    """Tell whether what the log has of a small range is what compaction left of the archive's."""
    partition, first, last = range_
    left = list(log.read({partition: first}, {partition: last + 1}))
    kept, found = Content(partition), Content(partition)
    for batch in left:
        found.add(batch)
    there = pa.array([n for batch in left for n in batch["offset"].to_pylist()], pa.int64())
    for batch in archive.read({partition: first}, {partition: last + 1}):
        kept.add(batch.filter(pc.is_in(batch["offset"], value_set=there)))
    return kept.digest() == found.digest()


def _another(where: str, expected: str, found: str) -> ArchiveError:
    return ArchiveError(
        "The archive is of another log.",
        where=where,
        expected=expected,
        found=found,
        hint="Name the log that it is of, or another archive. After a loss of the log's end, keep "
        "the archive and begin another one.",
    )
