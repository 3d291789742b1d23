"""Writing an archive: which segments are wanting, and each of them once, whole and compared.

Any number of runs may be at work at once: each writes drafts of its own, the names of files hold
their hash, and two runs that wrote the same segment have written the same records.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import chain as joined
from typing import Final, NamedTuple

import pyarrow as pa

from jobtrail.errors import ArchiveError, LogGapError
from jobtrail.replay.archive import (
    DESCRIPTION,
    Archive,
    Description,
    LogName,
    Manifest,
    Span,
    differing,
    file_span,
    read_description,
    write_description,
)
from jobtrail.replay.archive_checking import check_file, check_records, follow
from jobtrail.replay.archive_files import damaged, write_file
from jobtrail.replay.archive_reading import ArchiveSource
from jobtrail.replay.archive_store import DRAFTS, ArchiveStore
from jobtrail.replay.joined import check_same
from jobtrail.replay.source import Source

#: Some megabytes of compressed events: few files for the store, little to do again after a crash.
SEGMENT_RECORDS: Final = 250_000


class Archived(NamedTuple):
    """What a run did."""

    segments: int
    records: int
    #: Of the files that were written.
    file_bytes: int


def open_for(
    store: ArchiveStore, name: LogName, log: Source, segment_records: int = SEGMENT_RECORDS
) -> Archive:
    """Open an archive to add to it; make it where there is none.

    Args:
        store: Where it lies or is to be made.
        name: Which log is to be archived.
        log: That log.
        segment_records: Records of a closed segment, for an archive that is made.

    Raises:
        ArchiveError: The archive is of another log.
    """
    begins = log.begins()
    found = read_description(store)
    if found is None:
        if any(not name.startswith(f"{DRAFTS}/") for name in store.names()):
            raise ArchiveError(
                "There are files in the way of an archive.",
                where=store.location,
                expected=f"an archive, with its {DESCRIPTION}, or nothing at all",
                mend="Name another folder, or put back the description.",
            )
        write_description(
            store,
            Description(
                cluster=name.cluster,
                topic=name.topic,
                partitions=len(begins),
                segment_records=segment_records,
                begins=tuple(begins[partition] for partition in range(len(begins))),
            ),
        )
        found = read_description(store)
        assert found is not None
    kept = {"cluster": found.cluster, "topic": found.topic, "partitions": found.partitions}
    here = {"cluster": name.cluster, "topic": name.topic, "partitions": len(begins)}
    differing(kept, here, store.location)
    archive = Archive(store, found)
    check_same(ArchiveSource(archive), log)
    return archive


class Archiver:
    """Adds to an archive what the log has beyond it.

    Args:
        archive: The archive.
        log: The log that it is of.
        rest: Whether to archive what is behind the last closed segment too.
        past_gap: Whether to go on behind records that neither of them has.
        max_rate: Records a second at most; None for as fast as can be.
    """

    def __init__(
        self,
        archive: Archive,
        log: Source,
        *,
        rest: bool = False,
        past_gap: bool = False,
        max_rate: float | None = None,
    ) -> None:
        self._archive = archive
        self._log = log
        self._past_gap = past_gap
        self._pace = _Pace(max_rate)
        self._begins, self._ends = log.begins(), log.ends()
        self._gap: LogGapError | None = None
        size = archive.description.segment_records
        #: The segments to write, in order, per partition.
        self._wanted = {p: list(self._plan(p, end, size, rest)) for p, end in self._ends.items()}

    @property
    def total(self) -> int:
        """How many records are to be written."""
        return sum(span.length for spans in self._wanted.values() for span in spans)

    def run(self, show: Callable[[int], None]) -> Archived:
        """Write all segments that are wanting.

        Args:
            show: Takes how many records are written.

        Raises:
            LogGapError: The log has lost records that the archive does not hold; what could be
                archived of other partitions is.
            ArchiveError: The archive can't be written, or what was written can't be read back.
        """
        clean(self._archive)
        segments, records, file_bytes = 0, 0, 0
        for spans in self._wanted.values():
            for stream, span in self._streams(spans):
                file_bytes += self._write(span, self._shown(stream, records, show))
                segments, records = segments + 1, records + span.length
        if self._gap is not None:
            raise self._gap
        return Archived(segments, records, file_bytes)

    def _plan(self, partition: int, log_end: int, size: int, rest: bool) -> Iterator[Span]:
        """Yield the segments of a partition that are wanting, and note the first gap."""
        spans = self._archive.spans[partition]
        at = self._archive.description.begins[partition]
        while at < log_end:
            border = (at // size + 1) * size
            held = next((span for span in spans if span.first == at), None)
            behind = at if held is None else held.last + 1
            end = min(border, log_end) if rest else border
            # The next segment may begin within this one, behind a gap.
            if behind < end <= log_end:
                if behind < self._begins[partition]:
                    on = self._behind_gap(partition, behind)
                    if on is None:
                        return
                    at = on
                    continue
                yield Span(partition, at, end - 1)
            at = max(behind, border)

    def _behind_gap(self, partition: int, at: int) -> int | None:
        """Return where it goes on behind a gap that begins at an offset; None: not at all."""
        begin = self._begins[partition]
        later = [span.first for span in self._archive.spans[partition] if span.first > at]
        if later and later[0] <= begin:
            return later[0]  # an earlier run has gone on there
        if self._past_gap:
            return begin
        self._gap = self._gap or LogGapError(
            "The log has lost records that the archive does not hold.",
            where=f"partition {partition}, offsets {at} to {begin - 1}",
            expected=f"a log that begins at or before offset {at}",
            found=f"one that begins at {begin}",
            mend="Archive more often than the log's retention deletes. To go on behind the loss, "
            "say --past-gap: whoever reads over it is told.",
        )
        return None

    def _streams(self, spans: list[Span]) -> Iterator[tuple[Iterator[pa.RecordBatch], Span]]:
        """Yield the records of each segment; those that follow one another come of one read."""
        while spans:
            run = [spans[0]]
            for span in spans[1:]:
                if span.first != run[-1].last + 1:
                    break
                run.append(span)
            spans = spans[len(run) :]
            stream = _Stream(run[0], self._records(run[0].partition, run[0].first, run[-1].last))
            for span in run:
                yield stream.upto(span.last), span

    def _records(self, partition: int, first: int, last: int) -> Iterator[pa.RecordBatch]:
        """Read from the log; what it no longer has of an open segment, from the archive."""
        log_from = min(max(first, self._begins[partition]), last + 1)
        kept: Iterator[pa.RecordBatch] = iter(())
        if first < log_from:
            for span in self._archive.spans[partition]:
                if first <= span.first < log_from:
                    manifest = self._archive.manifest(span)
                    check_file(self._archive.store, manifest.file, manifest)
            kept = ArchiveSource(self._archive).read({partition: first}, {partition: log_from})
        if log_from > last:
            return kept
        return joined(kept, self._log.read({partition: log_from}, {partition: last + 1}))

    def _shown(
        self, stream: Iterator[pa.RecordBatch], done: int, show: Callable[[int], None]
    ) -> Iterator[pa.RecordBatch]:
        for batch in stream:
            yield batch
            done += len(batch)
            show(done)
            self._pace.keep(done)

    def _write(self, span: Span, records: Iterator[pa.RecordBatch]) -> int:
        """Write a segment, compare it, and let it count; return the bytes that it takes."""
        store = self._archive.store
        with store.draft() as (draft, file):
            written = write_file(file, span.partition, records)
        manifest = Manifest(
            partition=span.partition,
            first=span.first,
            last=span.last,
            count=span.length,
            content=written.content,
            file=span.file(written.file_hash),
            file_bytes=written.file_bytes,
            file_hash=written.file_hash,
        )
        try:
            check_file(store, draft, manifest)
            check_records(store, draft, manifest)
            if not self._is_there(manifest):
                store.publish(draft, manifest.file)
                self._archive.publish(manifest)
        finally:
            store.delete(draft)
        forget_within(self._archive, span.partition)
        return written.file_bytes

    def _is_there(self, manifest: Manifest) -> bool:
        """Whether another run has written the same segment meanwhile.

        Raises:
            ArchiveError: Another run has written other records, or has made the archive anew.
        """
        if read_description(self._archive.store) != self._archive.description:
            raise ArchiveError(
                "Somebody else made this archive at the same time, in another way.",
                where=self._archive.store.place(DESCRIPTION),
                mend="Run it again.",
            )
        span = Span(manifest.partition, manifest.first, manifest.last)
        try:
            there = self._archive.manifest(span)
        except FileNotFoundError:
            return False
        if there.content != manifest.content:
            raise damaged(
                self._archive.store,
                span.manifest,
                f"records {there.content}, while the log has {manifest.content}",
            )
        return True


class _Stream:
    """Records of one partition, cut at offsets, and checked to be without a gap."""

    def __init__(self, first: Span, records: Iterator[pa.RecordBatch]) -> None:
        self._partition = first.partition
        self._at = first.first
        self._records = records
        self._left: pa.RecordBatch | None = None

    def upto(self, last: int) -> Iterator[pa.RecordBatch]:
        """Yield what is left up to an offset, it included."""
        while self._at <= last:
            batch = self._left if self._left is not None else self._next()
            count = min(last + 1 - self._at, len(batch))
            self._left = batch.slice(count) if count < len(batch) else None
            self._at += count
            yield batch.slice(0, count)

    def _next(self) -> pa.RecordBatch:
        batch = next((batch for batch in self._records if len(batch)), None)
        if batch is not None and follow(batch, self._partition, self._at):
            return batch
        offsets = [] if batch is None else batch["offset"].to_pylist()
        raise LogGapError(
            "Records of the log are missing.",
            where=f"partition {self._partition}",
            expected=f"offset {self._at} and all that follow",
            found=f"offsets {offsets[0]} to {offsets[-1]}" if offsets else "the end",
        )


class _Pace:
    """Holds back whoever is faster than a rate."""

    def __init__(self, rate: float | None) -> None:
        self._rate = rate
        self._since = time.monotonic()

    def keep(self, done: int) -> None:
        """Sleep until so many steps may be done."""
        if self._rate is not None:
            time.sleep(max(self._since + done / self._rate - time.monotonic(), 0))


def forget_within(archive: Archive, partition: int) -> None:
    """Delete the segments of a partition that lie within others."""
    for span in list(archive.found[partition]):
        if archive.within(span):
            archive.forget(span)


def clean(archive: Archive) -> None:
    """Delete what interrupted runs left: segments within others, and files that nothing names."""
    for partition in archive.spans:
        forget_within(archive, partition)
    manifests = {span for spans in archive.found.values() for span in spans}
    for name, found in archive.store.names().items():
        span = file_span(name)
        if span is not None and archive.within(span):
            archive.store.delete(name)  # of a segment that would not count
        elif found.forgotten and (
            archive.manifest(span).file != name
            if span in manifests
            else span is not None or name.startswith(f"{DRAFTS}/")
        ):
            archive.store.delete(name)
