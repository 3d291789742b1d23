"""Who may write: only the one whose batch begins where the store's checkpoint is."""

from __future__ import annotations

import asyncio
import random

import pytest

from jobtrail.core.errors import FencedError, LogChanged, LogGapError, StoreError
from jobtrail.core.partitions import partition_of
from jobtrail.log.questions import last_record
from tests.contract.store_checks import check_equal
from tests.contract.store_feeding import Graveyard, batch_of, feed, fill, projecting
from tests.contract.store_model import Model
from tests.contract.store_streams import BASE, PARTITIONS, Log, seeded_log
from tests.contract.stores import Kit
from tests.groups import MemoryLog, group_of


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


def test_a_batch_that_begins_elsewhere_writes_nothing(store: Kit) -> None:
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


def test_a_batch_for_a_partition_that_the_log_has_not_writes_nothing(store: Kit) -> None:
    log, writer = one_partition(), store.writer()
    before = store.rows()
    with pytest.raises(FencedError):
        writer.apply([batch_of(writer, 5, log.slice(5, 0, 5))._replace(partition=PARTITIONS)])
    assert store.rows() == before


def test_a_fenced_writer_goes_on_rightly_after_it_read_again(store: Kit) -> None:
    log, winner, loser = one_partition(), store.writer(), store.writer()
    stale = batch_of(loser, 5, log.slice(5, 0, 9))
    winner.apply([batch_of(winner, 5, log.slice(5, 0, 4))])
    with pytest.raises(FencedError):
        loser.apply([stale])
    # Whatever numbers the loser gave to the names in its batch were never given.
    winner.apply([batch_of(winner, 5, log.slice(5, 4, 6))])
    loser.apply([batch_of(loser, 5, log.slice(5, 6, len(log)))])
    check_equal(store, Model(log).advance())


def test_the_same_batch_twice_is_fenced_the_second_time(store: Kit) -> None:
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
async def test_two_projectors_in_turn_give_the_fold(store: Kit, seed: int) -> None:
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
                await projector.apply(partition, group_of(log.slice(partition, start, stop)))
                reached[projector][partition] = stop
    check_equal(store, Model(log).advance())


async def test_two_projectors_at_once_give_the_fold(store: Kit) -> None:
    log = seeded_log(53, jobs=80, events=600, steady=1)
    async with projecting(store.writer()) as one, projecting(store.writer()) as other:
        await asyncio.gather(
            feed(one, log, random.Random(1), most=15), feed(other, log, random.Random(2), most=15)
        )
    check_equal(store, Model(log).advance())


async def test_a_projector_that_others_overtook_goes_on_where_they_are(
    store: Kit,
) -> None:
    log = one_partition(jobs=20)
    async with projecting(store.writer()) as slow, projecting(store.writer()) as quick:
        await slow.apply(5, group_of(log.slice(5, 0, 10)))
        await quick.apply(5, group_of(log.slice(5, 10, 30)))
        # Overlaps what is applied; lies wholly before it; begins right behind it.
        await slow.apply(5, group_of(log.slice(5, 10, 34)))
        await quick.apply(5, group_of(log.slice(5, 30, 32)))
        await quick.apply(5, group_of(log.slice(5, 34, 36)))
        await slow.apply(5, group_of(log.slice(5, 36, 40)))
    check_equal(store, Model(log).advance())


# --- gaps and redeliveries


async def test_a_hole_stops_its_partition_alone_and_nothing_of_it_is_applied(
    store: Kit, caplog: pytest.LogCaptureFixture
) -> None:
    log = seeded_log(55, jobs=60, events=400, steady=1)
    partition = max(log.records, key=lambda p: len(log.records[p]))
    others = {p: records for p, records in log.records.items() if p != partition and records}
    whole = log.records[partition]
    look = MemoryLog({**log.records, partition: whole[:10] + whole[11:]})
    async with projecting(store.writer(), log=look) as projector:
        await projector.apply(partition, group_of(whole[:10]))
        for number in range(11, 20):
            await projector.apply(partition, group_of(log.slice(partition, number, number + 1)))
        assert "offset 10" in projector.stopped[partition]
        assert f"jobtrail skip --partition {partition} --to 11" in projector.stopped[partition]
        for other, records in others.items():
            await projector.apply(other, group_of(records))
        found = await projector.checkpoints()
        assert found[partition].next_offset == 10
        assert all(found[p].next_offset == len(records) for p, records in others.items())
        assert [r for r in caplog.messages if "action=log_hole" in r] != []
        assert len([r for r in caplog.messages if "action=log_hole" in r]) == 1
        # The segment was restored: delivered again from where it was left, it goes on.
        look.records = dict(log.records)
        await projector.start_offsets({partition})
        with pytest.raises(FencedError):
            await projector.apply(partition, group_of(whole[11:]))
        await projector.start_offsets({partition})
        assert not projector.stopped
        await projector.apply(partition, group_of(log.records[partition]))
    check_equal(store, Model(log).advance())


@pytest.mark.parametrize("why", ["begins later", "compacted"])
async def test_offsets_that_are_missing_for_a_reason_are_passed_over(store: Kit, why: str) -> None:
    log = one_partition(jobs=20)
    there = log.slice(5, 0, 10) + log.slice(5, 16, 40)
    look = MemoryLog({**log.records, 5: there}, compacted=why == "compacted")
    async with projecting(store.writer(), log=look) as projector:
        await projector.apply(5, group_of(log.slice(5, 0, 10)))
        if why == "begins later":
            look.began[5] = 16
        await projector.apply(5, group_of(log.slice(5, 16, 30)))
        checkpoint = (await projector.checkpoints())[5]
        assert checkpoint.next_offset == 30
        assert checkpoint.last == last_record(log.records[5][29], 0)
    assert store.tallies()[5].applied == 24


@pytest.mark.parametrize("begin", [0, 4])
async def test_a_fetch_without_a_record_moves_the_checkpoint(store: Kit, begin: int) -> None:
    """Control records and aborted transactions take offsets, at the end of the log too."""
    log = one_partition(jobs=20)
    async with projecting(store.writer()) as projector:
        if begin:
            await projector.apply(5, group_of(log.slice(5, 0, begin)))
        await projector.apply(5, group_of([], begin=begin, next_offset=7))
        checkpoint = (await projector.checkpoints())[5]
        last = last_record(log.records[5][begin - 1], 0) if begin else None
        assert checkpoint == (7, last, 0)
        await projector.apply(5, group_of(log.slice(5, 7, 9), next_offset=12))
        assert (await projector.checkpoints())[5].next_offset == 12
    assert sum(store.tallies()[5]) == begin + 2


def another(log: Log) -> Log:
    """Return a log of the same jobs in which other things happened."""
    other = Log()
    for partition, records in log.records.items():
        for record in records:
            at = record.timestamp + 1
            other.add(record.value, record.key, partition=partition, timestamp=at)
    return other


@pytest.mark.parametrize("how", ["epoch", "breaks"])
async def test_what_comes_of_another_log_is_not_folded_onto_this_one(store: Kit, how: str) -> None:
    log = seeded_log(56, jobs=60, events=400, steady=1)
    look = MemoryLog(dict(log.records))
    partition = max(log.records, key=lambda p: len(log.records[p]))
    async with projecting(store.writer(), log=look) as projector:
        for number, records in log.records.items():
            if records:
                await projector.apply(number, group_of(records[: len(records) // 2]))
        replaced = another(log)
        look.records = dict(replaced.records)
        half = len(log.records[partition]) // 2
        rest = replaced.slice(partition, half, len(log.records[partition]))
        with pytest.raises(FencedError):
            await projector.apply(partition, group_of(rest, **{how: 1}))
        checkpoints = await projector.checkpoints()
        assert checkpoints[partition].next_offset == 0
        assert checkpoints[partition].recover_to == len(log.records[partition])
        await projector.look(log.records)
        assert all(one.next_offset == 0 for one in (await projector.checkpoints()).values())
        await feed(projector, replaced, random.Random(1))
    check_equal(store, Model(replaced).advance())


async def test_a_log_that_is_refilled_between_two_beats_is_found(store: Kit) -> None:
    """Neither connection nor leader has changed, and the last record is the new log's own."""
    log, replaced = one_partition(jobs=20), one_partition(jobs=20)
    replaced.records[5] = another(log).records[5]
    look = MemoryLog(dict(log.records))
    async with projecting(store.writer(), log=look) as projector:
        await projector.apply(5, group_of(log.slice(5, 0, 10)))
        await projector.look({5})
        assert not projector.wants_records_again
        look.records = dict(replaced.records)
        await projector.apply(5, group_of(replaced.slice(5, 10, 20)))
        await projector.look({5})
        assert projector.wants_records_again
        await feed(projector, replaced, random.Random(1))
    check_equal(store, Model(replaced).advance())


async def test_another_number_of_partitions_is_refused_before_anything_counts_as_no_event(
    store: Kit,
) -> None:
    log, graveyard = one_partition(), Graveyard()
    look = MemoryLog({**log.records, PARTITIONS: []}, trusted=True)
    misrouted = [record._replace(partition=6) for record in log.slice(5, 0, 3)]
    async with projecting(store.writer(), graveyard, log=look) as projector:
        before = store.rows()
        with pytest.raises(LogChanged) as caught:
            await projector.apply(6, group_of(misrouted))
        assert "jobtrail log copy" in str(caught.value)
        assert store.rows() == before
        with pytest.raises(LogChanged):
            await projector.look({5})
    assert graveyard.letters == []


async def test_redelivery_of_everything_changes_nothing(store: Kit) -> None:
    log, graveyard = seeded_log(54, jobs=60, events=400, steady=1), Graveyard()
    await fill(store, log)
    before = store.rows()
    async with projecting(store.writer(), graveyard) as projector:
        for partition, records in log.records.items():
            await projector.apply(partition, group_of(records))
            for record in records[::7]:
                await projector.apply(partition, group_of([record]))
    assert store.rows() == before
    assert graveyard.letters == []


async def test_a_batch_that_overlaps_is_applied_from_where_it_is_new(
    store: Kit,
) -> None:
    log, end = one_partition(jobs=20), 5
    async with projecting(store.writer()) as projector:
        await projector.apply(5, group_of(log.slice(5, 0, end)))
        for back in (1, 2, 4, 9, 20):
            await projector.apply(5, group_of(log.slice(5, max(0, end - back), end + 7)))
            end += 7
    assert end == len(log)
    assert store.tallies()[5].duplicate == 0
    check_equal(store, Model(log).advance())
