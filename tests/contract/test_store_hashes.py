"""Jobs whose ids have one hash, by which the store finds them: each is found, and is itself."""

from __future__ import annotations

import random

import pytest
from xxhash import xxh3_64_intdigest

from jobtrail.job import STATE_CODES
from jobtrail.states import State
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
