"""Writing an archive: which segments are wanting, and each of them once, whole and compared.

Any number of runs may be at work at once: each writes drafts of its own, the names of files hold
their hash, and two runs that wrote the same segment have written the same records.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain as joined
from typing import NamedTuple

import msgspec
import pyarrow as pa

from jobtrail.core.errors import ArchiveError, LogGapError
from jobtrail.replay.archive.checking import ascend, behind, check_file, check_records
from jobtrail.replay.archive.description import (
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
from jobtrail.replay.archive.joined import check_same
from jobtrail.replay.archive.place import DRAFTS, ArchiveStore
from jobtrail.replay.archive.reading import ArchiveSource
from jobtrail.replay.archive.segment_files import damaged, write_file
from jobtrail.replay.sources.holes import Hole, Holes
from jobtrail.replay.sources.source import Log


class Archived(NamedTuple):
    """What a run did."""

    segments: int
    records: int
    #: Of the files that were written.
    file_bytes: int


def open_for(store: ArchiveStore, name: LogName, log: Log, segment_records: int) -> Archive:
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
    found = read_description(store) or _made(
        store,
        Description(
            cluster=name.cluster,
            topic=name.topic,
            partitions=len(begins),
            segment_records=segment_records,
            begins=tuple(begins[partition] for partition in range(len(begins))),
        ),
    )
    kept = {"cluster": found.cluster, "topic": found.topic, "partitions": found.partitions}
    here = {"cluster": name.cluster, "topic": name.topic, "partitions": len(begins)}
    differing(kept, here, store.location)
    archive = Archive(store, found)
    # What it had to leave out then is no reason to stop now.
    check_same(ArchiveSource(archive, Holes(lambda _: None)), log)
    return archive


def _made(store: ArchiveStore, description: Description) -> Description:
    """Make an archive where nothing is; return its description, which may be another run's."""
    strange = any(not name.startswith(f"{DRAFTS}/") for name in store.names())
    # Looked at once more: who makes it at this moment writes the description before other files.
    found = read_description(store)
    if found is None and strange:
        raise ArchiveError(
            "There are files in the way of an archive.",
            where=store.location,
            expected=f"an archive, with its {DESCRIPTION}, or nothing at all",
            hint="Name another folder, or put back the description.",
        )
    if found is None:
        write_description(store, description)
        found = read_description(store)
        assert found is not None
    return found


class Archiver:
    """Adds to an archive what the log has beyond it.

    Args:
        archive: The archive.
        log: The log that it is of.
        rest: Whether to archive what is behind the last closed segment too.
        holes: What the log does where records are missing, and what is done where neither log nor
            archive has some; None: stop.
    """

    def __init__(
        self, archive: Archive, log: Log, *, rest: bool = False, holes: Holes | None = None
    ) -> None:
        self._archive = archive
        self._log = log
        self._holes = holes or Holes()
        self._begins, self._ends = log.begins(), log.ends()
        self._gap: LogGapError | None = None
        size = archive.description.segment_records
        #: The segments to write, in order, per partition.
        self._wanted = {p: list(self._plan(p, end, size, rest)) for p, end in self._ends.items()}

    @property
    def total(self) -> int:
        """How many offsets are to be archived."""
        return sum(span.length for spans in self._wanted.values() for span in spans)

    def run(self, show: Callable[[int], None]) -> Archived:
        """Write all segments that are wanting.

        Args:
            show: Takes how many offsets are archived.

        Raises:
            LogGapError: The log has lost records that the archive does not hold; what could be
                archived of other partitions is.
            ArchiveError: The archive can't be written, or what was written can't be read back.
        """
        clean(self._archive)
        segments, records, file_bytes, done = 0, 0, 0, 0
        for spans in self._wanted.values():
            try:
                for span in spans:
                    manifest = self._write(span, _shown(self._records(span), span, done, show))
                    segments, done = segments + 1, done + span.length
                    records, file_bytes = records + manifest.count, file_bytes + manifest.file_bytes
                    show(done)
            except LogGapError as error:
                self._gap = self._gap or error
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
        try:
            self._holes.meet(
                Hole(partition, at, begin - 1),
                "The log has lost records that the archive does not hold.",
                found=f"a log that begins at offset {begin}",
                hint="Archive more often than the log's retention deletes. A read that crosses "
                "the hole reports it.",
            )
        except LogGapError as error:
            self._gap = self._gap or error
            return None
        return begin

    def _records(self, span: Span) -> Iterator[pa.RecordBatch]:
        """Read from the log; what it no longer has of an open segment, from the archive."""
        partition, first, last = span
        log_from = max(first, self._begins[partition])
        if self._log.is_compacted():
            log_from = max(log_from, ArchiveSource(self._archive).until(partition, first))
        log_from = min(log_from, last + 1)
        kept: Iterator[pa.RecordBatch] = iter(())
        if first < log_from:
            for held in self._archive.spans[partition]:
                if first <= held.first < log_from:
                    self._check(held)
            source = ArchiveSource(self._archive, self._holes)
            kept = source.read({partition: first}, {partition: log_from})
        if log_from > last:
            return kept
        return joined(kept, self._log.read({partition: log_from}, {partition: last + 1}))

    def _check(self, span: Span) -> None:
        """Check a segment's file, unless a longer segment has taken its place since."""
        try:
            manifest = self._archive.manifest(span)
            check_file(self._archive.store, manifest.file, manifest)
        except (FileNotFoundError, ArchiveError):
            self._archive.refresh()
            if span in self._archive.spans[span.partition]:
                raise

    def _write(self, span: Span, records: Iterator[pa.RecordBatch]) -> Manifest:
        """Write a segment, compare it, and let it count; return its manifest."""
        store = self._archive.store
        with store.draft() as (draft, file):
            written = write_file(file, span.partition, records)
        lost = tuple((first, last) for _, first, last in self._holes.within(Hole(*span)))
        manifest = Manifest(
            partition=span.partition,
            first=span.first,
            last=span.last,
            count=written.records,
            content=written.content,
            file=span.file(written.file_hash),
            file_bytes=written.file_bytes,
            file_hash=written.file_hash,
            holes=lost or msgspec.UNSET,
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
        return manifest

    def _is_there(self, manifest: Manifest) -> bool:
        """Whether another run has written the same segment since.

        Raises:
            ArchiveError: Another run has written other records, or has made the archive again.
        """
        if read_description(self._archive.store) != self._archive.description:
            raise ArchiveError(
                "Somebody else made this archive at the same time, in another way.",
                where=self._archive.store.place(DESCRIPTION),
                hint="Run it again.",
            )
        span = manifest.span
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


def _shown(
    records: Iterator[pa.RecordBatch], span: Span, done: int, show: Callable[[int], None]
) -> Iterator[pa.RecordBatch]:
    """Pass on the records of a segment, and say on the way how many offsets are archived.

    Raises:
        LogGapError: They are not those that were asked for.
    """
    at, end = span.first, span.last + 1
    for batch in records:
        if not ascend(batch, span.partition, at, end):
            raise LogGapError(
                "The log gives other records than were asked for.",
                where=f"partition {span.partition}",
                expected=f"offsets from {at} to {span.last}",
                found=f"offsets {batch['offset'][0]} to {batch['offset'][-1]}",
            )
        at = behind(batch)
        yield batch
        show(done + at - span.first)


def forget_within(archive: Archive, partition: int) -> None:
    """Delete the segments of a partition that lie within others."""
    for span in list(archive.found[partition]):
        if archive.within(span):
            archive.forget(span)


def clean(archive: Archive) -> None:
    """Delete what interrupted runs left: segments within others, and files that nothing names."""
    for partition in archive.spans:
        forget_within(archive, partition)
    for name, found in archive.store.names().items():
        span = file_span(name)
        if span is not None and archive.within(span):
            archive.store.delete(name)  # of a segment that would not count
        elif found.forgotten and (
            name.startswith(f"{DRAFTS}/") if span is None else not _named(archive, span, name)
        ):
            archive.store.delete(name)


def _named(archive: Archive, span: Span, name: str) -> bool:
    """Tell whether a segment's manifest names a file."""
    try:
        return archive.manifest(span).file == name
    except FileNotFoundError:
        return False
