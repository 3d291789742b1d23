"""The log as a DuckDB file: `events`, `jobs`, `transitions`, and views of them.

Events are added to such a file later too: then the jobs that have new events are folded again,
from the events that the file holds. All of it is one transaction.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import pyarrow as pa

from jobtrail.replay.export.views import VIEWS
from jobtrail.replay.folding.gathering import GATHERED, Gathering
from jobtrail.replay.folding.jobs import fold_gathered
from jobtrail.replay.schemas import EVENTS, JOBS, TRANSITIONS
from jobtrail.replay.tables import package

if TYPE_CHECKING:
    import duckdb

#: MiB of DuckDB and as many of the fold: together with the libraries 480 MiB at 10,000,000 events.
_MEMORY: Final = 128
#: Texts of which each row has its own. DuckDB would look for what repeats in them, and take longer
#: for more bytes.
_UNIQUE: Final = {("events", "id"), ("jobs", "id"), ("transitions", "event_id")}
#: The first version of DuckDB whose files hold such a column compressed by zstd.
_SAYS_HOW: Final = 2
_TABLES: Final = {"events": EVENTS, "jobs": JOBS, "transitions": TRANSITIONS}


class Added(NamedTuple):
    """What a call put into the file."""

    events: int
    #: Jobs that were folded: new ones, and those that had been there and have new events.
    jobs: int


def open_database(
    path: Path, *, memory_mib: int = _MEMORY, threads: int = 1
) -> duckdb.DuckDBPyConnection:
    """Open a DuckDB file to write to, or make it.

    Args:
        path: The file.
        memory_mib: How much memory DuckDB may use, in MiB.
        threads: How many processors it may use.

    Raises:
        PackageMissing: DuckDB is not installed.
    """
    config = {"memory_limit": f"{memory_mib}MiB", "threads": str(threads)}
    connection: duckdb.DuckDBPyConnection = package("duckdb").connect(str(path), config=config)
    return connection


def add_events(
    connection: duckdb.DuckDBPyConnection,
    batches: Iterable[pa.RecordBatch],
    position: Mapping[int, int] | None = None,
    *,
    memory_mib: int = _MEMORY,
) -> Added:
    """Put events into a database, and bring its jobs and transitions up to them.

    The first call makes the tables and views. A later one takes the events from where the last one
    ended, `position_of`; it reads again those events of the file whose jobs have new ones. Where it
    fails, the database is what it was.

    Args:
        connection: A database that this function alone fills.
        batches: Of `schemas.EVENTS`, in log order within each partition; of each job that has an
            event in them, all that follow those of the file.
        position: Where the events end: the offset to go on at, per partition.
        memory_mib: How much memory the fold may use, in MiB.

    Returns:
        How much was put in.
    """
    gathering = Gathering(memory_mib)
    connection.begin()
    try:
        _prepare(connection)
        ends = _ends(connection)
        events = _insert_events(connection, batches, None if ends else gathering)
        if ends:
            _gather_touched(connection, ends, gathering)
        with fold_gathered(gathering) as folded:
            _insert(connection, "jobs", folded.jobs.reader())
            _insert(connection, "transitions", folded.transitions.reader())
            jobs = len(folded.jobs)
        for partition, offset in (position or {}).items():
            connection.execute("INSERT OR REPLACE INTO position VALUES (?, ?)", [partition, offset])
        connection.commit()
    except BaseException:
        connection.rollback()
        raise
    return Added(events, jobs)


def position_of(connection: duckdb.DuckDBPyConnection) -> dict[int, int]:
    """Return where the events of a database end: the offset to go on at, per partition.

    A database that `add_events` has not filled yet has no position at all.
    """
    known = "SELECT 1 FROM duckdb_tables() WHERE table_name = 'position'"
    if connection.execute(known).fetchone() is None:
        return {}
    return dict(connection.execute("SELECT * FROM position ORDER BY 1").fetchall())


def _prepare(connection: duckdb.DuckDBPyConnection) -> None:
    """Make the tables and views that are not there."""
    # The files of older versions can't hold it, and would be larger instead.
    version = int(package("duckdb").__version__.partition(".")[0])
    unique = _UNIQUE if version >= _SAYS_HOW else set()
    for name, schema in _TABLES.items():
        empty = schema.empty_table()
        connection.register("_empty", empty)
        columns = [
            f'"{column}" {kind}' + " USING COMPRESSION zstd" * ((name, column) in unique)
            for column, kind, *_ in connection.execute("DESCRIBE FROM _empty").fetchall()
        ]
        connection.execute(f"CREATE TABLE IF NOT EXISTS {name} ({', '.join(columns)})")
        connection.unregister("_empty")
        for column in columns:
            # A file of before has the columns of before; what they did not say, they could not.
            connection.execute(f"ALTER TABLE {name} ADD COLUMN IF NOT EXISTS {column}")
    connection.execute(
        'CREATE TABLE IF NOT EXISTS position ("partition" INTEGER PRIMARY KEY, next BIGINT)'
    )
    for view in VIEWS:
        connection.execute(f"CREATE OR REPLACE VIEW {view.name} AS {view.query}")
        connection.execute(f"COMMENT ON VIEW {view.name} IS '{view.tells}'")


def _ends(connection: duckdb.DuckDBPyConnection) -> dict[int, int]:
    """Return the last offset of an event, per partition."""
    query = 'SELECT "partition", max("offset") FROM events GROUP BY 1'
    return dict(connection.execute(query).fetchall())


def _insert_events(
    connection: duckdb.DuckDBPyConnection,
    batches: Iterable[pa.RecordBatch],
    gathering: Gathering | None,
) -> int:
    """Put events into the database, and into what gathers them on the way; return how many."""
    events = 0
    failed: list[BaseException] = []

    def passed_on() -> Iterator[pa.RecordBatch]:
        nonlocal events
        try:
            for batch in batches:
                events += batch.num_rows
                if gathering is not None:
                    gathering.add(batch)
                yield batch
        except BaseException as error:
            failed.append(error)
            raise

    try:
        _insert(connection, "events", pa.RecordBatchReader.from_batches(EVENTS, passed_on()))
    except Exception as error:
        # DuckDB says in words of its own that its input failed.
        raise (failed[0] if failed else error) from None
    return events


def _insert(connection: duckdb.DuckDBPyConnection, name: str, rows: pa.RecordBatchReader) -> None:
    connection.register("_rows", rows)
    try:
        connection.execute(f"INSERT INTO {name} BY NAME FROM _rows").fetchall()
    finally:
        connection.unregister("_rows")


def _gather_touched(
    connection: duckdb.DuckDBPyConnection, ends: Mapping[int, int], gathering: Gathering
) -> None:
    """Remove the jobs that have events behind these offsets, and gather all of their events."""
    known = ", ".join(str(partition) for partition in ends)
    later = [f'("partition" = {p} AND "offset" > {offset})' for p, offset in ends.items()]
    behind = " OR ".join([f'"partition" NOT IN ({known})', *later])
    new = f"SELECT DISTINCT job_id FROM events WHERE {behind}"  # noqa: S608
    connection.execute(f"CREATE OR REPLACE TEMP TABLE touched AS {new}")
    connection.execute("DELETE FROM jobs WHERE id IN (FROM touched)")
    connection.execute("DELETE FROM transitions WHERE job_id IN (FROM touched)")
    columns = ", ".join(f'"{name}"' for name in GATHERED.names)
    found = connection.sql(
        f"SELECT {columns} FROM events WHERE job_id IN (FROM touched) "  # noqa: S608
        'ORDER BY "partition", "offset"'
    )
    for batch in pa.RecordBatchReader.from_stream(found):
        gathering.add(batch)
    del found
    connection.execute("DROP TABLE touched")
