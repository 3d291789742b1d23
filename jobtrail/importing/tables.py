"""Reading tables row by row: CSV, NDJSON and Parquet, each as the values of some columns."""

from __future__ import annotations

import contextlib
import csv
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from jobtrail.core.errors import UsageError
from jobtrail.core.readable import big_number, half_pair, unportable_error
from jobtrail.extras import require_extra
from jobtrail.importing.mapping import CsvOptions, Mapping
from jobtrail.importing.opening import (
    DAMAGED,
    MAX_LINE,
    byte_lines,
    open_bytes,
    open_text,
    text_lines,
)
from jobtrail.importing.row import Row
from jobtrail.importing.rules import Maker, Values
from jobtrail.importing.values import Fault

if TYPE_CHECKING:
    import pyarrow as pa

#: A row: its number, and its values or why it has none.
Record = tuple[int, "Values | Fault"]
#: Reads the records of a file: those behind the given number of rows, with these columns.
Reader = Callable[[Path, Sequence[str], CsvOptions], Iterator[Record]]

_BATCH_ROWS: Final = 2048


def read(kind: str, file: Path, mapping: Mapping, after: int = 0) -> Iterator[Row]:
    """Read a file's rows as events.

    Args:
        kind: Of the file, one of `KINDS`.
        file: Where it is.
        mapping: What becomes of a row.
        after: How many rows to pass over, unread.

    Raises:
        UsageError: The file is of another kind, or lacks a column of the mapping.
    """
    maker = Maker(mapping)
    records = KINDS[kind](file, maker.columns, mapping.csv)
    for number, (line, values) in enumerate(records, 1):
        if number <= after:
            continue
        try:
            if isinstance(values, Fault):
                raise values
            yield Row(file, line, maker.events(values))
        except Fault as fault:
            yield Row(file, line, error=fault.reason, column=fault.column)


def _damaged(error: Exception) -> Fault:
    return Fault(f"the file is cut or damaged: {error}")


def _csv(file: Path, columns: Sequence[str], options: CsvOptions) -> Iterator[Record]:
    # What Excel writes begins with a mark that is part of no column's name.
    encoding = "utf-8-sig" if options.encoding.lower() in ("utf-8", "utf8") else options.encoding
    with open_text(file, encoding) as text:
        too_long = "x" * (csv.field_size_limit() + 1)
        rows = csv.reader(text_lines(text, too_long), delimiter=options.delimiter)
        try:
            header = next(rows, [])
        except (csv.Error, *DAMAGED) as error:
            raise _unusable("CSV", file, error) from None
        _check_columns(file, columns, header)
        slots = [header.index(column) for column in columns]
        null, width = options.null, len(header)
        while True:
            line = rows.line_num + 1
            try:
                cells = next(rows)
            except StopIteration:
                return
            except csv.Error as error:
                yield line, Fault(str(error))
            except DAMAGED as error:
                yield line, _damaged(error)
                return
            else:
                if len(cells) != width:
                    if cells:
                        yield line, Fault(f"expected {width} columns, found {len(cells)}")
                elif (fault := _undecoded(header, cells)) is not None:
                    yield line, fault
                else:
                    yield line, [None if (c := cells[slot]) in null else c for slot in slots]


def _undecoded(header: Sequence[str], cells: Sequence[str]) -> Fault | None:
    joined = "".join(cells)
    if joined.isascii():
        return None
    try:
        joined.encode()
    except UnicodeEncodeError:
        bad = [name for name, cell in zip(header, cells, strict=True) if not _is_text(cell)]
        return Fault("expected text in the file's encoding, found other bytes", bad[0])
    return None


def _is_text(cell: str) -> bool:
    try:
        cell.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_columns(file: Path, columns: Sequence[str], header: Sequence[str]) -> None:
    for column in columns:
        if header.count(column) != 1:
            # Bytes that are no text can't be printed either.
            names = ", ".join(header).encode(errors="backslashreplace").decode()[:300]
            raise UsageError(
                "The file does not fit the mapping.",
                where=str(file),
                expected=f"one column {column!r}",
                found="several" if column in header else names or "none",
            )


def _unusable(kind: str, file: Path, error: Exception) -> UsageError:
    return UsageError(
        f"This file can't be read as {kind}.", where=str(file), expected=kind, found=str(error)
    )


def _ndjson(file: Path, columns: Sequence[str], _options: CsvOptions) -> Iterator[Record]:
    decoder = msgspec.json.Decoder()
    paths = [(column, column.split(".")) for column in columns]
    line = 0
    with open_bytes(file) as stream:
        lines = byte_lines(stream)
        while True:
            line += 1
            try:
                content = next(lines)
            except StopIteration:
                return
            except DAMAGED as error:
                yield line, _damaged(error)
                return
            if content is None:
                yield line, Fault(f"expected at most {MAX_LINE} bytes in a line, found more")
                continue
            if line == 1:
                content = content.removeprefix(b"\xef\xbb\xbf")
            if not content.strip():
                continue
            try:
                row = decoder.decode(content)
            except (ValueError, RecursionError) as error:
                yield line, _no_row(content, error)
                continue
            if isinstance(row, dict):
                yield line, [_at(row, column, path) for column, path in paths]
            else:
                yield line, Fault("expected a JSON object, found another value")


def _no_row(content: bytes, error: Exception) -> Fault:
    """Return why a line is no row: the member that no reader holds, where it is that."""
    with contextlib.suppress(UnicodeDecodeError):
        content.decode()
        unportable = big_number(content) or half_pair(content)
        if unportable is not None:
            column = str(unportable.path[0]) if unportable.path else ""
            return Fault(str(unportable_error(unportable, "The row")), column)
    return Fault(f"expected JSON: {error}")


def _at(row: dict[str, Any], column: str, path: Sequence[str]) -> object:
    """Return what is at a path; a member that is named as the whole path goes first."""
    if len(path) == 1 or column in row:
        return row.get(column)
    value: object = row
    for step in path:
        if not isinstance(value, dict):
            return None
        value = value.get(step)
    return value


def _parquet(file: Path, columns: Sequence[str], _options: CsvOptions) -> Iterator[Record]:
    require_extra("parquet", "Reading Parquet")
    import pyarrow as pa
    from pyarrow import parquet

    try:
        source = parquet.ParquetFile(file)
    except (pa.ArrowException, OSError) as error:
        raise _unusable("Parquet", file, error) from None
    number = 0
    with source:
        names = source.schema_arrow.names
        paths = [[column] if column in names else column.split(".") for column in columns]
        for column, path in zip(columns, paths, strict=True):
            if not _has(source.schema_arrow, path):
                _check_columns(file, [column], names)
        roots = list(dict.fromkeys(path[0] for path in paths))
        batches = source.iter_batches(_BATCH_ROWS, columns=roots)
        while True:
            try:
                batch = next(batches)
            except StopIteration:
                return
            except (pa.ArrowException, OSError) as error:
                yield number + 1, _damaged(error)
                return
            cells = [_cells(batch, path) for path in paths]
            for row in range(batch.num_rows):
                number += 1
                values = [column[row] for column in cells]
                faults = [value for value in values if isinstance(value, Fault)]
                yield number, faults[0] if faults else values


def _has(schema: pa.Schema, path: Sequence[str]) -> bool:
    import pyarrow as pa

    if path[0] not in schema.names:
        return False
    kind = schema.field(path[0]).type
    for step in path[1:]:
        if not pa.types.is_struct(kind) or kind.get_field_index(step) < 0:
            return False
        kind = kind.field(step).type
    return True


def _cells(batch: pa.RecordBatch, path: Sequence[str]) -> Sequence[object]:
    """Return a column's values as Python's; a Fault for one that Python has no value for."""
    import pyarrow as pa
    from pyarrow import compute

    column = batch.column(path[0])
    if len(path) > 1:
        column = compute.struct_field(column, list(path[1:]))
    if pa.types.is_timestamp(column.type):
        # Python's times have microseconds, and need no table of zones in UTC.
        zone = "UTC" if column.type.tz else None
        column = column.cast(pa.timestamp("us", zone), safe=False)
    try:
        return list(column.to_pylist())
    except (ValueError, OverflowError):
        return [_cell(scalar, ".".join(path)) for scalar in column]


def _cell(scalar: pa.Scalar[Any], column: str) -> object:
    try:
        return scalar.as_py()
    except (ValueError, OverflowError) as error:
        return Fault(f"expected a value that can be told: {error}", column)


#: What can be imported by a mapping, by the command's name.
KINDS: Final[dict[str, Reader]] = {"csv": _csv, "ndjson": _ndjson, "parquet": _parquet}
