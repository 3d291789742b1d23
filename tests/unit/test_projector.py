"""What a projector holds between batches: what it reads again, what it forgets, and no more.

The store is a real one that also writes down which jobs it was asked for.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
import pytest_asyncio

from jobtrail.core.errors import FencedError
from jobtrail.core.events import Event, decode
from jobtrail.core.fold import fold
from jobtrail.core.job import Job, Place
from jobtrail.core.partitions import partition_of
from jobtrail.core.states import STATES, State
from jobtrail.core.trail import read_trail
from projections.ports.read import Caller, Filters
from projections.ports.write import Entry, FoldedBatch
from projections.projector.partition_state import MAX_CACHED, MAX_CACHED_BYTES, DeadLetter
from projections.projector.projector import Projector
from projections.sqlite.files import schema
from projections.sqlite.read.reader import SqliteReader
from projections.sqlite.write.writer import SqliteWriter
from tests.groups import MemoryLog, group_of

PARTITIONS = 2


class Record(NamedTuple):
    """What a projector takes of a Kafka record."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None


class Store(SqliteWriter):
    """A store that writes down which jobs are read from it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.read: list[set[str]] = []

    def load(self, partition: int, ids: Iterable[str]) -> dict[str, Entry]:
        """Return jobs, and remember which were asked for."""
        wanted = list(ids)
        assert len(wanted) == len(set(wanted))
        self.read.append(set(wanted))
        return super().load(partition, wanted)


class Line:
    """A log, the projector that it is handed to, and the pure fold of what was handed on."""

    def __init__(self, folder: Path) -> None:
        starts = dict.fromkeys(range(PARTITIONS), 0)
        schema.create(
            folder, schema.Layout(schema.SCHEMA_VERSION, 1, PARTITIONS), starts, dict(starts)
        )
        self.folder = folder
        self.store = Store(folder)
        self.reader = SqliteReader(folder)
        self.log = MemoryLog({partition: [] for partition in range(PARTITIONS)}, trusted=True)
        self.projector = Projector(self.store, self.log, PARTITIONS, self.write_dead_letters)
        self.jobs: dict[str, Job] = {}
        self.ends = starts
        self.told = 0
        self.created = '{"jobType":"t","owner":"o"}'

    def at(self) -> dict[int, int]:
        """Return the store's checkpoints."""
        with self.reader.snapshot() as snapshot:
            return snapshot.watermark.position

    async def write_dead_letters(self, letters: Sequence[DeadLetter]) -> None:
        """Accept no dead letter."""
        raise AssertionError(letters)

    async def tell(self, *events: tuple[str, str], more: bool = False) -> list[set[str]]:
        """Hand on a batch of (kind, job) per partition; return what was read from the store."""
        await self.hand(self.projector, *events, more=more)
        read, self.store.read = self.store.read, []
        return read

    async def hand(
        self, projector: Projector, *events: tuple[str, str], more: bool = False
    ) -> None:
        """Hand a batch of (kind, job) per partition to a projector."""
        batches: dict[int, list[Record]] = {}
        for kind, job_id in events:
            partition = partition_of(job_id, PARTITIONS)
            batches.setdefault(partition, []).append(self._record(partition, kind, job_id))
        for partition, records in batches.items():
            await projector.apply(partition, group_of(records), more=more)

    def _record(self, partition: int, kind: str, job_id: str) -> Record:
        self.told += 1
        data = self.created if kind == "created" else "{}"
        value = (
            f'{{"specversion":"1.0","id":"e{self.told}","source":"//s","type":"job.{kind}",'
            f'"subject":"{job_id}","data":{data}}}'
        ).encode()
        record = Record(self.ends[partition], self.told, job_id.encode(), value)
        self.ends[partition] += 1
        event: Event = decode(value)
        place = Place(partition, record.offset, record.timestamp * 1000)
        self.jobs[job_id], _ = fold(self.jobs.get(job_id), event, place)
        return record

    def check(self) -> None:
        """Assert that the store holds the fold."""
        with self.reader.snapshot() as snapshot:
            assert snapshot.watermark.position == self.ends
            assert snapshot.watched(list(self.jobs)) == self.jobs
            counts = [0] * len(STATES)
            for job in self.jobs.values():
                counts[STATES.index(job.state)] += 1
            assert snapshot.summary(Caller("o"), Filters()) == {"t": counts}

    def close(self) -> None:
        """Let go of the store."""
        self.projector.close()
        self.reader.close()


def of_partition(partition: int, count: int) -> list[str]:
    """Return the ids of jobs that belong to a partition."""
    ids = (f"job-{n}" for n in itertools.count())
    mine = (job_id for job_id in ids if partition_of(job_id, PARTITIONS) == partition)
    return list(itertools.islice(mine, count))


@pytest_asyncio.fixture
async def line(tmp_path: Path) -> AsyncIterator[Line]:
    """Return an empty log before an empty store."""
    line = Line(tmp_path / "store")
    yield line
    line.close()


def all_of(kind: str, ids: Iterable[str]) -> list[tuple[str, str]]:
    return [(kind, job_id) for job_id in ids]


async def test_a_job_under_way_is_read_once(line: Line) -> None:
    assert await line.tell(("created", "a")) == [{"a"}]
    assert await line.tell(("active", "a")) == []
    assert await line.tell(("progress", "a"), ("progress", "a"), ("progress", "a")) == []
    line.check()


async def test_only_jobs_that_are_not_held_are_read(line: Line) -> None:
    a, b, c = of_partition(0, 3)
    await line.tell(("created", a), ("created", b))
    assert await line.tell(("active", a), ("created", c), ("active", b), ("active", c)) == [{c}]
    line.check()


@pytest.mark.parametrize("end", ["completed", "failed", "cancelled", "expired"])
async def test_a_job_that_ended_is_forgotten(line: Line, end: str) -> None:
    await line.tell(("created", "a"), (end, "a"))
    assert await line.tell((end, "a")) == [{"a"}]
    assert await line.tell(("progress", "a")) == [{"a"}]
    assert line.jobs["a"].state is State(end)
    assert len(read_trail(line.jobs["a"].trail)) == 4
    line.check()


async def test_a_job_that_is_taken_up_again_is_held_again(line: Line) -> None:
    await line.tell(("created", "a"), ("failed", "a"), ("retry", "a"))
    assert await line.tell(("failed", "a")) == []
    assert await line.tell(("retry", "a")) == [{"a"}]
    assert await line.tell(("active", "a")) == []
    line.check()


async def test_an_assignment_forgets_what_is_held(line: Line) -> None:
    here, there = of_partition(0, 1)[0], of_partition(1, 1)[0]
    await line.tell(("created", here), ("created", there))
    assert not line.projector.assigned.is_set()
    assert await line.projector.start_offsets(set()) == {}
    assert not line.projector.assigned.is_set()
    assert await line.tell(("active", here)) == [{here}]
    assert await line.projector.start_offsets({1}) == {1: 1}
    assert line.projector.assigned.is_set()
    assert await line.tell(("active", here), ("active", there)) == [{here}, {there}]
    assert await line.tell(("progress", here), ("progress", there)) == []
    line.check()


async def test_what_others_wrote_before_an_assignment_is_not_overwritten(line: Line) -> None:
    await line.tell(("created", "a"))
    other = Projector(SqliteWriter(line.folder), line.log, PARTITIONS, line.write_dead_letters)
    await line.hand(other, ("active", "a"))
    await line.projector.start_offsets({0, 1})
    await line.tell(("progress", "a"))
    await line.hand(other, ("completed", "a"))
    other.close()
    line.check()


async def test_to_be_fenced_forgets_that_partition_and_no_other(line: Line) -> None:
    here, there = of_partition(0, 1)[0], of_partition(1, 1)[0]
    await line.tell(("created", here), ("created", there))
    other = Projector(SqliteWriter(line.folder), line.log, PARTITIONS, line.write_dead_letters)
    await line.hand(other, ("active", here))
    other.close()
    assert await line.tell(("progress", here), ("progress", there)) == [{here}]
    assert await line.tell(("progress", here), ("progress", there)) == []
    line.check()


async def test_the_jobs_longest_untouched_are_forgotten_where_there_are_too_many(
    line: Line,
) -> None:
    ids = of_partition(0, MAX_CACHED + 4000)
    more = MAX_CACHED // 2
    await line.tell(*all_of("created", ids[:more]))
    touched, old, young = ids[:50], ids[50:], ids[-50:]
    read = await line.tell(*all_of("active", touched), *all_of("created", ids[more:]))
    assert read == [set(ids[more:])]
    # Of all but the touched ones, the oldest had to go.
    gone, held = old[:4000], old[4000:4050]
    assert await line.tell(*all_of("progress", [*touched, *held, *young])) == []
    assert await line.tell(*all_of("active", gone[-50:])) == [set(gone[-50:])]
    # Those were read again, so others had to go.
    assert await line.tell(*all_of("active", old[4050:4053])) == [set(old[4050:4053])]
    assert await line.tell(*all_of("completed", [*gone[:50], *touched])) == [set(gone[:50])]
    line.check()


async def test_no_more_is_held_than_so_many_bytes(line: Line) -> None:
    """Of large jobs fewer are held; those that end or shrink make room for others."""
    tags = ",".join(f'"{n}-{"k" * 250}":"{"v" * 250}"' for n in range(32))
    each = 32 * 500
    ids = of_partition(0, 2 * MAX_CACHED_BYTES // each)
    usual = line.created
    line.created = f'{usual[:-1]},"tags":{{{tags}}}}}'
    for at in range(0, len(ids), 100):
        await line.tell(*all_of("created", ids[at : at + 100]))
    held, gone = ids[-MAX_CACHED_BYTES // each // 2 :], ids[: MAX_CACHED_BYTES // each // 2]
    assert await line.tell(*all_of("active", held)) == []
    assert await line.tell(*all_of("active", gone[:9])) == [set(gone[:9])]
    assert await line.tell(*all_of("completed", held)) == []
    # A small one takes next to nothing.
    line.created = usual
    small = of_partition(0, len(ids) + 2000)[len(ids) :]
    await line.tell(*all_of("created", small))
    assert await line.tell(*all_of("active", [*gone[:9], *small])) == []
    line.check()


async def test_a_batch_of_more_jobs_than_are_held_is_written_whole(line: Line) -> None:
    ids = of_partition(1, MAX_CACHED + 10)
    await line.tell(*all_of("created", ids))
    assert await line.tell(*all_of("active", ids[:11])) == [set(ids[:10])]
    line.check()


async def test_each_partition_holds_its_own(line: Line) -> None:
    here, there = of_partition(0, MAX_CACHED // 2 + 50), of_partition(1, MAX_CACHED // 2 + 50)
    await line.tell(*all_of("created", [*here, *there]))
    assert await line.tell(*all_of("active", [*here[:9], *there[:9]])) == []
    line.check()


# --- more is to follow


async def test_what_others_follow_at_once_is_written_with_the_last_of_them(line: Line) -> None:
    here, there = of_partition(0, 1)[0], of_partition(1, 1)[0]
    assert await line.tell(("created", here), more=True) == [{here}]
    assert await line.tell(("created", there), ("active", there), more=True) == [{there}]
    assert await line.tell(("active", here), ("completed", here), more=True) == []
    assert line.at() == {0: 0, 1: 0}
    await line.tell(("completed", there))
    line.check()
    # Both have ended: neither is held any more.
    assert await line.tell(("progress", here), ("progress", there)) == [{here}, {there}]


async def test_what_was_delivered_before_ends_the_waiting_too(line: Line) -> None:
    first = line._record(0, "created", of_partition(0, 1)[0])
    await line.projector.apply(0, group_of([first]), more=True)
    assert line.at() == {0: 0, 1: 0}
    await line.projector.apply(0, group_of([first]))
    line.check()


async def test_what_is_promised_and_does_not_come_is_not_waited_for(line: Line) -> None:
    fetched_again = asyncio.Event()

    async def fetch_again() -> None:
        fetched_again.set()

    writing = asyncio.create_task(line.projector.keep_writing(fetch_again))
    try:
        for job_id in ("a", "b"):
            await line.tell(("created", job_id), more=True)
            async with asyncio.timeout(10):
                while line.at() != line.ends:
                    assert not writing.done()
                    await asyncio.wait([writing], timeout=0.02)
        assert not fetched_again.is_set()
        # Somebody else writes what is waiting here: it has to be delivered again.
        record = line._record(0, "created", of_partition(0, 1)[0])
        await line.projector.apply(0, group_of([record]), more=True)
        other = Projector(SqliteWriter(line.folder), line.log, PARTITIONS, line.write_dead_letters)
        await other.apply(0, group_of([record]))
        other.close()
        async with asyncio.timeout(10):
            await fetched_again.wait()
    finally:
        writing.cancel()
    line.check()


async def test_no_more_than_so_many_records_wait(line: Line) -> None:
    projector = Projector(
        SqliteWriter(line.folder), line.log, PARTITIONS, line.write_dead_letters, max_waiting=5
    )
    here, there = of_partition(0, 1)[0], of_partition(1, 1)[0]
    await line.hand(projector, ("created", here), ("active", here), more=True)
    await line.hand(projector, ("created", there), ("active", there), more=True)
    assert line.at() == {0: 0, 1: 0}
    await line.hand(projector, ("retry", there), more=True)
    line.check()
    projector.close()


async def test_an_assignment_forgets_what_waits(line: Line) -> None:
    waiting = line._record(0, "created", of_partition(0, 1)[0])
    await line.projector.apply(0, group_of([waiting]), more=True)
    assert await line.projector.start_offsets({0, 1}) == {0: 0, 1: 0}
    late = line._record(0, "active", of_partition(0, 1)[0])
    await line.projector.apply(0, group_of([late]))
    await line.tell(("created", of_partition(1, 1)[0]))
    assert line.at() == {0: 0, 1: 1}
    await line.projector.apply(0, group_of([waiting, late]))
    line.check()


async def test_to_be_fenced_with_records_that_are_gone_is_an_error(line: Line) -> None:
    here, there = of_partition(0, 1)[0], of_partition(1, 1)[0]
    one, two = line._record(0, "created", here), line._record(0, "active", here)
    other = Projector(SqliteWriter(line.folder), line.log, PARTITIONS, line.write_dead_letters)
    await line.projector.apply(0, group_of([one]), more=True)
    await other.apply(0, group_of([one]))
    with pytest.raises(FencedError):
        await line.projector.apply(0, group_of([two]))
    # It has to be delivered again from the checkpoint on; what was fetched before is passed over.
    late = line._record(0, "progress", here)
    await line.projector.apply(0, group_of([late]))
    assert line.at() == {0: 1, 1: 0}
    await line.projector.apply(0, group_of([two, late]))
    await line.tell(("created", there))
    other.close()
    line.check()


class Slow(Store):
    """A store whose writing takes until it is let go on."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.begun, self.go_on = threading.Event(), threading.Event()

    def apply(self, batches: Sequence[FoldedBatch]) -> None:
        """Write once it may."""
        self.begun.set()
        assert self.go_on.wait(60)
        super().apply(batches)


async def test_who_is_cancelled_while_the_store_writes_ends_with_it(line: Line) -> None:
    store = Slow(line.folder)
    projector = Projector(store, line.log, PARTITIONS, line.write_dead_letters)
    writing = asyncio.create_task(line.hand(projector, ("created", "a")))
    assert await asyncio.to_thread(store.begun.wait, 60)
    looking = asyncio.create_task(projector.checkpoints())
    for _ in range(2):
        writing.cancel()
        done, _ = await asyncio.wait([writing, looking], timeout=0.1)
        assert not done, "the store is still writing"
    store.go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert {partition: at.next_offset for partition, at in (await looking).items()} == line.ends
    await line.hand(projector, ("active", "a"))
    projector.close()
    line.check()
