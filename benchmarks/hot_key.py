"""What an event costs when very many are of one job: from its first thousand to its millionth.

In this process, without Kafka: the projector folds records onto a store and the store is written;
beside that a reader takes a page of the job's history and folds a few events onto the job, as an
API process does. A cost that grows with the trail shows as figures that grow from row to row.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from benchmarks.options import Options
from benchmarks.results import Result, Row
from benchmarks.stage import Stage
from benchmarks.stats import middle
from jobtrail.core.partitions import partition_of
from jobtrail.core.trail import trail_page
from jobtrail.log.consumers import Group
from projections.projector.projector import Projector
from projections.sqlite.files import schema
from projections.sqlite.read.reader import SqliteReader
from projections.sqlite.write.writer import SqliteWriter
from services.api.live.buffer import Record
from services.api.live.overlay import fold_records
from tests.groups import MemoryLog, group_of

PARTITIONS: Final = 8
#: Events behind which the cost of one is told.
MARKS: Final = (1_000, 10_000, 100_000, 1_000_000)
#: Records of a fetch, and of the group that is written alone, as when level with the log.
_FETCHED: Final = 2_000
_LEVEL: Final = 20
#: Events of one job beyond the projections, events of a page, and how often each is measured.
_BEYOND: Final = 100
_PAGE: Final = 100
_TIMES: Final = 50
_JOB: Final = "hot"
_PARTITION: Final = partition_of(_JOB, PARTITIONS)


class _Raw(msgspec.Struct, gc=False):
    """A record as Kafka has it."""

    offset: int
    key: bytes
    value: bytes
    timestamp: int = 1_764_000_000_000


async def measure(stage: Stage, options: Options) -> Result:
    """Measure the figure."""
    marks = [mark for mark in MARKS if mark <= options.hot_events]
    runs = []
    for _ in range(options.runs):
        with tempfile.TemporaryDirectory(dir=stage.folder) as folder:
            runs += await _run(stage, Path(folder), marks)
    return Result(
        figure="hot_key",
        what="CPU of an event, of a page of history and of a fold in the API, all of one job.",
        parameters={"marks": marks, "fetched": _FETCHED, "level": _LEVEL, "beyond": _BEYOND},
        runs=runs,
        rows=[
            Row(f"{name}, behind {mark:,} events", unit, middle(found))
            for name, unit in _FIGURES.items()
            for mark in marks
            if (found := [run[name] for run in runs if run["events"] == mark])
        ],
    )


_FIGURES: Final = {
    "catching up": "µs of CPU an event",
    "level with the log": "µs of CPU an event",
    "a page of history": "µs of CPU",
    "an event in the API": "µs of CPU",
}


async def _run(stage: Stage, folder: Path, marks: Sequence[int]) -> list[dict[str, Any]]:
    nothing = dict.fromkeys(range(PARTITIONS), 0)
    schema.create(
        folder / "store", schema.Layout(schema.SCHEMA_VERSION, 2, PARTITIONS), nothing, nothing
    )
    log = MemoryLog({partition: [] for partition in range(PARTITIONS)}, trusted=True)
    projector = Projector(SqliteWriter(folder / "store"), log, PARTITIONS, _refuse)
    reader = SqliteReader(folder / "store")
    found = []
    try:
        await projector.start_offsets(set(range(PARTITIONS)))
        begin = 0
        for mark in marks:
            stage.say(f"{mark:,} events")
            # The last hundred groups before the mark are written one by one.
            level = min(100 * _LEVEL, mark // 2)
            catching_up = await _apply(projector, begin, mark - level, _FETCHED, more=True)
            one_by_one = await _apply(projector, mark - level, mark, _LEVEL, more=False)
            found.append(
                {
                    "events": mark,
                    "catching up": catching_up,
                    "level with the log": one_by_one,
                    "a page of history": _page(reader, mark),
                    "an event in the API": _fold(reader, mark),
                }
            )
            begin = mark
    finally:
        reader.close()
        projector.close()
    return found


async def _refuse(_letters: Sequence[object]) -> None:
    raise RuntimeError("all of these are valid events")


async def _apply(projector: Projector, begin: int, end: int, size: int, *, more: bool) -> float:
    """Apply events; return what each cost, in microseconds of CPU."""
    spent = 0.0
    for at in range(begin, end, size):
        stop = min(at + size, end)
        group: Group = group_of([_record(offset) for offset in range(at, stop)])
        began = time.process_time()
        await projector.apply(_PARTITION, group, more=more and stop < end)
        spent += time.process_time() - began
        await asyncio.sleep(0)
    return 1e6 * spent / (end - begin)


def _page(reader: SqliteReader, events: int) -> float:
    began = time.process_time()
    for number in range(_TIMES):
        with reader.snapshot() as snapshot:
            trail = snapshot.trail(_JOB)
            assert trail is not None
            offset = events * number // _TIMES
            assert trail_page(trail.page(offset, _PAGE), offset, _PAGE)[0].offset == offset
    return 1e6 * (time.process_time() - began) / _TIMES


def _fold(reader: SqliteReader, events: int) -> float:
    beyond: list[Record] = [
        (_PARTITION, raw.offset, raw.timestamp * 1000, raw.value)
        for raw in map(_record, range(events, events + _BEYOND))
    ]
    began = time.process_time()
    for _ in range(_TIMES):
        with reader.snapshot() as snapshot:
            job = snapshot.watched([_JOB])[_JOB]
            fold_records(job, _JOB.encode(), beyond, PARTITIONS, snapshot)
    return 1e6 * (time.process_time() - began) / _TIMES / _BEYOND


def _record(offset: int) -> _Raw:
    kind, data = ("progress", b'{"progress":0.5}')
    if not offset:
        kind, data = ("created", b'{"jobType":"scan","owner":"alice"}')
    return _Raw(
        offset,
        _JOB.encode(),
        b'{"specversion":"1.0","id":"01JD%022d","source":"//bench","type":"job.%b",'
        b'"subject":"%b","time":"2026-11-23T13:00:00.123Z","data":%b}'
        % (offset, kind.encode(), _JOB.encode(), data),
    )
