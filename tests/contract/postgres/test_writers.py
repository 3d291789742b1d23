"""Writers that meet, stop or lose their connection: one writes, and nothing is half done."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from threading import Barrier
from typing import Any

import psycopg
import pytest

from jobtrail.core.errors import FencedError, StoreError
from projections.ports.write import FoldedBatch
from projections.postgres.connection import Timeouts
from projections.postgres.writer import PostgresWriter
from tests.contract.postgres_store import PostgresStore
from tests.contract.store_checks import check_equal
from tests.contract.store_feeding import batch_of
from tests.contract.store_model import Model
from tests.contract.test_store_fencing import one_partition
from tests.waiting import until

PARTITION = 5
#: Longer than any test takes.
FOREVER = 600_000


def test_of_two_writers_at_once_one_is_fenced(store: PostgresStore) -> None:
    log = one_partition(jobs=40)
    writers = store.writer(), store.writer()
    barrier = Barrier(len(writers))

    def apply(writer: PostgresWriter, batch: FoldedBatch) -> str:
        barrier.wait()
        try:
            writer.apply([batch])
        except FencedError:
            return "fenced"
        return "written"

    with ThreadPoolExecutor() as pool:
        for start in range(0, len(log), 8):
            records = log.slice(PARTITION, start, start + 8)
            batches = [batch_of(writer, PARTITION, records) for writer in writers]
            assert sorted(pool.map(apply, writers, batches)) == ["fenced", "written"]
    check_equal(store, Model(log).advance())


def stop_in_transaction(writer: PostgresWriter) -> None:
    """Leave a writer where a process that is stopped after its fence leaves PostgreSQL."""
    connection = writer._session.open()
    connection.execute("BEGIN")
    connection.execute(
        "UPDATE checkpoints SET next_offset = next_offset WHERE partition = %s", (PARTITION,)
    )


def test_a_stopped_writer_makes_its_successor_wait_no_longer_than_its_timeout(
    store: PostgresStore,
) -> None:
    log = one_partition()
    stopped = store.writer(Timeouts(idle_in_transaction=200))
    successor = store.writer(Timeouts(lock=FOREVER))
    batch = batch_of(successor, PARTITION, log.records[PARTITION])
    stop_in_transaction(stopped)
    successor.apply([batch])
    check_equal(store, Model(log).advance())
    # It finds out that it was cut off, and then goes on from where the other one is.
    with pytest.raises(StoreError):
        stopped.checkpoints()
    assert stopped.checkpoints()[PARTITION].next_offset == len(log)


def test_who_waits_for_a_lock_for_too_long_writes_nothing(store: PostgresStore) -> None:
    log = one_partition()
    stopped = store.writer(Timeouts(idle_in_transaction=FOREVER))
    successor = store.writer(Timeouts(lock=100))
    batch = batch_of(successor, PARTITION, log.records[PARTITION])
    stop_in_transaction(stopped)
    with pytest.raises(StoreError) as caught:
        successor.apply([batch])
    assert not isinstance(caught.value, FencedError)
    assert "tried again" in str(caught.value.hint)
    stopped.close()
    # The same batch is as it was.
    successor.apply([batch])
    check_equal(store, Model(log).advance())


async def test_a_connection_that_is_cut_in_the_middle_of_a_batch_leaves_nothing_of_it(
    store: PostgresStore,
) -> None:
    log = one_partition()
    writer, half = store.writer(), len(log) // 2
    writer.apply([batch_of(writer, PARTITION, log.slice(PARTITION, 0, half + 1))])
    batch = batch_of(writer, PARTITION, log.slice(PARTITION, half + 1, len(log)))
    before = without_names(store)
    with (
        store.connect() as other,
        store.connect() as watching,
        ThreadPoolExecutor() as pool,
        other.transaction(),
    ):
        # After the checkpoint and the new rows come those that are changed.
        other.execute("SELECT 1 FROM jobs FOR UPDATE")
        applied: Future[None] = pool.submit(writer.apply, [batch])
        await until(lambda: waiting(watching))
        watching.execute("SELECT pg_terminate_backend(%s)", (waiting(watching),))
        with pytest.raises(StoreError) as caught:
            applied.result()
        assert "connected to again" in str(caught.value.hint)
    assert without_names(store) == before
    writer.apply([batch])
    check_equal(store, Model(log).advance())


def without_names(store: PostgresStore) -> dict[str, list[tuple[Any, ...]]]:
    """Return all rows but those of names, which are numbered before a batch is written."""
    names = ("types", "audiences", "audience_members")
    return {table: rows for table, rows in store.rows().items() if table not in names}


def waiting(connection: psycopg.Connection[tuple[int, ...]]) -> int | None:
    """Return the process of the session that waits to change a job."""
    row = connection.execute(
        "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' "
        "AND query LIKE 'UPDATE jobs%'"
    ).fetchone()
    return row[0] if row else None


def test_a_crash_of_the_server_may_take_the_last_commits_whole(store: PostgresStore) -> None:
    with store.writer()._session.use() as connection:
        assert connection.execute("SHOW synchronous_commit").fetchone() == ("off",)
    with store.reader()._session.use() as connection:
        assert connection.execute("SHOW synchronous_commit").fetchone() == ("on",)
