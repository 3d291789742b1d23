"""A part of a store that is emptied and folded anew, under the eyes of everyone who has it open."""

from __future__ import annotations

import random

import pytest

from jobtrail.core.errors import FencedError
from jobtrail.core.partitions import partition_of
from projections.ports.read import Caller, Filters
from projections.ports.write import Checkpoint
from tests.contract.store_checks import check_counters, check_equal, check_snapshot, listed
from tests.contract.store_feeding import batch_of, feed, fill, projecting
from tests.contract.store_model import Model
from tests.contract.store_streams import BASE, PARTITIONS, Log, seeded_log
from tests.contract.stores import Kit
from tests.groups import MemoryLog, group_of


def other_log(seed: int) -> Log:
    """Return a log of moderate size."""
    return seeded_log(seed, jobs=60, events=400, steady=1)


def emptied(store: Kit) -> set[int]:
    """Return the partitions whose checkpoint is back at the start."""
    writer = store.writer()
    found = {p for p, checkpoint in writer.checkpoints().items() if checkpoint.next_offset == 0}
    writer.close()
    return found


def by_owner(owners: tuple[str, ...], partition: int = 2) -> Log:
    """Return a log of one partition: a job for each owner, in that order."""
    log, number = Log(), 0
    for owner in owners:
        number += 1
        while partition_of(f"{owner}-{number}", PARTITIONS) != partition:
            number += 1
        log.tell("created", f"{owner}-{number}", BASE, owner=owner, jobType=f"type of {owner}")
    return log


async def test_a_reset_empties_a_part_and_leaves_the_rest(store: Kit) -> None:
    log, partition = other_log(81), 5
    await fill(store, log)
    writer = store.writer()
    before = writer.checkpoints()
    writer.reset(partition, log.begins(), log.ends())
    gone = emptied(store)
    assert partition in gone
    for number, checkpoint in writer.checkpoints().items():
        end = log.ends()[number]
        expected = Checkpoint(0, None, end) if number in gone else before[number]
        assert checkpoint == expected
    kept = {p: 0 if p in gone else end for p, end in log.ends().items()}
    model = Model(log).advance(kept)
    check_equal(store, model)
    with store.reader().snapshot() as snapshot:
        assert snapshot.held.recovering == gone
        lost = [j for j in Model(log).advance().jobs if partition_of(j, PARTITIONS) in gone]
        assert snapshot.watched(lost) == {}
    for number in gone:
        assert sum(store.tallies()[number]) == 0


async def test_a_part_recovers_when_it_is_where_it_has_to_be(store: Kit) -> None:
    log = other_log(82)
    await fill(store, log)
    writer, reader = store.writer(), store.reader()
    writer.reset(3, log.begins(), log.ends())
    gone = emptied(store)
    async with projecting(writer) as projector:
        for partition in sorted(gone):
            for offset in range(len(log.records[partition])):
                with reader.snapshot() as snapshot:
                    assert partition in snapshot.held.recovering
                await projector.apply(partition, group_of(log.slice(partition, offset, offset + 1)))
            gone.discard(partition)
            with reader.snapshot() as snapshot:
                assert snapshot.held.recovering == gone
        assert {c.recover_to for c in (await projector.checkpoints()).values()} <= {
            0,
            *log.ends().values(),
        }
    check_equal(store, Model(log).advance())


def test_a_new_store_recovers_as_well(unmade: Kit) -> None:
    log = by_owner(("alice", "bob"))
    unmade.create(ends=log.ends())
    writer, reader = unmade.writer(), unmade.reader()
    for offset in range(2):
        with reader.snapshot() as snapshot:
            assert snapshot.held.recovering == {2}
        writer.apply([batch_of(writer, 2, log.slice(2, offset, offset + 1))])
    with reader.snapshot() as snapshot:
        assert snapshot.held.recovering == frozenset()


async def test_what_the_log_has_lost_is_not_waited_for(unmade: Kit) -> None:
    """The log ended later when the store was made, and lost what was not folded yet."""
    log = by_owner(("alice", "bob", "carol"))
    unmade.create(ends={**log.ends(), 2: 50, 5: 9})
    reader, look = unmade.reader(), MemoryLog(dict(log.records))
    async with projecting(unmade.writer(), log=look) as projector:
        await projector.apply(2, group_of(log.slice(2, 0, 2)))
        with reader.snapshot() as snapshot:
            assert snapshot.held.recovering == {2, 5}
        await projector.look(log.records)
        with reader.snapshot() as snapshot:
            assert snapshot.held.recovering == {2}
        await projector.apply(2, group_of(log.slice(2, 2, 3)))
        with reader.snapshot() as snapshot:
            assert snapshot.held.recovering == frozenset()
        # What comes later was never waited for.
        await projector.look(log.records)
        assert (await projector.checkpoints())[2].recover_to == 3
    check_equal(unmade, Model(log).advance())


async def test_a_log_that_is_another_one_is_waited_for_as_long_as_before(
    unmade: Kit,
) -> None:
    log, other = by_owner(("alice", "bob")), by_owner(("carol", "dave"))
    unmade.create(ends={**log.ends(), 2: 50})
    look = MemoryLog(dict(log.records))
    async with projecting(unmade.writer(), log=look) as projector:
        await projector.apply(2, group_of(log.slice(2, 0, 2)))
        look.records = dict(other.records)
        await projector.look(log.records)
        assert (await projector.checkpoints())[2] == Checkpoint(0, None, 2)


async def test_an_open_reader_takes_no_name_for_another(store: Kit) -> None:
    owners = ("alice", "bob", "carol", "dave")
    first, second = by_owner(owners), by_owner(owners[::-1])
    writer, reader = store.writer(), store.reader()
    for log in (first, second):
        async with projecting(store.writer()) as projector:
            await feed(projector, log, random.Random(1))
        model = Model(log).advance()
        with reader.snapshot() as snapshot:
            check_snapshot(snapshot, model)
            for owner in owners:
                found = listed(snapshot, Caller(owner), Filters(), size=9)
                assert [(job.owner, job.job_type) for job in found] == [(owner, f"type of {owner}")]
        writer.reset(2, Log().begins(), Log().ends())


async def test_another_log_is_folded_into_a_store_that_all_have_open(store: Kit) -> None:
    first, second = other_log(83), other_log(84)
    writer, reader = store.writer(), store.reader()
    async with projecting(writer) as projector:
        await feed(projector, first, random.Random(83))
        with reader.snapshot() as snapshot:
            check_snapshot(snapshot, Model(first).advance())
        for partition in range(PARTITIONS):
            writer.reset(partition, second.begins(), second.ends())
        await feed(projector, second, random.Random(84))
        with reader.snapshot() as snapshot:
            check_snapshot(snapshot, Model(second).advance())
            assert snapshot.held.recovering == frozenset()
        check_equal(store, Model(second).advance())


async def test_a_view_that_is_open_during_a_reset_stays_as_it_is(store: Kit) -> None:
    log = other_log(85)
    await fill(store, log)
    writer, model = store.writer(), Model(log).advance()
    with store.reader().snapshot() as snapshot:
        watched = snapshot.watched(list(model.jobs)[:1])
        for partition in range(PARTITIONS):
            writer.reset(partition, log.begins(), log.ends())
        assert watched
        check_snapshot(snapshot, model)
    check_counters(store, Model(log))


async def test_a_projector_that_held_jobs_of_an_emptied_part_asks_for_records_again(
    store: Kit,
) -> None:
    log = by_owner(tuple(f"o{n}" for n in range(20)))
    async with projecting(store.writer()) as projector:
        await projector.apply(2, group_of(log.slice(2, 0, 10)))
        other = store.writer()
        other.reset(2, log.begins(), log.ends())
        before = store.rows()
        with pytest.raises(FencedError):
            await projector.apply(2, group_of(log.slice(2, 10, 20)))
        assert store.rows() == before
        assert (await projector.start_offsets({2})) == {2: 0}
        await projector.apply(2, group_of(log.records[2]))
    check_equal(store, Model(log).advance())


async def test_a_writer_takes_no_name_for_another_after_somebody_elses_reset(
    store: Kit,
) -> None:
    owners = ("alice", "bob", "carol", "dave")
    first, second = by_owner(owners), by_owner(owners[::-1])
    writer, other = store.writer(), store.writer()
    writer.apply([batch_of(writer, 2, first.records[2])])
    writer.load(2, list(Model(first).advance().jobs))
    other.reset(2, second.begins(), second.ends())
    other.apply([batch_of(other, 2, second.slice(2, 0, 2))])
    # Where the store is now, as after an assignment.
    start = writer.checkpoints()[2].next_offset
    try:
        writer.apply([batch_of(writer, 2, second.slice(2, start, 4))])
    except FencedError:
        # To be fenced once is right as well: a projector then reads again.
        writer.apply([batch_of(writer, 2, second.slice(2, start, 4))])
    check_equal(store, Model(second).advance())


async def test_two_projectors_fold_a_part_anew_that_one_of_them_emptied(
    store: Kit,
) -> None:
    first, second = other_log(86), other_log(87)
    rng = random.Random(86)
    one_writer = store.writer()
    async with projecting(one_writer) as one, projecting(store.writer()) as other:
        await feed(one, first, rng, batches=10)
        await feed(other, first, rng)
        for partition in range(PARTITIONS):
            one_writer.reset(partition, second.begins(), second.ends())
        # As after a rebalance, both ask where to begin, and each takes a turn.
        await feed(one, second, rng, batches=10)
        await feed(other, second, rng, batches=10)
        await feed(one, second, rng)
    check_equal(store, Model(second).advance())


@pytest.mark.parametrize("cut", [(5, 6), (6,)], ids=["held jobs alone", "with a new job"])
async def test_a_projector_that_slept_through_a_reset_writes_into_no_other_job(
    store: Kit, cut: tuple[int, ...]
) -> None:
    ids = [job_id for job_id in map(str, range(99)) if partition_of(job_id, PARTITIONS) == 2]
    first, second = Log(), Log()
    for job_id in ids[:4]:
        first.tell("created", job_id, BASE, owner=f"owner of {job_id}")
    for job_id in ids[3::-1]:
        second.tell("created", job_id, BASE, owner=f"owner of {job_id}")
    second.tell("active", ids[0], BASE)
    second.tell("created", ids[4], BASE)
    async with projecting(store.writer()) as sleeper, projecting(store.writer()) as other:
        await sleeper.apply(2, group_of(first.records[2]))
        store.writer().reset(2, second.begins(), second.ends())
        await other.apply(2, group_of(second.slice(2, 0, 4)))
        # The checkpoint is where it was, but the rows behind it are others.
        start = 4
        for stop in cut:
            await sleeper.apply(2, group_of(second.slice(2, start, stop)))
            start = stop
    check_equal(store, Model(second).advance())
