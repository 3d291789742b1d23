"""Jobs whose ids have one hash, by which the store finds them: each is found, and is itself.

Each store draws a seed for its hashes, so that nobody can make such ids. Here it has one that is
known.
"""

from __future__ import annotations

import random
import tracemalloc

import pytest
from xxhash import xxh3_64_intdigest

from jobtrail.core.job import STATE_CODES
from jobtrail.core.states import State
from tests.contract.store_checks import EVERYBODY, check_equal
from tests.contract.store_feeding import feed, projecting
from tests.contract.store_model import Model
from tests.contract.store_streams import BASE, Log
from tests.contract.stores import SqliteStore

#: Ids with the same XXH3 of 64 bits, found by walking from hash to hash.
ALIKE = (
    ("aea37848c6fe7663", "21e8d147469431e4"),
    ("a05d18829efd1db5", "f8d17d071996c86f"),
    ("256fc9ef0c9fd61b", "12546ecbd1313e6b"),
)


@pytest.mark.parametrize(("one", "other"), ALIKE)
async def test_jobs_with_the_same_hash_are_two_jobs(
    store: SqliteStore, one: str, other: str
) -> None:
    assert xxh3_64_intdigest(one.encode()) == xxh3_64_intdigest(other.encode())
    store.use_known_seed()
    log, rng = Log(), random.Random(1)
    for told in (
        [("created", one)],
        [("created", other)],
        [("active", other), ("active", one)],
        [("failed", one)],
        [("completed", other)],
    ):
        for kind, job_id in told:
            log.tell(kind, job_id, BASE)
        # Held by nobody: each time the store has to be asked.
        async with projecting(store.writer()) as projector:
            await feed(projector, log, rng, again=0.0)
        check_equal(store, Model(log).advance())
    reader = store.reader()
    with reader.snapshot() as snapshot:
        for asked in ([one], [other], [other, one]):
            found = snapshot.states(EVERYBODY, asked)
            assert {job_id for job_id, *_ in found} == set(asked)
            assert snapshot.watched(asked).keys() == set(asked)
        states = {job_id: state for job_id, state, _output in found}
    assert states == {one: STATE_CODES[State.FAILED], other: STATE_CODES[State.COMPLETED]}


async def test_a_job_is_not_taken_for_an_unknown_one_with_its_hash(store: SqliteStore) -> None:
    store.use_known_seed()
    log = Log()
    for one, _other in ALIKE:
        log.tell("created", one, BASE)
    writer = store.writer()
    async with projecting(writer) as projector:
        await feed(projector, log, random.Random(2))
        with store.reader().snapshot() as snapshot:
            unknown = [other for _one, other in ALIKE]
            assert snapshot.states(EVERYBODY, unknown) == []
            assert snapshot.watched(unknown) == {}
            assert writer.load(0, unknown) == {}
            assert snapshot.states(EVERYBODY, [ALIKE[0][0], ALIKE[1][1]]) == [
                (ALIKE[0][0], 0, None)
            ]


async def test_nothing_wide_is_read_of_jobs_that_only_have_the_same_hash(
    store: SqliteStore,
) -> None:
    store.use_known_seed()
    log, size = Log(), 60_000
    for one, other in ALIKE:
        log.tell("created", one, BASE)
        log.tell("completed", other, BASE, output="x" * size)
    async with projecting(store.writer()) as projector:
        await feed(projector, log, random.Random(3))
    writer = store.writer()
    asked = [one for one, _other in ALIKE]
    with store.reader().snapshot() as snapshot:
        tracemalloc.start()
        try:
            assert len(snapshot.states(EVERYBODY, asked)) == len(asked)
            assert snapshot.watched(asked).keys() == set(asked)
            for shard in range(store.shards):
                writer.load(shard, asked)
            _now, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < size


def test_each_part_of_a_store_draws_its_own_seed_each_time_it_is_filled(
    store: SqliteStore,
) -> None:
    before = store.seeds()
    store.writer().reset(0, dict.fromkeys(range(8), 0), dict.fromkeys(range(8), 0))
    found = [*before, store.seeds()[0]]
    assert 0 not in found
    assert len(set(found)) == len(found)


async def test_jobs_are_found_by_one_who_knew_the_store_before_it_was_filled_anew(
    store: SqliteStore,
) -> None:
    log = Log()
    for number in range(20):
        log.tell("created", f"job-{number}", BASE)
    ids = [f"job-{number}" for number in range(20)]
    other, reader = store.writer(), store.reader()
    none = dict.fromkeys(log.records, 0)
    for _turn in range(2):
        async with projecting(store.writer()) as projector:
            await feed(projector, log, random.Random(4))
        with reader.snapshot() as snapshot:
            assert {job_id for job_id, *_ in snapshot.states(EVERYBODY, ids)} == set(ids)
            assert snapshot.watched(ids).keys() == set(ids)
        for partition in log.records:
            other.reset(partition, none, none)
