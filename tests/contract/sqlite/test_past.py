"""The record of changes: its runs and totals, and what a failed batch leaves in it."""

from __future__ import annotations

import random
from typing import Any

import pytest

from jobtrail.core.asof import Cut
from jobtrail.core.errors import StoreError
from jobtrail.core.partitions import partition_of
from projections.ports.read import Caller, Filters
from tests.contract.store_feeding import batch_of, fill
from tests.contract.store_streams import (
    BASE,
    DAY,
    PARTITIONS,
    Log,
)
from tests.contract.stores import SqliteStore
from tests.contract.test_store_past import ADMIN, HOUR, check, model_at


def busy_log(jobs: int = 4_000) -> Log:
    """Return a log of one heavy owner and many light ones, the most of it in the order of time."""
    log, rng = Log(), random.Random(73)
    turns: list[tuple[int, str, str, dict[str, Any]]] = []
    for number in range(jobs):
        at = BASE + rng.randrange(4 * DAY)
        job, owner = f"job-{number}", "alice" if number % 10 else f"o{number % 700}"
        turns.append((at, job, "created", {"owner": owner, "jobType": f"t{number % 3}"}))
        turns.append((at + rng.randrange(HOUR), job, "active", {}))
        if number % 5:
            turns.append((at + HOUR + rng.randrange(DAY), job, "completed", {}))
        elif number % 7 == 0:
            turns.append((at + HOUR, job, "cancelled", {}))
            about = {"owner": "alice", "jobType": "t9"}
            turns.append((at + 2 * HOUR, job, "created", about))
    for at, job, kind, about in sorted(turns, key=lambda turn: turn[0]):
        log.tell(kind, job, at, **about)
    return log


@pytest.mark.parametrize("most", [200, 1_000_000])
async def test_runs_of_any_size_count_the_same(unmade: SqliteStore, most: int) -> None:
    """Small transactions are put together many times; large ones have totals from the start."""
    unmade.create()
    log = busy_log()
    await fill(unmade, log, most=most, again=0.0)
    days = [Filters(), Filters(("t1", "t9"), (), BASE + DAY, BASE + 3 * DAY - 1)]
    edges = [Filters((), (), BASE + DAY // 3, BASE + 2 * DAY + 7), Filters((), (), None, BASE + 9)]
    rng = random.Random(most)
    totals = unmade.rows()["change_totals"]
    assert {row[0] == -1 for row in totals} == {True, False}
    ends = log.ends()
    half = {p: end // 2 for p, end in ends.items()}
    instants = [BASE + rng.randrange(5 * DAY) for _ in range(3)]
    with unmade.reader().snapshot() as snapshot:
        for cut in (*map(Cut, instants), Cut(None, half), Cut(BASE + 9 * DAY), Cut(None, ends)):
            model = model_at(log, cut)
            for caller in (ADMIN, Caller("alice"), Caller("o12"), Caller("nobody")):
                for filters in (*days, *edges):
                    found = snapshot.summary_at(caller, filters, cut)
                    assert found == model.summary(caller, filters), (caller, filters, cut)


def test_a_batch_that_is_tried_again_changes_once(store: SqliteStore) -> None:
    log = Log()
    for number in range(6):
        log.tell("created", "mover", BASE + number, owner=f"o{number}")
        log.tell("cancelled", "mover", BASE + number)
    # More than fits into what is free in the files.
    log.tell("created", "mover", BASE + 9, tags={f"t{n}": "x" * 200 for n in range(32)})
    partition = partition_of("mover", PARTITIONS)
    writer = store.writer()
    first = batch_of(writer, partition, log.slice(partition, 0, 3))
    writer.apply([first])
    batch = batch_of(writer, partition, log.slice(partition, 3, len(log)))
    with store.full_disk(writer), pytest.raises(StoreError):
        writer.apply([batch])
    writer.apply([batch])
    with store.reader().snapshot() as snapshot:
        for end in range(len(log) + 1):
            cut = Cut(None, {partition: end})
            check(snapshot, log, model_at(log, cut), ADMIN, Filters(), cut)
