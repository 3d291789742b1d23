"""The tables of replay, of events that no log has to hold first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import duckdb
import pyarrow as pa

from jobtrail.core.events import Event
from jobtrail.core.job import Place
from jobtrail.core.partitions import partition_of
from jobtrail.replay.folding.jobs import fold_tables
from jobtrail.replay.tables import Spool, Table
from tests.replay_rows import Logged, batch_of

PARTITIONS = 4


def placed(events: Iterable[Event]) -> Iterator[Logged]:
    """Yield events with their places in a log that they are written to one after another."""
    ends = dict.fromkeys(range(PARTITIONS), 0)
    for event in events:
        partition = partition_of(event.subject, PARTITIONS)
        yield Logged(Place(partition, ends[partition], 0), event)
        ends[partition] += 1


def spooled(schema: pa.Schema, batches: Iterable[pa.RecordBatch], *, memory_mib: int = 64) -> Table:
    """Return batches as a table that can be read several times.

    Args:
        schema: Of the batches.
        batches: The rows.
        memory_mib: How much of them stays in memory, in MiB.
    """
    spool = Spool(schema, memory_mib * 2**20)
    for batch in batches:
        spool.add(batch)
    return spool.table()


def tables_of(events: Iterable[Event]) -> duckdb.DuckDBPyConnection:
    """Return a database of the `jobs` and `transitions` of such a log."""
    connection = duckdb.connect()
    with fold_tables([batch_of(placed(events))]) as folded:
        folded.jobs.to_duckdb(connection, "jobs")
        folded.transitions.to_duckdb(connection, "transitions")
    return connection
