"""Comparing an archive's files with what its manifests say, and its segments with one another."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from jobtrail.core.errors import ArchiveError
from jobtrail.replay.archive.content import Content, numbers
from jobtrail.replay.archive.description import Archive, Manifest, Span, missing
from jobtrail.replay.archive.place import ArchiveStore
from jobtrail.replay.archive.segment_files import damaged, hash_file, read_file


class Fault(NamedTuple):
    """Something that is wrong with an archive."""

    #: `file` (missing or damaged), `records` (other ones than were archived), `manifest`, `gap` or
    #: `overlap`.
    kind: str
    partition: int
    #: Offsets, both included.
    first: int
    last: int
    #: What is wrong, where, and how to mend it.
    text: str


def verify(archive: Archive, show: Callable[[int, int], None]) -> Iterator[Fault]:
    """Read a whole archive again and compare it with its manifests.

    Args:
        archive: The archive.
        show: Takes how many segments are done, and how many records they have.

    Yields:
        What is wrong.
    """
    done = records = 0
    for partition, spans in archive.spans.items():
        begin, end = archive.begins()[partition], archive.ends()[partition]
        for hole in missing(partition, spans, begin, end):
            yield _fault("gap", hole, _gap(archive, hole))
        for span in archive.found[partition]:
            if span not in spans and not archive.within(span):
                yield _fault("overlap", span, _overlap(archive, span))
        for span in spans:
            records += yield from _of_segment(archive, span)
            done += 1
            show(done, records)


def _of_segment(archive: Archive, span: Span) -> Generator[Fault, None, int]:
    """Yield what is wrong with a segment; return how many records it should have."""
    kind, count = "manifest", 0
    try:
        manifest = archive.manifest(span)
        kind, count = "file", manifest.count
        for first, last in manifest.holes or ():
            hole = Span(span.partition, first, last)
            yield _fault("gap", hole, _gap(archive, hole))
        check_file(archive.store, manifest.file, manifest)
        kind = "records"
        check_records(archive.store, manifest.file, manifest)
    except (FileNotFoundError, ArchiveError) as error:
        # A longer segment may have taken its place, and it is deleted.
        archive.refresh()
        if span in archive.spans[span.partition]:
            if isinstance(error, FileNotFoundError):
                error = damaged(archive.store, span.manifest, str(error))
            yield _fault(kind, span, error)
    return count


def _fault(kind: str, span: Span, error: ArchiveError) -> Fault:
    return Fault(kind, span.partition, span.first, span.last, str(error))


def _gap(archive: Archive, hole: Span) -> ArchiveError:
    return ArchiveError(
        "Records are missing in the archive.",
        where=f"{archive.store.location}, partition {hole.partition}, "
        f"offsets {hole.first} to {hole.last}",
        hint="Put back a copy of the segments, each with its .json; or run `jobtrail archive` "
        "while the log still has the records.",
    )


def _overlap(archive: Archive, span: Span) -> ArchiveError:
    return ArchiveError(
        "A segment overlaps with another.",
        where=archive.store.place(span.manifest),
        expected="segments that follow one another, or lie within one another",
        hint="Readers leave this one out. Run `jobtrail archive`, and delete its .json where it "
        "still overlaps.",
    )


def check_file(store: ArchiveStore, name: str, manifest: Manifest) -> None:
    """Check that a file is there and is, byte by byte, what was written.

    Args:
        store: Where it lies.
        name: The file.
        manifest: What it should be.

    Raises:
        ArchiveError: It is missing or damaged.
    """
    try:
        found, size = hash_file(store, name)
    except FileNotFoundError:
        raise damaged(store, name, "no such file") from None
    if (found, size) != (manifest.file_hash, manifest.file_bytes):
        raise damaged(store, name, f"{size} bytes, {found}")


def check_records(store: ArchiveStore, name: str, manifest: Manifest) -> None:
    """Check that a file has the records that were read from the log.

    Args:
        store: Where it lies.
        name: The file.
        manifest: What it should hold.

    Raises:
        ArchiveError: It has other ones.
        FileNotFoundError: There is no such file.
    """
    content, at, end = Content(manifest.partition), manifest.first, manifest.last + 1
    for batch in read_file(store, name, manifest.held, at, end):
        if not ascend(batch, manifest.partition, at, end):
            raise damaged(store, name, f"other records than those from offset {at} on")
        content.add(batch)
        at = behind(batch)
    if (content.count, content.digest()) != (manifest.count, manifest.content):
        raise damaged(store, name, f"{content.count} records, {content.digest()}")


def ascend(records: pa.RecordBatch, partition: int, first: int, end: int) -> bool:
    """Tell whether records are of a partition and a range of offsets, in order and each once.

    Args:
        records: One record at least.
        partition: The partition.
        first: The lowest offset that they may have.
        end: The offset behind the highest one.
    """
    offsets = numbers(records["offset"])
    return bool(
        first <= offsets[0]
        and offsets[-1] < end
        and np.all(np.diff(offsets) > 0)
        and np.all(numbers(records["partition"]) == partition)
    )


def behind(records: pa.RecordBatch) -> int:
    """Return the offset behind the last one of some records."""
    offset: int = records["offset"][-1].as_py()
    return offset + 1
