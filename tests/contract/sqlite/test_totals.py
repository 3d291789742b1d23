"""Audiences with very many counters have totals beside them, exact from the first one on."""

from __future__ import annotations

import random
from typing import Final

import pytest

from jobtrail.core.states import State
from projections.ports.read import Caller, Filters, Snapshot
from projections.sqlite.tables.totals import MANY
from tests.contract.store_checks import (
    EVERYBODY,
    check_counters,
    check_equal,
    check_snapshot,
    listed,
)
from tests.contract.store_feeding import feed, projecting
from tests.contract.store_model import Model
from tests.contract.store_streams import BASE, DAY, Log
from tests.contract.stores import SqliteStore

#: Days over which the jobs are spread: on some of them each user is looked at.
_DAYS: Final = 4 * MANY
_BOTH: Final = Caller("alice", ("team",))


def long_history() -> Log:
    """Return a log of jobs of every day: of one who has many, and of another who has a few."""
    log, rng = Log(), random.Random(5)
    for day in range(_DAYS):
        for number in range(6):
            job = f"{day}-{number}"
            viewers = ["group:team"] if number == 5 else []
            kind = rng.choice(("scan", "export"))
            at = BASE + day * DAY + number
            log.tell("created", job, at, owner="alice", jobType=kind, viewers=viewers)
            if rng.random() < 0.5:
                old = f"{rng.randrange(day + 1)}-{rng.randrange(6)}"
                log.tell(rng.choice(("active", "completed", "failed")), old, at + 1)
            if rng.random() < 0.05:
                # A job that was counted as hers before.
                log.tell("created", job, at + 2, owner="bob", jobType="other")
    return log


@pytest.mark.parametrize("most", [1, 30, 1000])
async def test_totals_are_kept_from_then_on(store: SqliteStore, most: int) -> None:
    log = long_history()
    model, reader, rng = Model(log), store.reader(), random.Random(most)
    async with projecting(store.writer()) as projector:
        for _ in range(5):
            await feed(projector, log, rng, most=most, batches=len(log) // (3 * most))
            with reader.snapshot() as snapshot:
                model.advance(snapshot.held.position)
                check_snapshot(snapshot, model)
                _check_callers(snapshot, model)
            check_counters(store, model)
        await feed(projector, log, rng, most=most)
    check_equal(store, model.advance())
    with store.reader().snapshot() as snapshot:
        _check_callers(snapshot, model)
    # All jobs, and of each file the one who has many.
    assert all(has > 1 for has, _kept, _counted in store.totals())


async def test_projectors_take_up_what_others_have_begun(store: SqliteStore) -> None:
    log, rng = long_history(), random.Random(3)
    model = Model(log)
    async with projecting(store.writer()) as one, projecting(store.writer()) as other:
        for turn in range(8):
            await feed((one, other)[turn % 2], log, rng, most=40, batches=6)
        await feed(one, log, rng, most=40)
    check_equal(store, model.advance())


async def test_a_store_that_is_filled_anew_begins_without(store: SqliteStore) -> None:
    log, rng = long_history(), random.Random(4)
    writer, reader = store.writer(), store.reader()
    async with projecting(writer) as projector:
        await feed(projector, log, rng)
        with reader.snapshot() as snapshot:
            assert snapshot.summary(EVERYBODY, Filters())
        for partition in range(store.shards):
            writer.reset(partition, log.begins(), log.ends())
        assert all((has, kept) == (1, {}) for has, kept, _counted in store.totals())
        await feed(projector, log, rng)
    with reader.snapshot() as snapshot:
        check_snapshot(snapshot, Model(log).advance())
    check_equal(store, Model(log).advance())


def _check_callers(snapshot: Snapshot, model: Model) -> None:
    """Hold summaries, and whether there is anything to find, against the model."""
    for caller in (EVERYBODY, _BOTH, Caller("bob"), Caller("alice"), Caller("x", ("team",))):
        for filters in (Filters(), Filters(job_types=("scan",)), Filters(states=(State.FAILED,))):
            summary = snapshot.summary(caller, filters._replace(states=()))
            assert summary == model.summary(caller, filters._replace(states=()))
            found = listed(snapshot, caller, filters, size=3)
            assert [job.id for job in found] == [
                job.id for job in model.listing(caller, filters)[:3]
            ]
