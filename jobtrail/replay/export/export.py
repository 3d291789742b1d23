"""Tables to files."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from jobtrail.core.errors import UsageError
from jobtrail.core.position import format_position
from jobtrail.replay.export.csv_cells import guarded_column
from jobtrail.replay.export.database import add_events, open_database
from jobtrail.replay.export.database import position_of as held_position
from jobtrail.replay.filters import Filters
from jobtrail.replay.replay import Replay, When, position_of

#: Rows of a Parquet row group: enough to compress well, few enough to be held.
_GROUP: Final = 100_000
#: How hard Parquet's pages are compressed; further levels cost more than they save.
_LEVEL: Final = 3
#: Of files by day: how many are open at a time, and the rows that wait for each.
_DAYS: Final = 32
_LEAST: Final = 10_000


def to_ndjson(schema: pa.Schema, batches: Iterable[pa.RecordBatch], path: Path) -> int:
    """Write one JSON object a line; return how many."""
    rows = 0
    with path.open("wb") as file:
        for batch in batches:
            file.writelines(ndjson(batch))
            rows += len(batch)
    return rows


def ndjson(batch: pa.RecordBatch) -> Iterator[bytes]:
    """Yield rows as JSON objects, a line each; what is JSON in a row stays it."""
    for row in batch.to_pylist():
        for name in ("error", "output", "details"):
            if row.get(name) is not None:
                row[name] = orjson.Fragment(row[name])
        if row.get("tags") is not None:
            row["tags"] = dict(row["tags"])
        yield orjson.dumps(row, option=orjson.OPT_UTC_Z | orjson.OPT_APPEND_NEWLINE)


def to_csv(
    schema: pa.Schema, batches: Iterable[pa.RecordBatch], path: Path, *, raw: bool = False
) -> int:
    """Write a line of names, then the rows; lists and tags are JSON.

    Args:
        schema: Of the rows.
        batches: The rows.
        path: Of the file.
        raw: Leave cells as they are that a spreadsheet takes for formulas.

    Returns:
        How many rows.
    """
    rows = 0
    with pa_csv.CSVWriter(path, _plain_schema(schema)) as writer:
        for batch in batches:
            writer.write_batch(_plain_batch(batch, raw=raw))
            rows += len(batch)
    return rows


def csv_head(schema: pa.Schema) -> bytes:
    """Return the line of names that a CSV file begins with."""
    return _csv(pa.RecordBatch.from_pylist([], schema=_plain_schema(schema)), head=True)


def csv_lines(batch: pa.RecordBatch, *, raw: bool = False) -> bytes:
    """Return rows as lines of a CSV file.

    Args:
        batch: The rows.
        raw: As of `to_csv`.
    """
    return _csv(_plain_batch(batch, raw=raw), head=False)


def _csv(batch: pa.RecordBatch, *, head: bool) -> bytes:
    out = io.BytesIO()
    pa_csv.write_csv(batch, out, pa_csv.WriteOptions(include_header=head))
    return out.getvalue()


def _plain_schema(schema: pa.Schema) -> pa.Schema:
    return pa.schema([_plain_field(field) for field in schema])


def _plain_batch(batch: pa.RecordBatch, *, raw: bool) -> pa.RecordBatch:
    plain = _plain_schema(batch.schema)
    columns = [
        _plain(batch.column(field.name), field.type, wanted.type)
        for field, wanted in zip(batch.schema, plain, strict=True)
    ]
    if not raw:
        columns = [
            guarded_column(field.name, column) if pa.types.is_string(field.type) else column
            for field, column in zip(batch.schema, columns, strict=True)
        ]
    return pa.RecordBatch.from_arrays(columns, schema=plain)


def _plain_field(field: pa.Field) -> pa.Field:
    if pa.types.is_nested(field.type) or pa.types.is_timestamp(field.type):
        return pa.field(field.name, pa.string())
    return pa.field(field.name, field.type)


def _plain(column: pa.Array, kind: pa.DataType, wanted: pa.DataType) -> pa.Array:
    if pa.types.is_timestamp(kind):
        return pc.strftime(column, format="%Y-%m-%dT%H:%M:%SZ")
    if not pa.types.is_nested(kind):
        return column
    values = column.to_pylist()
    if pa.types.is_map(kind):
        values = [None if value is None else dict(value) for value in values]
    texts = [None if value is None else orjson.dumps(value).decode() for value in values]
    return pa.array(texts, wanted)


def to_parquet(schema: pa.Schema, batches: Iterable[pa.RecordBatch], path: Path) -> int:
    """Write one Parquet file, compressed by zstd; return how many rows."""
    rows = 0
    waiting: list[pa.RecordBatch] = []
    waits = 0
    with pq.ParquetWriter(path, schema, compression="zstd", compression_level=_LEVEL) as writer:
        for batch in batches:
            waiting.append(batch)
            waits += len(batch)
            rows += len(batch)
            if waits >= _GROUP:
                writer.write_table(pa.Table.from_batches(waiting))
                waiting, waits = [], 0
        if waiting:
            writer.write_table(pa.Table.from_batches(waiting))
    return rows


def to_parquet_by_day(schema: pa.Schema, batches: Iterable[pa.RecordBatch], path: Path) -> int:
    """Write a folder with a folder for each day, named as in Hive; return how many rows.

    The day is that of the event or transition, or of the job's creation, in UTC. A day whose rows
    do not come together has several files.
    """
    time = "time" if "time" in schema.names else "created_at"
    day = pa.field("date", pa.date32())
    rows = 0

    def dated() -> Iterator[pa.RecordBatch]:
        nonlocal rows
        for batch in batches:
            rows += len(batch)
            yield batch.append_column(day, batch.column(time).cast(day.type))

    path.mkdir()
    file_format = ds.ParquetFileFormat()
    ds.write_dataset(
        dated(),
        path,
        schema=schema.append(day),
        format=file_format,
        file_options=file_format.make_write_options(compression="zstd", compression_level=_LEVEL),
        partitioning=ds.partitioning(pa.schema([day]), flavor="hive"),
        max_open_files=_DAYS,
        min_rows_per_group=_LEAST,
        max_rows_per_group=_GROUP,
    )
    return rows


def to_duckdb(
    replay: Replay,
    path: Path,
    filters: Filters,
    *,
    since: When | None = None,
    until: When | None = None,
) -> int:
    """Write a database with `events`, `jobs`, `transitions` and views of them.

    Args:
        replay: What to read.
        path: Of the database.
        filters: As of `Replay.event_batches`.
        since: The same.
        until: The same.

    Returns:
        How many events.
    """
    # Others can't be added to: what they left out would be left out for ever.
    whole_log = not filters and since is None and (until is None or position_of(until) is not None)
    batches = replay.event_batches(filters, since=since, until=until)
    with open_database(path) as database:
        return add_events(database, batches, replay.end_of(until) if whole_log else None).events


def grow_duckdb(replay: Replay, path: Path) -> int:
    """Add to a database of a whole log what came since, in one transaction.

    Returns:
        How many events.

    Raises:
        UsageError: There is no such database.
    """
    found = "none"
    if path.exists():
        with open_database(path) as database:
            position = held_position(database)
            if position and all(replay.ends.get(p, 0) >= at for p, at in position.items()):
                new = replay.event_batches(since=position)
                return add_events(database, new, replay.ends).events
        found = f"one at {format_position(position)}" if position else "a part of one"
    raise UsageError(
        "There is nothing to go on from.",
        expected=f"a database of the whole log up to {format_position(replay.ends)} at most",
        found=found,
        where=str(path),
    )


CSV: Final = ".csv"
PARQUET: Final = ".parquet"
DUCKDB: Final = ".duckdb"
Writer = Callable[[pa.Schema, Iterable[pa.RecordBatch], Path], int]
#: By the ending of a file's name; a DuckDB file is written by `to_duckdb`.
WRITERS: Final[dict[str, Writer]] = {
    ".ndjson": to_ndjson,
    ".jsonl": to_ndjson,
    CSV: to_csv,
    PARQUET: to_parquet,
}


def check_ending(path: Path) -> str:
    """Return the ending of a file's name, which says what is written to it.

    Raises:
        UsageError: No file of this kind is written.
    """
    ending = path.suffix.lower()
    if ending not in WRITERS and ending != DUCKDB:
        raise UsageError(
            "What is to be written follows from the file's ending.",
            expected=f"one of {', '.join([*WRITERS, DUCKDB])}",
            found=str(path),
        )
    return ending
