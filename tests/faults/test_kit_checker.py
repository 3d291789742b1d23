"""The kit's own tools: the second model agrees with the fold, and the checker sees what is wrong.

The store that the checker is tried on was filled by projectors that died at each point of a
transaction, so what it finds right there is a test of the projector, too.
"""

from __future__ import annotations

import asyncio
import random
import signal
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from jobtrail.core.events import TYPE_NAMES
from jobtrail.core.job import kept_trail
from jobtrail.core.trail import read_trail
from tests.conftest import MakeLog
from tests.contract.store_model import Model as First
from tests.contract.store_streams import seeded_log
from tests.faults.flows import reached
from tests.faults.kit import files
from tests.faults.kit.checker import Acks, Report, check
from tests.faults.kit.crashing import POINTS, crashing_projector
from tests.faults.kit.load import Load
from tests.faults.kit.model import Model
from tests.processes import Process, projector

SEED = 3


@pytest.mark.parametrize("seed", range(6))
def test_the_second_model_agrees_with_the_fold(seed: int) -> None:
    log = seeded_log(seed)
    first, second = First(log).advance(), Model(len(log.records))
    for partition, records in log.records.items():
        for one in records:
            second.take(partition, one.offset, one.timestamp, one.key, one.value)
    assert first.jobs.keys() == second.jobs.keys()
    for job_id, job in first.jobs.items():
        other = second.jobs[job_id]
        assert (
            job.state, job.created_at, job.updated_at, job.started_at, job.ended_at, job.attempt,
            job.owner, job.job_type, job.bulk_id, job.viewers, [*job.tags.items()], job.progress,
            job.error, job.output, job.source, job.writers,
        ) == (
            other.state, other.created, other.updated, other.started, other.ended, other.attempt,
            other.owner, other.kind, other.bulk, other.viewers, [*(other.tags or {}).items()],
            other.progress, other.error, other.output, other.source, other.writers,
        ), job_id  # fmt: skip
        trail = [
            (e.offset, e.time, TYPE_NAMES[e.type_code], e.state, e.verdict)
            for e in read_trail(kept_trail(job))
        ]
        assert trail == other.entries(), job_id
    for partition, tally in first.tallies().items():
        found = second.tallies[partition]
        names = ("applied", "duplicate", "late", "not-allowed", "foreign", "dead")
        assert tuple(tally) == tuple(found[name] for name in names), partition


class Filled:
    """A store that is level with its log, and nobody writes to either."""

    def __init__(self, settings: Any, acks: Path) -> None:
        self.settings = settings
        self.acks = acks

    async def check(self) -> Report:
        return await check(
            self.settings.bootstrap_servers,
            self.settings.topic,
            self.settings.store_folder,
            Acks(self.acks),
            dead_topic=self.settings.dead_topic,
        )

    def change(self, statement: str) -> None:
        """Change one thing in the first shard that has it."""
        for path in sorted(self.settings.store_folder.glob("shard-*.db")):
            with sqlite3.connect(path) as db:
                if db.execute(statement).rowcount:
                    return
        raise AssertionError("nothing was changed")


@pytest.fixture
async def filled(make_log: MakeLog, running: list[Process]) -> Filled:
    settings = await make_log()
    draw = random.Random(SEED)
    acks = settings.data_dir / "acks.txt"
    load = Load(settings.bootstrap_servers, settings.topic, acks, seed=SEED, rate=300)
    writing = asyncio.create_task(load.run())
    for point in POINTS * 2:
        dying = crashing_projector(settings, point, draw.randint(1, 6))
        running.append(dying)
        await dying.spawn()
        async with asyncio.timeout(60):
            assert await dying.child.wait() == -signal.SIGKILL, dying.log.read_text()[-3000:]
    load.finish()
    await writing
    last = projector(settings)
    running.append(last)
    await last.start()
    await reached(settings, load.position)
    await last.stop()
    return Filled(settings, acks)


async def test_dying_at_any_point_of_a_transaction_changes_nothing_and_the_checker_sees_what_does(
    filled: Filled,
) -> None:
    report = await filled.check()
    assert report.ok, report
    assert report.acknowledged == report.records > 1_000
    for statement, kind in (
        ("UPDATE jobs SET state=(state+1)%7 WHERE row=1", "row"),
        ("UPDATE jobs SET updated_at=updated_at+1 WHERE row=2", "row"),
        ("UPDATE jobs SET trail=CAST(trail||substr(trail, -26) AS BLOB) WHERE row=3", "trail"),
        ("DELETE FROM jobs WHERE row=4", "missing"),
        ("UPDATE jobs SET id=id||'x' WHERE row=5", "ghost"),
        ("UPDATE counters SET active=active+1 WHERE audience=-1", "counter"),
        ("UPDATE totals SET active=active+1 WHERE audience=-1", "total"),
        ("UPDATE checkpoints SET applied=applied+1 WHERE partition=3", "tally"),
    ):
        before = report.differences[kind]
        filled.change(statement)
        report = await filled.check()
        assert report.differences[kind] > before, statement
    assert report.double == 1
    assert report.lost == 0
    with filled.acks.open("a") as acks:
        acks.write("0 0 an-id-that-is-not-there\n")
    assert (await filled.check()).lost == 1
    filled.change("UPDATE checkpoints SET next_offset=next_offset-1 WHERE partition=3")
    assert (await filled.check()).differences["behind"] == 1


def test_files_are_harmed(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_bytes(b"\xff" * 100)
    other.write_bytes(b"other")
    files.flip(one, 1, 3)
    assert 1 <= sum(byte != 255 for byte in one.read_bytes()) <= 3
    files.zero(one, 0, 10)
    assert one.read_bytes()[:10] == bytes(10)
    assert files.truncate(one, 0.5) == one.stat().st_size == 50
    files.swap(one, other)
    assert one.read_bytes() == b"other"
    before = one.stat().st_ino
    files.as_another_inode(one)
    assert one.stat().st_ino != before
    assert one.read_bytes() == b"other"
