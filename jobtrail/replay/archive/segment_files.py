"""A segment's file: how records are written to Parquet, and read from it, in bounded memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from jobtrail.core.errors import ArchiveError
from jobtrail.replay.archive.content import Content, numbers, sizes
from jobtrail.replay.archive.place import ArchiveStore
from jobtrail.replay.schemas import RECORDS

#: A row group is full at this many records, or at this many bytes of keys, values and headers: it
#: is what a reader has to hold.
GROUP_ROWS: Final = 10_000
GROUP_BYTES: Final = 16 * 1024 * 1024
#: 1 makes 28 bytes of an event of the Google trace in 0.35 µs, 6 makes 26 in 1.2: docs/archive.md.
_LEVEL: Final = 1
_READ: Final = 4 * 1024 * 1024


class Written(NamedTuple):
    """What was written to a file."""

    records: int
    #: The hash of the records, by `Content`.
    content: str
    #: The hash of the file, as `sha256:` and hexadecimal digits.
    file_hash: str
    file_bytes: int


class FileSummary(NamedTuple):
    """What is in a file."""

    #: The first offset of its segment.
    first: int
    #: How many offsets of the segment have a record, and how many have none.
    records: int
    without: int


class _Hashing:
    """A file to write to that hashes what passes."""

    def __init__(self, file: pa.NativeFile) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self.size = 0
        self.closed = False

    def write(self, data: Any) -> int:
        self._hash.update(data)
        self._file.write(data)
        size = len(data)
        self.size += size
        return size

    def flush(self) -> None:
        """Leave that to the code that opened the file."""

    def close(self) -> None:
        """Leave that to the code that opened the file."""
        self.closed = True

    def digest(self) -> str:
        return f"sha256:{self._hash.hexdigest()}"


def write_file(file: pa.NativeFile, partition: int, records: Iterator[pa.RecordBatch]) -> Written:
    """Write records as Parquet; the same records make the same bytes, however they are batched.

    Args:
        file: Where to write; it is left open.
        partition: The partition of all records.
        records: Batches of `schemas.RECORDS` in the order of the log.

    Returns:
        What was written.
    """
    content = Content(partition)
    sink = _Hashing(file)
    writer = parquet.ParquetWriter(
        sink,
        RECORDS,
        compression="zstd",
        compression_level=_LEVEL,
        use_dictionary=["partition"],
        column_encoding=dict.fromkeys(("offset", "logged_at"), "DELTA_BINARY_PACKED"),
        write_statistics=["offset", "logged_at"],
        write_page_checksum=True,
    )
    with writer:
        for group in _groups(records):
            for batch in group:
                content.add(batch)
            table = pa.Table.from_batches(group)
            writer.write_table(table, row_group_size=len(table))
    return Written(content.count, content.digest(), sink.digest(), sink.size)


def _groups(records: Iterator[pa.RecordBatch]) -> Iterator[list[pa.RecordBatch]]:
    """Cut batches of any size into row groups, by nothing but the records."""
    group: list[pa.RecordBatch] = []
    rows, held = 0, 0
    for batch in records:
        behind = np.cumsum(sizes(batch))
        begin, before = 0, 0
        while begin < len(batch):
            full = int(np.searchsorted(behind, before + GROUP_BYTES - held)) + 1
            end = min(begin + GROUP_ROWS - rows, full, len(batch))
            group.append(batch.slice(begin, end - begin))
            rows += end - begin
            held += int(behind[end - 1]) - before
            begin, before = end, int(behind[end - 1])
            if rows >= GROUP_ROWS or held >= GROUP_BYTES:
                yield group
                group, rows, held = [], 0, 0
    if group:
        yield group


def hash_file(store: ArchiveStore, name: str) -> tuple[str, int]:
    """Return the hash and the size of a file as it now lies there, in bytes.

    Raises:
        FileNotFoundError: There is none.
        ArchiveError: It can't be read.
    """
    hashed, size = hashlib.sha256(), 0
    with store.opened(name) as file:
        while data := file.read(_READ):
            hashed.update(data)
            size += len(data)
    return f"sha256:{hashed.hexdigest()}", size


def read_file(
    store: ArchiveStore, name: str, held: FileSummary, first: int, end: int
) -> Iterator[pa.RecordBatch]:
    """Read some records of a file, one row group at a time.

    Args:
        store: Where it lies.
        name: The file.
        held: What is in it.
        first: The first offset that is wanted.
        end: The offset to stop before.

    Yields:
        Batches of `schemas.RECORDS`.

    Raises:
        FileNotFoundError: There is none.
        ArchiveError: It is damaged, as checksums of its pages tell, or can't be read.
    """
    with store.opened(name) as opened:
        try:
            file = parquet.ParquetFile(opened, page_checksum_verification=True)
            if not file.schema_arrow.equals(RECORDS):
                raise damaged(store, name, f"columns {file.schema_arrow.names}")
            if file.metadata.num_rows != held.records:
                raise damaged(store, name, f"{file.metadata.num_rows} records, not {held.records}")
            behind = 0
            for group in range(file.num_row_groups):
                begin, behind = behind, behind + file.metadata.row_group(group).num_rows
                # No record lies further behind than if there were one at each offset, nor further
                # ahead than if all offsets without one came before it. The file's own statistics
                # tell more, but PyArrow ends the process over damaged ones.
                if behind <= first - held.first - held.without or begin >= end - held.first:
                    continue
                for batch in file.iter_batches(GROUP_ROWS, [group], use_threads=False):
                    low, high = np.searchsorted(numbers(batch["offset"]), (first, end)).tolist()
                    if low < high:
                        yield batch.slice(low, high - low)
        except (OSError, pa.ArrowException) as error:
            raise damaged(store, name, str(error)) from error


def damaged(store: ArchiveStore, name: str, found: str) -> ArchiveError:
    """Return the error that says that a file of the archive is damaged, and what to do."""
    return ArchiveError(
        "A file of the archive is damaged.",
        where=store.place(name),
        found=found,
        hint="Put back a copy of the file. Or delete it and its .json, and run `jobtrail archive` "
        "again while the log still has these records.",
    )
