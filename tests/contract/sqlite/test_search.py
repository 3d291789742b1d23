"""Listings of more audiences, and more files, than one statement takes."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from jobtrail.core.states import State
from projections.ports.read import Caller, Filters
from tests.contract.store_checks import EVERYBODY, listed
from tests.contract.store_feeding import fill
from tests.contract.store_model import Model, plain
from tests.contract.store_streams import BASE, DAY, Log
from tests.contract.stores import SqliteStore
from tests.contract.test_store_search import cursor_pages, cut


@pytest.mark.parametrize("shards", [2, 9])
async def test_more_audiences_or_files_than_a_statement_takes(tmp_path: Path, shards: int) -> None:
    log, rng = Log(), random.Random(45)
    for number in range(1_201):
        # Each job has an audience of its own; there is one more in one shard than in the other.
        at, owner = BASE + rng.randrange(40) * DAY // 10, f"owner-{number}"
        log.tell("created", f"job-{number}", at, owner=owner, viewers=["group:g"], bulkId="b")
        if number % 3:
            log.tell("active", f"job-{number}", at)
    store = SqliteStore(tmp_path / "store", shards)
    store.create()
    await fill(store, log, most=2000, again=0.0)
    model, reader = Model(log).advance(), store.reader()
    with reader.snapshot() as snapshot:
        for caller in (EVERYBODY, Caller("x", ("g",)), Caller("owner-7", ("h",))):
            for filters in (Filters(), Filters(bulk_id="b"), Filters(states=(State.ACTIVE,))):
                jobs = plain(model.listing(caller, filters))
                assert cursor_pages(snapshot, caller, filters, 100) == cut(jobs, 100)
                page = listed(snapshot, caller, filters, size=50, offset=333)
                assert plain(page) == jobs[333:383]
            asked = [f"job-{number}" for number in range(0, 1_300, 17)]
            mine = [job for job in model.listing(caller) if job.id in asked]
            found = snapshot.states(caller, asked)
            assert sorted(job_id for job_id, *_ in found) == sorted(j.id for j in mine)
            assert snapshot.summary(caller, Filters()) == model.summary(caller)
    store.close()
