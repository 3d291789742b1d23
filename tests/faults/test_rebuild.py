"""`jobtrail rebuild`: shards folded again while they serve; nobody sees a position go back."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping

import aiohttp
import apsw
import pytest
from aiokafka.admin import RecordsToDelete
from aiokafka.structs import TopicPartition

from jobtrail.access.tokens import READ_ALL, local_secret, make_token
from jobtrail.core.errors import AlreadyRunning, LogGapError, StoreError, UsageError
from jobtrail.core.position import holds, parse_position
from jobtrail.processes.runtime import child_environment
from jobtrail.settings import Settings
from projections.rebuild import rebuild
from projections.sqlite.read.reader import SqliteReader
from projections.verify import verify
from tests.conftest import MakeLog, Served
from tests.e2e.test_emit import outcome, prepared
from tests.faults.flows import (
    DEADLINE,
    Traffic,
    applied,
    equals_fold,
    held,
    losses,
    reached,
    read_log,
    stream,
    until,
    write,
)
from tests.faults.test_log_changes import admin
from tests.processes import Process, projector
from tests.waiting import look_again

#: Steps that a rebuild of one shard takes at most.
MOST_STEPS = 60


async def folded(settings: Settings, seed: int = 7) -> Mapping[int, int]:
    """Fold a log, and leave the store to itself; return its position."""
    folding = projector(settings)
    await folding.start()
    await write(settings, stream(seed, jobs=200, events=2500))
    await reached(settings, (await read_log(settings)).ends())
    assert await folding.stop() == 0
    return held(settings).position


async def run(settings: Settings, *arguments: str) -> tuple[int, str, str]:
    process = prepared(settings.data_dir, child_environment(settings), *arguments)
    await process.spawn()
    return tuple(await outcome(process))  # type: ignore[return-value]


def files(settings: Settings) -> set[str]:
    """Return the names of a store's files, but for locks."""
    return {file.name for file in settings.store_folder.iterdir() if "lock" not in file.name}


async def equal(settings: Settings) -> None:
    report = await verify(settings)
    assert report.lines()[:-2] == []


async def test_a_store_that_nobody_writes_is_rebuilt_again_and_again(make_log: MakeLog) -> None:
    settings = await make_log()
    position = await folded(settings)
    reader = SqliteReader(settings.store_folder)
    for generation in (1, 2, 3):
        with reader.snapshot() as snapshot:
            before = snapshot.held
        status, out, _ = await run(settings, "rebuild", "--json")
        assert status == 0
        rows = json.loads(out)
        assert [row["shard"] for row in rows] == [0, 1]
        found = [parse_position(row["position"]) for row in rows]
        assert {p: offset for some in found for p, offset in some.items()} == position
        # A reader that was open goes on in the new files, at the same place of the same log.
        with reader.snapshot() as snapshot:
            assert snapshot.held == before
        await equal(settings)
        assert files(settings) == {
            "store.json", "verified.json", "verify", "shard-0.db", "shard-1.db",
            *(
                f"shard-{n}.g{2 - generation % 2}.db{suffix}"
                for n in (0, 1) for suffix in ("", "-wal", "-shm")
            ),
        }  # fmt: skip
    reader.close()
    folding = projector(settings)
    await folding.start()
    await write(settings, stream(8, jobs=50, events=500))
    await equals_fold(settings)
    assert await folding.stop() == 0
    await equal(settings)
    assert losses(settings) == []


async def test_a_shard_is_rebuilt_under_load_and_no_answer_goes_back(served: Served) -> None:
    settings, url = served
    token = make_token(local_secret(settings.data_dir), "all", (), (READ_ALL,))
    over = asyncio.Event()
    answers = 0

    async def ask(session: aiohttp.ClientSession) -> None:
        nonlocal answers
        seen: dict[int, int] = {}
        while not over.is_set():
            async with session.get(f"{url}/jobs/summary") as answer:
                assert answer.status == 200, await answer.text()
                position = parse_position(answer.headers["Jobtrail-Position"])
            assert holds(position, seen), (seen, position)
            seen, answers = position, answers + 1
            # As fast as it gets would be more requests than one user may send.
            await look_again()

    headers = {"Authorization": f"Bearer {token}"}
    async with (
        Traffic(settings, 5),
        aiohttp.ClientSession(headers=headers) as session,
        asyncio.TaskGroup() as tasks,
    ):
        await until(lambda: applied(settings) > 5000, "there is something to rebuild")
        for _ in range(3):
            tasks.create_task(ask(session))
        for _ in range(3):
            before = answers
            status, _, said = await run(settings, "rebuild")
            assert status == 0, said
            await until(lambda before=before: answers > before + 100, "readers go on")
            goal = applied(settings) + 1000
            await until(lambda goal=goal: applied(settings) > goal, "the projector goes on")
        over.set()
    await equals_fold(settings)
    await equal(settings)
    assert losses(settings) == []


async def test_a_rebuild_that_is_killed_anywhere_leaves_a_store_that_serves(
    make_log: MakeLog,
) -> None:
    settings = await make_log()
    position = await folded(settings)
    for step in range(1, MOST_STEPS):
        argv = [sys.executable, "-m", "tests.rebuild_dying", str(step)]
        log = settings.data_dir / "dying.err"
        process = Process(argv, child_environment(settings), log)
        await process.spawn()
        async with asyncio.timeout(DEADLINE):
            status = await process.child.wait()
        assert status in (0, -9), log.read_text()
        assert held(settings).position == position, step
        if step % 3 == 0 or status == 0:
            await equal(settings)
        if status == 0:
            break
    assert 8 < step < MOST_STEPS - 1
    await rebuild(settings)
    assert not [name for name in files(settings) if "link" in name or name == "rebuild"]
    assert len([name for name in files(settings) if name.endswith(".db")]) == 4


async def test_what_cant_be_rebuilt_is_refused_and_left_as_it_is(make_log: MakeLog) -> None:
    settings = await make_log()
    position = await folded(settings)
    with pytest.raises(UsageError):
        await rebuild(settings, 2)
    assert (await run(settings, "rebuild", "--shard", "2"))[0] == 2
    await _refused_where_the_log_has_lost_its_end(settings)
    assert held(settings).position == position
    await equal(settings)


async def _refused_where_the_log_has_lost_its_end(settings: Settings) -> None:
    path = settings.store_folder / "shard-0.db"
    db = apsw.Connection(str(path))
    db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
    db.execute("UPDATE checkpoints SET next_offset=next_offset+1")
    with pytest.raises(LogGapError):
        await rebuild(settings, 0)
    # As somebody else's shard would be, that was folded from another log.
    db.execute("UPDATE checkpoints SET next_offset=next_offset-1, last_mark=last_mark+1")
    with pytest.raises(StoreError, match="does not stand where the old one does"):
        await rebuild(settings, 0)
    db.execute("UPDATE checkpoints SET last_mark=last_mark-1")
    db.close()


async def test_one_rebuild_at_a_time(make_log: MakeLog) -> None:
    settings = await make_log()
    await folded(settings)
    refused: list[AlreadyRunning] = []

    def show(_done: int, _total: int) -> None:
        if not refused:
            with pytest.raises(AlreadyRunning) as error:
                # It is refused before it waits for anything.
                rebuild(settings).send(None)
            refused.append(error.value)

    await rebuild(settings, show=show)
    assert refused


async def test_what_the_log_no_longer_has_is_neither_compared_nor_lost(make_log: MakeLog) -> None:
    settings = await make_log()
    position = await folded(settings)
    before = await verify(settings)
    limits = {
        TopicPartition(settings.topic, partition): RecordsToDelete(end // 2)
        for partition, end in position.items()
    }
    await admin(settings, lambda client: client.delete_records(limits))
    gone = sum(end // 2 for end in position.values())
    report = await verify(settings)
    assert report.lines()[:-3] == []
    assert report.not_comparable
    assert report.jobs
    assert report.jobs + report.not_comparable == before.jobs
    with pytest.raises(LogGapError, match="would be lost"):
        await rebuild(settings)
    assert held(settings).position == position
    assert len(await rebuild(settings, from_what_is_left=True)) == 2
    report = await verify(settings)
    assert report.lines()[:-2] == []
    assert (report.not_comparable, report.records) == (0, before.records - gone)
