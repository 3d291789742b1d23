"""Any store equals the pure fold of the log, at any position, however the log was cut."""

from __future__ import annotations

import random

import pytest

from jobtrail.core.job import entries_of
from jobtrail.core.partitions import partition_of
from jobtrail.core.trail import CHUNK_ENTRIES
from tests.contract.store_checks import (
    check_counters,
    check_equal,
    check_snapshot,
    with_whole_trail,
)
from tests.contract.store_feeding import batch_of, feed, fill, projecting
from tests.contract.store_model import Model, whole
from tests.contract.store_streams import BASE, DAY, PARTITIONS, Log, seeded_log
from tests.contract.stores import Kit


def test_the_logs_hold_what_these_tests_are_about() -> None:
    model = Model(seeded_log(11)).advance()
    tally = [sum(column) for column in zip(*model.tallies().values(), strict=True)]
    assert tally[1] > 0.08 * sum(tally)
    assert min(tally) > 5
    jobs = model.jobs.values()
    assert sum(entries_of(job) > 200 for job in jobs) >= 3
    assert any(job.owner is None for job in jobs)
    assert len({job.created_at for job in jobs}) < len(jobs) - 30
    assert any(len(job.tags) == 32 for job in jobs)


@pytest.mark.parametrize("seed", range(11, 15))
async def test_any_cut_into_batches_gives_the_fold(store: Kit, seed: int) -> None:
    log, rng = seeded_log(seed), random.Random(seed)
    model, reader = Model(log), store.reader()
    async with projecting(store.writer()) as projector:
        for _ in range(4):
            await feed(projector, log, rng, batches=12)
            with reader.snapshot() as snapshot:
                check_snapshot(snapshot, model.advance(snapshot.held.position))
            check_counters(store, model)
        await feed(projector, log, rng)
    check_equal(store, model.advance())


@pytest.mark.parametrize("most", [1, 10_000])
async def test_the_smallest_and_the_largest_batches_give_the_fold(store: Kit, most: int) -> None:
    log = seeded_log(14, jobs=40, events=200, steady=1)
    await fill(store, log, most=most, again=0.0)
    check_equal(store, Model(log).advance())


async def test_a_log_that_begins_later_is_folded_from_there(unmade: Kit) -> None:
    whole_log = seeded_log(15, jobs=40, events=300, steady=0)
    log = Log(first=1_000_000)
    for record in (r for records in whole_log.records.values() for r in records):
        log.add(record.value, record.key, partition=record.partition, timestamp=record.timestamp)
    unmade.create(begins=dict.fromkeys(range(PARTITIONS), log.first))
    await fill(unmade, log)
    check_equal(unmade, Model(log).advance())


@pytest.mark.parametrize("step", [1, CHUNK_ENTRIES, 150])
def test_a_trail_of_any_length_is_kept_whole(store: Kit, step: int) -> None:
    log = Log()
    for _ in range(3 * CHUNK_ENTRIES + 5):
        log.tell("progress", "long", BASE)
    partition = partition_of("long", PARTITIONS)
    model, writer, reader = Model(log), store.writer(), store.reader()
    for start in range(0, len(log), step):
        batch = batch_of(writer, partition, log.slice(partition, start, start + step))
        writer.apply([batch])
        with reader.snapshot() as snapshot:
            model.advance(snapshot.held.position)
            found = with_whole_trail(snapshot, snapshot.watched(["long"])["long"])
            assert whole(found) == whole(model.jobs["long"])
    held, expected = writer.load(partition, ["long"])["long"].job, model.jobs["long"]
    assert entries_of(held) == entries_of(expected)
    held.earlier, expected.earlier = None, None
    assert held == expected


async def test_an_event_whose_entry_has_spilled_is_still_known(store: Kit) -> None:
    log = Log()
    first = log.tell("created", "long", BASE)
    for _ in range(3 * CHUNK_ENTRIES):
        log.tell("progress", "long", BASE)
    await fill(store, log)
    log.add(first.value, first.key)
    await fill(store, log)
    assert store.tallies()[first.partition].duplicate == 1
    check_equal(store, Model(log).advance())


def test_load_returns_what_is_known_of_any_number_of_ids(store: Kit) -> None:
    log, writer = Log(), store.writer()
    for number in range(1300):
        job_id = f"job-{number}"
        if partition_of(job_id, PARTITIONS) == 3:
            log.tell("created", job_id, BASE + number * DAY // 100, bulkId=f"b-{number % 3}")
    model = Model(log).advance()
    assert len(model.jobs) > 100
    writer.apply([batch_of(writer, 3, log.records[3])])
    unknown = [f"unknown-{number}" for number in range(1200)]
    ids = [job_id for pair in zip(unknown, model.jobs, strict=False) for job_id in pair]
    found = writer.load(3, [*ids, *unknown[len(model.jobs) :]])
    assert {job_id: whole(entry.job) for job_id, entry in found.items()} == {
        job_id: whole(job) for job_id, job in model.jobs.items()
    }
    assert writer.load(3, []) == {}


async def test_the_first_tags_are_kept_through_reloads(store: Kit) -> None:
    log = Log()
    for turn in range(5):
        tags = {f"{'zyxwv'[turn]}{n}": str(turn) for n in range(9)}
        log.tell("progress", "tagged", BASE, tags=tags)
        await fill(store, log)
    model = Model(log).advance()
    assert len(model.jobs["tagged"].tags) == 32
    check_equal(store, model)


async def test_a_job_that_moves_between_audiences_leaves_nothing_behind(
    store: Kit,
) -> None:
    log, model = Log(), None
    log.tell("active", "mover", BASE + DAY)
    log.tell("created", "mover", BASE, jobType="scan", owner="bob", viewers=["group:admins"])
    for turn, owner in enumerate(("carol", "bob", "bob", "alice")):
        log.tell("cancelled", "mover", BASE + turn)
        log.tell("created", "mover", BASE, jobType=f"t{turn}", owner=owner, bulkId=f"b{turn}")
    partition = partition_of("mover", PARTITIONS)
    writer = store.writer()
    model = Model(log)
    for offset in range(len(log)):
        writer.apply([batch_of(writer, partition, log.slice(partition, offset, offset + 1))])
        check_counters(store, model.advance({partition: offset + 1}))
    check_equal(store, model)
    assert sum(map(len, store.counters().values())) == 2


async def test_a_resumed_job_may_change_its_bulk_alone(store: Kit) -> None:
    log, model = Log(), None
    log.tell("created", "resumed", BASE, bulkId="b-1")
    log.tell("cancelled", "resumed", BASE + 1)
    await fill(store, log)
    for bulk in ("b-2", None, "b-3"):
        log.tell("created", "resumed", BASE, **({"bulkId": bulk} if bulk else {}))
        log.tell("cancelled", "resumed", BASE + 1)
        await fill(store, log)
        model = Model(log).advance()
        assert model.jobs["resumed"].bulk_id == bulk
        check_equal(store, model)
