"""Comparing an archive's files with what its manifests say, and its segments with one another."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from jobtrail.errors import ArchiveError
from jobtrail.replay.archive import Archive, Manifest, Span, missing
from jobtrail.replay.archive_content import Content, numbers
from jobtrail.replay.archive_files import damaged, hash_file, read_file
from jobtrail.replay.archive_store import ArchiveStore


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


def verify(archive: Archive, show: Callable[[int], None]) -> Iterator[Fault]:
    """Read a whole archive again and compare it with its manifests.

    Args:
        archive: The archive.
        show: Takes how many segments are done.

    Yields:
        What is wrong.
    """
    done = 0
    for partition, spans in archive.spans.items():
        begin, end = archive.begins()[partition], archive.ends()[partition]
        for hole in missing(partition, spans, begin, end):
            yield _fault("gap", hole, _gap(archive, hole))
        for span in archive.found[partition]:
            if span not in spans and not archive.within(span):
                yield _fault("overlap", span, _overlap(archive, span))
        for span in spans:
            yield from _of_segment(archive, span)
            done += 1
            show(done)


def _of_segment(archive: Archive, span: Span) -> Iterator[Fault]:
    kind = "manifest"
    try:
        manifest = archive.manifest(span)
        kind = "file"
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


def _fault(kind: str, span: Span, error: ArchiveError) -> Fault:
    return Fault(kind, span.partition, span.first, span.last, str(error))


def _gap(archive: Archive, hole: Span) -> ArchiveError:
    return ArchiveError(
        "Records are missing in the archive.",
        where=f"{archive.store.location}, partition {hole.partition}, "
        f"offsets {hole.first} to {hole.last}",
        mend="Put back a copy of the segments, each with its .json; or run `jobtrail archive` "
        "while the log still has the records.",
    )


def _overlap(archive: Archive, span: Span) -> ArchiveError:
    return ArchiveError(
        "A segment overlaps with another.",
        where=archive.store.place(span.manifest),
        expected="segments that follow one another, or lie within one another",
        mend="Readers leave this one out. Run `jobtrail archive`, and delete its .json where it "
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
    content, at = Content(manifest.partition), manifest.first
    for batch in read_file(store, name):
        if not follow(batch, manifest.partition, at):
            raise damaged(store, name, f"other records than those from offset {at} on")
        content.add(batch)
        at += len(batch)
    if (content.count, content.digest()) != (manifest.count, manifest.content):
        raise damaged(store, name, f"{content.count} records, {content.digest()}")


def follow(records: pa.RecordBatch, partition: int, offset: int) -> bool:
    """Tell whether records are those of a partition from an offset on, without a gap."""
    offsets = np.arange(offset, offset + len(records))
    return np.array_equal(numbers(records["offset"]), offsets) and bool(
        np.all(numbers(records["partition"]) == partition)
    )
