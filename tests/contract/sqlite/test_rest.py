"""A store at rest: what was written last lies where readers find it without looking elsewhere."""

from __future__ import annotations

import asyncio
import random
from contextlib import closing
from pathlib import Path

import pytest

from jobtrail.core.errors import StoreError
from projections.ports.write import Beat
from projections.sqlite.read.shards import Files
from tests.contract.store_checks import check_equal, check_snapshot
from tests.contract.store_feeding import feed, projecting
from tests.contract.store_model import Model
from tests.contract.store_process import small_log
from tests.contract.stores import SqliteStore
from tests.waiting import until


async def never() -> None:
    """Deliver nothing again: nothing has to be."""
    raise AssertionError


async def test_a_store_at_rest_is_whole_without_its_wal(store: SqliteStore, tmp_path: Path) -> None:
    log, writer, empty = small_log(41), store.writer(), store.rows()
    async with projecting(writer) as projector:
        await feed(projector, log, random.Random(41))
        assert store.at_rest(tmp_path / "before").rows() == empty
        writer.rest()
        check_equal(store.at_rest(tmp_path / "after"), Model(log).advance())


async def test_a_projector_with_nothing_to_do_lets_the_store_rest(
    store: SqliteStore, tmp_path: Path
) -> None:
    log, writer = small_log(42), store.writer()
    async with projecting(writer) as projector:
        writing = asyncio.create_task(projector.keep_writing(never))
        try:
            for turn in range(2):
                await feed(projector, log, random.Random(turn), batches=3 if turn == 0 else None)
                expected, looks = store.rows(), 0
                while store.at_rest(tmp_path / f"{turn}-{looks}").rows() != expected:
                    assert not writing.done()
                    looks += 1
                    assert looks < 200
                    await asyncio.wait([writing], timeout=0.1)
        finally:
            writing.cancel()
    check_equal(store, Model(log).advance())


async def test_who_reads_keeps_what_he_sees(store: SqliteStore) -> None:
    log, writer, reader = small_log(43), store.writer(), store.reader()
    async with projecting(writer) as projector:
        with reader.snapshot() as before:
            check_snapshot(before, Model(log))
            await feed(projector, log, random.Random(43))
            writer.rest()
            check_snapshot(before, Model(log))
        with reader.snapshot() as after:
            check_snapshot(after, Model(log).advance())


async def test_a_store_that_cannot_rest_says_why(store: SqliteStore, tmp_path: Path) -> None:
    log, writer = small_log(44), store.writer()
    async with projecting(writer) as projector:
        await feed(projector, log, random.Random(44))
        with store.held_up(writer), pytest.raises(StoreError) as caught:
            writer.rest()
        assert "locked" in str(caught.value.found)
        assert caught.value.where
        writer.rest()
        check_equal(store.at_rest(tmp_path / "after"), Model(log).advance())


async def test_files_are_mapped_unless_they_are_written_to(store: SqliteStore) -> None:
    mapped = "PRAGMA mmap_size"
    paths = dict(enumerate(store.files()))
    with closing(Files(paths)) as files, closing(store.writer()) as writer:

        def looks(changed: bool) -> int:
            assert files.begin() is changed
            files.end()
            (size,) = files.db.execute(mapped).fetchone()
            return int(size)

        looks(True)
        async with asyncio.timeout(30):
            await until(lambda: looks(False) != 0)
        writer.beat({partition: Beat(0, "") for partition in range(writer.partitions)})
        assert looks(True) == 0
