"""The tables of replay, of events that no log has to hold first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import duckdb

from jobtrail.core.events import Event
from jobtrail.core.job import Place
from jobtrail.core.partitions import partition_of
from jobtrail.replay.folding.jobs import fold_tables
from tests.replay_rows import Logged, batch_of

PARTITIONS = 4


def placed(events: Iterable[Event]) -> Iterator[Logged]:
    """Yield events with their places in a log that they are written to one after another."""
    ends = dict.fromkeys(range(PARTITIONS), 0)
    for event in events:
        partition = partition_of(event.subject, PARTITIONS)
        yield Logged(Place(partition, ends[partition], 0), event)
        ends[partition] += 1


def tables_of(events: Iterable[Event]) -> duckdb.DuckDBPyConnection:
    """Return a database of the `jobs` and `transitions` of such a log."""
    connection = duckdb.connect()
    with fold_tables([batch_of(placed(events))]) as folded:
        folded.jobs.to_duckdb(connection, "jobs")
        folded.transitions.to_duckdb(connection, "transitions")
    return connection
