"""Tables of any length: made batch by batch, kept in memory while small, else in a file.

A file has no name from the moment it is made: whatever ends the process, nothing is left behind.
"""

from __future__ import annotations

import importlib
import io
import mmap
import os
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import IO, TYPE_CHECKING, Final

import pyarrow as pa

from jobtrail.core.errors import JobtrailError, UsageError

if TYPE_CHECKING:
    import duckdb
    import pandas
    import polars

#: A batch in memory that is larger than this is written to a file's end by itself.
_CHUNK_BYTES: Final = 1024 * 1024


class PackageMissing(JobtrailError):
    """Something needs a package that an extra of jobtrail brings."""


def package(name: str, extra: str = "replay") -> ModuleType:
    """Import an optional package.

    Args:
        name: Its import name.
        extra: The extra of jobtrail that brings it; empty for one that none brings.

    Raises:
        PackageMissing: It is not installed.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        wanted = f"jobtrail[{extra}]" if extra else name
        raise PackageMissing(
            f"This needs {name}, which is not installed.",
            found=str(error),
            hint=f"Install it: pip install '{wanted}'",
        ) from None


def release_unused() -> None:
    """Give back memory that is free: the next step asks for pieces of other sizes."""
    pa.default_memory_pool().release_unused()


class Table:
    """Rows under one schema, to be read as often as wanted, by whichever library is at hand.

    It is made by a `Spool`; `len(table)` is the number of its rows.
    """

    def __init__(
        self,
        schema: pa.Schema,
        rows: int,
        file: IO[bytes] | None,
        batches: Sequence[pa.RecordBatch],
    ) -> None:
        self.schema = schema
        self._rows = rows
        self._file = file
        self._batches = batches

    def __len__(self) -> int:
        return self._rows

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the rows batch by batch, with no more than one of them read at a time."""
        if self._file is not None:
            with pa.ipc.open_stream(pa.PythonFile(_Reader(self._file.fileno()), "r")) as stream:
                yield from stream
        yield from self._batches

    def reader(self) -> pa.RecordBatchReader:
        """Return the rows as a stream that Arrow's other users take."""
        return pa.RecordBatchReader.from_batches(self.schema, self.batches())

    def to_arrow(self) -> pa.Table:
        """Return the rows as one Arrow table; what lies in a file is mapped, not read."""
        found: list[pa.RecordBatch] = []
        if self._file is not None:
            mapped = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
            found += pa.ipc.open_stream(pa.py_buffer(mapped))
        return pa.Table.from_batches([*found, *self._batches], schema=self.schema)

    def to_polars(self) -> polars.DataFrame:
        """Return the rows as a data frame of polars.

        Raises:
            PackageMissing: polars is not installed.
        """
        frame: polars.DataFrame = package("polars").from_arrow(self.to_arrow())
        return frame

    def to_pandas(self) -> pandas.DataFrame:
        """Return the rows as a data frame of pandas; a column of tags holds lists of pairs.

        Raises:
            PackageMissing: pandas is not installed.
        """
        package("pandas", extra="")
        frame: pandas.DataFrame = self.to_arrow().to_pandas()
        return frame

    def to_duckdb(self, connection: duckdb.DuckDBPyConnection, name: str) -> None:
        """Make a table of a DuckDB database, or replace it.

        Args:
            connection: The database.
            name: Of the table.
        """
        stream = self.reader()
        connection.register("_stream", stream)
        try:
            connection.execute(f"CREATE OR REPLACE TABLE {quoted(name)} AS FROM _stream")
        finally:
            connection.unregister("_stream")

    def close(self) -> None:
        """Give the file back, if there is one; what was read of it before stays valid."""
        self._batches, self._rows = (), 0
        if self._file is not None:
            self._file.close()
            self._file = None


def quoted(name: str) -> str:
    """Return a name as SQL writes it.

    Raises:
        UsageError: It is empty.
    """
    if not name:
        raise UsageError("A table needs a name.")
    escaped = name.replace('"', '""')
    return f'"{escaped}"'


class Spool:
    """Takes batches, and keeps them in memory up to a size, beyond it in a file without a name.

    Args:
        schema: Of all batches.
        most: How many bytes stay in memory.
        folder: Where the file goes; None is the system's folder for such.
    """

    def __init__(self, schema: pa.Schema, most: int, folder: Path | None = None) -> None:
        self.schema = schema
        #: Bytes of all batches so far.
        self.size = 0
        self.rows = 0
        self._most = most
        self._folder = folder
        self._held: list[pa.RecordBatch] = []
        self._held_bytes = 0
        self._file: IO[bytes] | None = None
        self._writer: pa.RecordBatchStreamWriter | None = None

    @property
    def held(self) -> int:
        """Bytes that are in memory now."""
        return self._held_bytes

    def add(self, batch: pa.RecordBatch) -> None:
        """Take the next rows."""
        if batch.num_rows == 0:
            return
        size = batch.nbytes
        self._held.append(batch)
        self._held_bytes += size
        self.size += size
        self.rows += batch.num_rows
        if self._held_bytes > self._most:
            self.flush()

    @property
    def is_in_file(self) -> bool:
        """Whether there is a file: what is in memory follows it in the end."""
        return self._writer is not None

    def flush(self) -> None:
        """Write what is in memory to the file."""
        if not self._held:
            return
        if self._writer is None:
            # The table closes it, or its last reference goes.
            self._file = tempfile.TemporaryFile(prefix="jobtrail-", dir=self._folder)  # noqa: SIM115
            self._writer = pa.ipc.new_stream(self._file, self.schema)
        for batch in _joined(self._held):
            self._writer.write_batch(batch)
        self._held, self._held_bytes = [], 0

    def table(self) -> Table:
        """Return what was taken; nothing can be added after it."""
        if self._writer is not None and self._file is not None:
            self.flush()
            self._writer.close()
            self._file.flush()
        table = Table(self.schema, self.rows, self._file, self._held)
        if self._file is not None:
            weakref.finalize(table, self._file.close)
        return table


def _joined(batches: list[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Yield batches with small neighbours made one: each has a price in the file."""
    waiting: list[pa.RecordBatch] = []
    size = 0
    for batch in batches:
        waiting.append(batch)
        size += batch.nbytes
        if size >= _CHUNK_BYTES:
            yield pa.concat_batches(waiting) if len(waiting) > 1 else batch
            waiting, size = [], 0
    if waiting:
        yield pa.concat_batches(waiting)


class _Reader(io.RawIOBase):
    """Reads a file from its beginning, independently of other readers."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._at = 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        """Read some bytes; fewer only at the file's end."""
        size = size if size >= 0 else os.fstat(self._descriptor).st_size - self._at
        found = os.pread(self._descriptor, size, self._at)
        self._at += len(found)
        return found
