"""A store that can't be written: nothing is half-written, and it goes on when it can."""

from __future__ import annotations

import asyncio
import contextlib
import random

import pytest

from jobtrail.core.errors import FencedError, StoreError
from tests.contract.store_checks import check_counters, check_equal, check_snapshot
from tests.contract.store_feeding import batch_of, feed, projecting
from tests.contract.store_model import Model
from tests.contract.store_process import Retries
from tests.contract.store_streams import BASE, Log, seeded_log
from tests.contract.stores import SqliteStore
from tests.contract.test_store_fencing import one_partition
from tests.groups import group_of

HEAVY = 400


def heavy_log() -> Log:
    """Return a log whose every ten events need new pages."""
    log = one_partition(jobs=40)
    jobs = list(Model(log).advance().jobs)
    for number in range(200):
        log.tell("failed", jobs[number % 40], BASE + number, output="x" * HEAVY, attempt=number)
        log.tell("active", jobs[number % 40], BASE + number, attempt=number + 1)
    return log


def test_a_batch_that_does_not_fit_is_not_written_at_all(store: SqliteStore) -> None:
    log, writer = heavy_log(), store.writer()
    writer.apply([batch_of(writer, 5, log.slice(5, 0, 20))])
    before, batch = store.rows(), batch_of(writer, 5, log.slice(5, 20, len(log)))
    with store.full_disk(writer):
        for _ in range(2):
            with pytest.raises(StoreError) as caught:
                writer.apply([batch])
            assert not isinstance(caught.value, FencedError)
            assert store.rows() == before
    writer.apply([batch])
    check_equal(store, Model(log).advance())


def test_the_error_says_what_the_matter_is(store: SqliteStore) -> None:
    log, writer = heavy_log(), store.writer()
    with store.full_disk(writer), pytest.raises(StoreError) as caught:
        writer.apply([batch_of(writer, 5, log.records[5])])
    assert "full" in str(caught.value.found)
    assert caught.value.where
    assert caught.value.hint


def test_reads_go_on_while_nothing_can_be_written(store: SqliteStore) -> None:
    log, writer, reader = heavy_log(), store.writer(), store.reader()
    writer.apply([batch_of(writer, 5, log.slice(5, 0, 20))])
    with store.full_disk(writer), reader.snapshot() as snapshot:
        with pytest.raises(StoreError):
            writer.apply([batch_of(writer, 5, log.slice(5, 20, len(log)))])
        check_snapshot(snapshot, Model(log).advance({5: 20}))
        assert writer.checkpoints()[5].next_offset == 20
        assert len(writer.load(5, list(Model(log).advance().jobs))) == 10


async def test_a_projector_tries_again_until_the_disk_has_room(store: SqliteStore) -> None:
    log, writer = heavy_log(), store.writer()
    async with projecting(writer) as projector:
        await projector.apply(5, group_of(log.slice(5, 0, 20)))
        before = store.rows()
        with Retries() as retries:
            with store.full_disk(writer):
                task = asyncio.create_task(projector.apply(5, group_of(log.slice(5, 20, 300))))
                for _ in range(2):
                    await retries.seen.wait()
                    retries.seen.clear()
                    assert store.rows() == before
            await task
        assert len(retries.messages) >= 2
        await projector.apply(5, group_of(log.records[5]))
    assert store.tallies()[5].duplicate == 0
    check_equal(store, Model(log).advance())


async def test_a_projector_that_was_interrupted_while_it_tried_goes_on_rightly(
    store: SqliteStore,
) -> None:
    log, writer = heavy_log(), store.writer()
    async with projecting(writer) as projector:
        await projector.apply(5, group_of(log.slice(5, 0, 20)))
        with Retries() as retries, store.full_disk(writer):
            task = asyncio.create_task(projector.apply(5, group_of(log.slice(5, 20, 300))))
            await retries.seen.wait()
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await projector.apply(5, group_of(log.slice(5, 20, len(log))))
    assert store.tallies()[5].duplicate == 0
    check_equal(store, Model(log).advance())


async def test_a_fence_is_seen_behind_a_full_disk(store: SqliteStore) -> None:
    log, writer = heavy_log(), store.writer()
    async with projecting(writer) as slow, projecting(store.writer()) as quick:
        await slow.apply(5, group_of(log.slice(5, 0, 20)))
        with Retries() as retries:
            with store.full_disk(writer):
                task = asyncio.create_task(slow.apply(5, group_of(log.slice(5, 20, 300))))
                await retries.seen.wait()
                await quick.apply(5, group_of(log.slice(5, 20, 200)))
            await task
        await quick.apply(5, group_of(log.slice(5, 200, len(log))))
    check_equal(store, Model(log).advance())


async def test_names_of_a_batch_that_failed_mean_nothing_later(store: SqliteStore) -> None:
    log = seeded_log(95, jobs=60, events=400, steady=0)
    big = heavy_log()
    writer, other = store.writer(), store.writer()
    with store.full_disk(writer), pytest.raises(StoreError):
        writer.apply([batch_of(writer, 5, big.records[5])])
    async with projecting(other) as projector:
        await feed(projector, log, random.Random(95), batches=20)
    async with projecting(writer) as projector:
        await feed(projector, log, random.Random(96))
    model = Model(log).advance()
    check_counters(store, model)
    check_equal(store, model)


async def test_a_view_stays_as_it_is_while_batches_are_written(store: SqliteStore) -> None:
    log, rng = seeded_log(96, jobs=60, events=400, steady=1), random.Random(96)
    reader, model = store.reader(), Model(log)
    async with projecting(store.writer()) as projector:
        while model.position != log.ends():
            with reader.snapshot() as snapshot:
                model.advance(snapshot.held.position)
                await feed(projector, log, rng, batches=3)
                check_snapshot(snapshot, model)
    check_equal(store, model)
