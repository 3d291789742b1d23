"""What an event of a long trail reads and writes."""

from __future__ import annotations

import random
import re

import pytest

from jobtrail.core.trail import CHUNK_ENTRIES
from tests.contract.store_checks import check_equal
from tests.contract.store_feeding import feed, projecting
from tests.contract.store_model import Model
from tests.contract.store_streams import BASE
from tests.contract.stores import SqliteStore
from tests.contract.test_store_long_trails import PARTITION, long_log


@pytest.mark.parametrize("held", [True, False])
async def test_no_chunk_is_read_and_none_written_again_for_an_event(
    store: SqliteStore, held: bool
) -> None:
    log = long_log()
    if not held:
        # Nobody holds a job that has ended.
        log.tell("completed", "long", BASE)
    writer, steps = store.writer(), list[str]()
    async with projecting(writer) as projector:
        await feed(projector, log, random.Random(1), most=200)
        before = store.rows()["trail_chunks"]
        store.trace(writer, steps.append)
        for _ in range(CHUNK_ENTRIES):
            log.tell("progress", "long", BASE)
        group = log.slice(PARTITION, len(log) - CHUNK_ENTRIES, len(log))
        await feed(projector, log, random.Random(1), most=len(group), again=0.0)
    reads = [step for step in steps if re.search(r"SELECT trail FROM trail_chunks", step)]
    writes = [step for step in steps if "INTO trail_chunks" in step]
    assert (reads, len(writes)) == ([], 1)
    after = store.rows()["trail_chunks"]
    assert (len(after), after[: len(before)]) == (len(before) + 1, before)
    check_equal(store, Model(log).advance())
