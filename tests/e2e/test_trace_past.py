"""The past of real traffic: what a store counts at any instant equals what SQL says of the CSV.

`TRACE_EVENTS=1007362` takes the whole file (a minute); the default is a part of it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Any, Final

import pytest

from jobtrail.core.asof import Cut
from jobtrail.core.events import microseconds
from jobtrail.core.partitions import partition_of
from jobtrail.core.states import STATES
from jobtrail.importing.google_2011 import Trace
from projections.ports.read import Caller, Filters, Snapshot
from projections.projector.projector import Projector
from projections.sqlite.read.reader import SqliteReader
from tests.contract.store_feeding import projecting
from tests.contract.store_streams import PARTITIONS, Record
from tests.contract.stores import IMPLEMENTATIONS
from tests.e2e.oracle import START, Oracle
from tests.groups import group_of

EVENTS: Final = int(os.environ.get("TRACE_EVENTS", "60000"))
INSTANTS: Final = 20
#: What one fetch brings of a partition.
BATCH: Final = 6_000
pytestmark = pytest.mark.timeout(900)


async def project(projector: Projector, trace: Path) -> None:
    """Project the trace's rows in their order, as a projector does that is far behind."""
    waiting: dict[int, list[Record]] = {p: [] for p in range(PARTITIONS)}
    ends = dict.fromkeys(range(PARTITIONS), 0)
    for row in islice(Trace().read(trace), EVENTS):
        for event in row.events:
            job = event.job
            partition = partition_of(job, PARTITIONS)
            record = Record("log", partition, ends[partition], 0, job.encode(), event.value)
            ends[partition] += 1
            waiting[partition].append(record)
            if len(waiting[partition]) == BATCH:
                await projector.apply(partition, group_of(waiting[partition]), more=True)
                waiting[partition] = []
    for partition, records in waiting.items():
        # The last one says that no more is to follow.
        end = ends[partition]
        group = group_of(records, begin=end - len(records), next_offset=end)
        await projector.apply(partition, group, more=partition < PARTITIONS - 1)


def counted(snapshot: Snapshot, caller: Caller, filters: Filters, cut: Cut) -> list[dict[str, Any]]:
    return [
        {"jobType": name, "total": sum(counts), **dict(zip(STATES, counts, strict=True))}
        for name, counts in snapshot.summary_at(caller, filters, cut).items()
    ]


def instants(oracle: Oracle) -> Sequence[int]:
    """Return instants of the trace from its beginning to its end, of events and between them."""
    found = oracle.db.execute(
        "SELECT quantile_disc(time_us, [n / ? FOR n IN range(0, ?)]) FROM events",
        [INSTANTS - 2.0, INSTANTS - 1],
    ).fetchone()
    assert found is not None
    return [-1, *(time_us - number % 2 for number, time_us in enumerate(found[0]))]


async def test_the_past_of_the_trace_equals_the_csv(trace: Path, tmp_path: Path) -> None:
    store = IMPLEMENTATIONS["sqlite-2"](tmp_path / "store")
    store.create()
    async with projecting(store.writer()) as projector:
        await project(projector, trace)
    oracle = Oracle(trace, EVENTS)
    end = oracle.db.execute("SELECT max(time_us) FROM events").fetchone()
    assert end is not None
    begin = microseconds(START)
    reader: SqliteReader = store.reader()
    callers = [(None, Caller("root", reads_all=True))]
    callers += [(user, Caller(user)) for user in oracle.users(10)]
    with reader.snapshot() as snapshot:
        assert sum(snapshot.watermark.position.values()) == EVENTS
        for time_us in instants(oracle):
            past, cut = oracle.at(time_us), Cut(begin + time_us)
            # A part of a day on both sides of whole ones.
            first, last = (timedelta(microseconds=end[0] * n // 7) for n in (1, 6))
            bounds = [microseconds(START + at) for at in (first, last)]
            ranged = Filters((), (), *bounds)
            for owner, caller in callers:
                assert counted(snapshot, caller, Filters(), cut) == past.summary(owner)
                expected = past.summary(owner, (), START + first, START + last)
                assert counted(snapshot, caller, ranged, cut) == expected, (owner, time_us)
    projector.close()
    store.close()
