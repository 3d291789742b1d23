"""What one fetch brought, applied partition by partition: one that fails takes no other with it."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from faust.types import TP

from jobtrail.log.consumers import Group, _Fetched
from projections.projector.app import apply_fetched
from projections.projector.projector import Projector
from projections.projector.transport import Fetched
from projections.sqlite.write.writer import SqliteWriter
from tests.groups import group_of
from tests.unit.test_projector import PARTITIONS, Line, Record, of_partition

HERE, THERE = of_partition(0, 1)[0], of_partition(1, 1)[0]


@pytest_asyncio.fixture
async def line(tmp_path: Path) -> AsyncIterator[Line]:
    """Return an empty log before an empty store."""
    line = Line(tmp_path / "store")
    yield line
    line.close()


def fetched(*records: tuple[int, Record]) -> Fetched:
    """Return what a fetch brings of partitions, each record in a batch of its own."""
    groups = [(TP("log", partition), group(record)) for partition, record in records]
    return Fetched(groups, more=False)


def group(record: Record) -> Group:
    """Return a record as it is fetched."""
    builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, 1 << 20)
    builder.append(0, record.timestamp, record.key, record.value, [])
    data = bytearray(builder.build())
    # Where a batch has its first offset, and what its checksum leaves out.
    struct.pack_into(">q", data, 0, record.offset)
    return Group(record.offset, record.offset + 1, 0, 0, [_Fetched(bytes(data)).next_batch()])


def assigned() -> bool:
    """Tell that nothing has changed since."""
    return True


async def test_what_is_fenced_of_one_partition_leaves_no_hole_in_another(line: Line) -> None:
    lost, late = line._record(0, "created", HERE), line._record(0, "active", HERE)
    first, second = line._record(1, "created", THERE), line._record(1, "active", THERE)
    # Writes with the second record that waits, whatever is to follow.
    projector = Projector(
        SqliteWriter(line.folder), line.log, PARTITIONS, line.write_dead_letters, max_waiting=2
    )
    await projector.apply(0, group_of([lost]), more=True)
    await line.projector.apply(0, group_of([lost]))
    assert not await apply_fetched(projector, fetched((0, late), (1, first)), assigned)
    assert line.at() == {0: 1, 1: 1}
    # This one was on its way before anything could be fetched again.
    assert await apply_fetched(projector, fetched((1, second)), assigned)
    assert await apply_fetched(projector, fetched((0, late)), assigned)
    projector.close()
    line.check()


async def test_what_was_to_be_written_with_it_is_awaited(line: Line) -> None:
    lost, late = line._record(0, "created", HERE), line._record(0, "active", HERE)
    first, second = line._record(1, "created", THERE), line._record(1, "active", THERE)
    await line.projector.apply(0, group_of([lost]), more=True)
    other = Projector(SqliteWriter(line.folder), line.log, PARTITIONS, line.write_dead_letters)
    await other.apply(0, group_of([lost]))
    other.close()
    assert not await apply_fetched(line.projector, fetched((0, late), (1, first)), assigned)
    assert await apply_fetched(line.projector, fetched((1, second)), assigned)
    assert line.at() == {0: 1, 1: 0}
    again = fetched((0, late), (1, first), (1, second))
    assert await apply_fetched(line.projector, again, assigned)
    line.check()


async def test_what_was_fetched_before_a_rebalance_is_passed_over_behind_it(line: Line) -> None:
    first, second = line._record(0, "created", HERE), line._record(1, "created", THERE)
    looks = iter([True, False])
    both = (0, first), (1, second)
    assert await apply_fetched(line.projector, fetched(*both), lambda: next(looks))
    assert await line.projector.start_offsets({0, 1}) == {0: 0, 1: 0}
    assert await apply_fetched(line.projector, fetched(*both), assigned)
    line.check()


async def test_a_fetch_is_written_as_one(line: Line) -> None:
    both = (0, line._record(0, "created", HERE)), (1, line._record(1, "created", THERE))
    some = [(partition, more) for partition, _group, more in fetched(*both).each()]
    assert some == [(0, True), (1, False)]
    assert fetched(*both).ends() == {TP("log", 0): 0, TP("log", 1): 0}
    assert await apply_fetched(line.projector, fetched(*both), assigned)
    line.check()
