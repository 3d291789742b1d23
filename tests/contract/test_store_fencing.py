"""Who may write: only the one whose batch begins where the store's checkpoint is."""

from __future__ import annotations

import asyncio
import random

import pytest

from jobtrail.errors import FencedError, LogGapError, StoreError
from jobtrail.partitions import partition_of
from tests.contract.store_checks import check_equal
from tests.contract.store_feeding import Graveyard, batch_of, feed, fill, projecting
from tests.contract.store_model import Model
from tests.contract.store_streams import BASE, PARTITIONS, Log, seeded_log
from tests.contract.stores import SqliteStore


def one_partition(partition: int = 5, jobs: int = 12) -> Log:
    """Return a log whose jobs, each with an owner of its own, are all of one partition."""
    log, number = Log(), 0
    while len(log) < 2 * jobs:
        number += 1
        if partition_of(f"job-{number}", PARTITIONS) == partition:
            log.tell("created", f"job-{number}", BASE, owner=f"o{number}", jobType=f"t{number}")
            log.tell("active", f"job-{number}", BASE + number)
    return log


# --- the port


def test_a_batch_that_begins_elsewhere_writes_nothing(store: SqliteStore) -> None:
    log, writer = one_partition(), store.writer()
    writer.apply([batch_of(writer, 5, log.slice(5, 0, 5))])
    before = store.rows()
    for start in (0, 3, 4, 6, 7):
        batch = batch_of(writer, 5, log.slice(5, start, 12))
        with pytest.raises(FencedError) as caught:
            writer.apply([batch])
        assert store.rows() == before, start
        assert not caught.value.retriable
        assert f"offset {start}" in str(caught.value.expected)
        assert "offset 5" in str(caught.value.found)
        assert "partition 5" in str(caught.value.where)
    writer.apply([batch_of(writer, 5, log.slice(5, 5, len(log)))])
    check_equal(store, Model(log).advance())


def test_a_batch_for_a_partition_that_the_log_has_not_writes_nothing(store: SqliteStore) -> None:
    log, writer = one_partition(), store.writer()
    before = store.rows()
    with pytest.raises(FencedError):
        writer.apply([batch_of(writer, 5, log.slice(5, 0, 5))._replace(partition=PARTITIONS)])
    assert store.rows() == before


def test_a_fenced_writer_goes_on_rightly_after_it_read_again(store: SqliteStore) -> None:
    log, winner, loser = one_partition(), store.writer(), store.writer()
    stale = batch_of(loser, 5, log.slice(5, 0, 9))
    winner.apply([batch_of(winner, 5, log.slice(5, 0, 4))])
    with pytest.raises(FencedError):
        loser.apply([stale])
    # Whatever numbers the loser gave to the names in its batch were never given.
    winner.apply([batch_of(winner, 5, log.slice(5, 4, 6))])
    loser.apply([batch_of(loser, 5, log.slice(5, 6, len(log)))])
    check_equal(store, Model(log).advance())


def test_the_same_batch_twice_is_fenced_the_second_time(store: SqliteStore) -> None:
    log, writer = one_partition(), store.writer()
    batch = batch_of(writer, 5, log.records[5])
    writer.apply([batch])
    before = store.rows()
    with pytest.raises(FencedError):
        writer.apply([batch])
    assert store.rows() == before


def test_a_fenced_error_is_a_store_error() -> None:
    assert issubclass(FencedError, StoreError)
    assert issubclass(LogGapError, StoreError)


# --- two projectors on one store


@pytest.mark.parametrize("seed", [51, 52])
async def test_two_projectors_in_turn_give_the_fold(store: SqliteStore, seed: int) -> None:
    log, rng = seeded_log(seed, jobs=80, events=600, steady=1), random.Random(seed)
    ends = log.ends()
    async with projecting(store.writer()) as one, projecting(store.writer()) as other:
        both = (one, other)
        reached = {projector: await projector.start_offsets(set(ends)) for projector in both}
        while any(reached[p] != ends for p in both):
            projector = rng.choice(both)
            partition = rng.randrange(PARTITIONS)
            start = reached[projector][partition]
            stop = min(ends[partition], start + rng.randint(1, 30))
            if stop > start:
                await projector.apply(partition, log.slice(partition, start, stop))
                reached[projector][partition] = stop
    check_equal(store, Model(log).advance())


async def test_two_projectors_at_once_give_the_fold(store: SqliteStore) -> None:
    log = seeded_log(53, jobs=80, events=600, steady=1)
    async with projecting(store.writer()) as one, projecting(store.writer()) as other:
        await asyncio.gather(
            feed(one, log, random.Random(1), most=15), feed(other, log, random.Random(2), most=15)
        )
    check_equal(store, Model(log).advance())


async def test_a_projector_that_others_overtook_goes_on_where_they_are(
    store: SqliteStore,
) -> None:
    log = one_partition(jobs=20)
    async with projecting(store.writer()) as slow, projecting(store.writer()) as quick:
        await slow.apply(5, log.slice(5, 0, 10))
        await quick.apply(5, log.slice(5, 10, 30))
        # Overlaps what is applied; lies wholly before it; begins right behind it.
        await slow.apply(5, log.slice(5, 10, 34))
        await quick.apply(5, log.slice(5, 30, 32))
        await quick.apply(5, log.slice(5, 34, 36))
        await slow.apply(5, log.slice(5, 36, 40))
    check_equal(store, Model(log).advance())


# --- gaps and redeliveries


HOLES = ([11], [12, 13, 14], [10, 12], [10, 11, 13], [8, 9, 11], [*range(12), 13], [10, 13, 14])


async def test_missing_records_are_an_error_and_nothing_is_applied(store: SqliteStore) -> None:
    log, graveyard = one_partition(jobs=20), Graveyard()
    async with projecting(store.writer(), graveyard) as projector:
        await projector.apply(5, log.slice(5, 0, 10))
        before = store.rows()
        for offsets in (*HOLES, *HOLES):
            with pytest.raises(LogGapError) as caught:
                await projector.apply(5, [log.records[5][offset] for offset in offsets])
            assert store.rows() == before, offsets
            assert "offset 10" in str(caught.value.expected)
            assert caught.value.where == "partition 5"
            if offsets is HOLES[-1]:
                await projector.start_offsets({5})
        await projector.apply(5, log.records[5])
    assert graveyard.letters == []
    check_equal(store, Model(log).advance())


async def test_a_log_that_begins_behind_the_checkpoint_is_an_error(unmade: SqliteStore) -> None:
    unmade.create()
    log, before = one_partition(), unmade.rows()
    async with projecting(unmade.writer()) as projector:
        with pytest.raises(LogGapError):
            await projector.apply(5, log.slice(5, 1, 9))
    assert unmade.rows() == before


async def test_redelivery_of_everything_changes_nothing(store: SqliteStore) -> None:
    log, graveyard = seeded_log(54, jobs=60, events=400, steady=1), Graveyard()
    await fill(store, log)
    before = store.rows()
    async with projecting(store.writer(), graveyard) as projector:
        for partition, records in log.records.items():
            await projector.apply(partition, records)
            for record in records[::7]:
                await projector.apply(partition, [record])
    assert store.rows() == before
    assert graveyard.letters == []


async def test_a_batch_that_overlaps_is_applied_from_where_it_is_new(
    store: SqliteStore,
) -> None:
    log, end = one_partition(jobs=20), 5
    async with projecting(store.writer()) as projector:
        await projector.apply(5, log.slice(5, 0, end))
        for back in (1, 2, 4, 9, 20):
            await projector.apply(5, log.slice(5, max(0, end - back), end + 7))
            end += 7
    assert end == len(log)
    assert store.tallies()[5].duplicate == 0
    check_equal(store, Model(log).advance())
