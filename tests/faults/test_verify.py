"""`projections.verify`: an equal store is called equal, and every other one is not."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import apsw
import pytest

from jobtrail.core.position import parse_position
from jobtrail.local.verified import VERIFIED, read_verified
from jobtrail.processes.runtime import child_environment
from jobtrail.settings import Settings
from projections.verify import verify
from tests.conftest import MakeLog
from tests.contract.store_streams import BASE, Log
from tests.e2e.test_emit import outcome, prepared
from tests.faults.flows import Traffic, equals_fold, held, reached, read_log, stream, write
from tests.processes import Process, projector

#: What is done to a shard, and how a verification calls it.
DAMAGES: dict[str, tuple[str, str]] = {
    "a state": ("UPDATE jobs SET state=(state+1)%7 WHERE row=3", "row"),
    "an output": ("UPDATE jobs SET output='7' WHERE row=(SELECT min(row) FROM jobs)", "row"),
    "tags in another order": (
        "UPDATE jobs SET tags='{\"z\":\"1\",\"y\":\"2\"}' WHERE row=4", "row"),
    "a time": ("UPDATE jobs SET updated_at=updated_at+1 WHERE row=5", "row"),
    "a trail's last byte": (
        "UPDATE jobs SET trail=CAST(substr(trail,1,length(trail)-1)||x'ff' AS BLOB) WHERE row=6",
        "trail"),
    "a trail's end": (
        "UPDATE jobs SET trail=substr(trail,1,length(trail)-26) WHERE row=7", "trail"),
    "half an entry": (
        "UPDATE jobs SET trail=substr(trail,1,length(trail)-13) WHERE row=7", "trail"),
    "a part of a trail": (
        "DELETE FROM trail_chunks WHERE first=(SELECT max(first) FROM trail_chunks)", "trail"),
    "a part of nobody's trail": ("INSERT INTO trail_chunks VALUES(1000000,0,0,x'00')", "trail"),
    "what a job had reached": ("UPDATE trail_chunks SET reached=reached+1", "trail"),
    "a lost key of an event": (
        "DELETE FROM trail_keys WHERE key=(SELECT max(key) FROM trail_keys)", "trail"),
    "a key's offset": ("UPDATE trail_keys SET offset=offset+1", "trail"),
    "a key of nobody's event": ("INSERT INTO trail_keys VALUES(1000000,0,0)", "trail"),
    "who said what a job is": ("DELETE FROM trail_said", "trail"),
    "a lost job": ("DELETE FROM jobs WHERE row=8", "row"),
    "a job that never was": (
        "INSERT INTO jobs SELECT 100000,'ghost',audience,type,state,created_at,updated_at,"
        "started_at,ended_at,attempt,progress,bulk_id,tags,error,output,0,trail,4711,source,"
        "writers FROM jobs WHERE row=8", "row"),
    "a job that is there twice": (
        "INSERT INTO jobs SELECT 100000,id,audience,type,state,created_at,updated_at,"
        "started_at,ended_at,attempt,progress,bulk_id,tags,error,output,spilled,trail,hash,"
        "source,writers "
        "FROM jobs WHERE row=8", "row"),
    "a hash": ("UPDATE jobs SET hash=hash+1 WHERE row=9", "row"),
    "a counter": ("UPDATE counters SET failed=failed+1 WHERE audience>0", "counter"),
    "a lost counter": ("DELETE FROM counters WHERE audience=-1", "counter"),
    "a total": ("UPDATE totals SET active=active-1", "total"),
    "an audience's owner": ("UPDATE audiences SET owner=owner||'x' WHERE audience=1", "row"),
    "an audience's member": (
        "INSERT INTO audience_members VALUES('user:mallory', 1)", "audience"),
    "a lost member": ("DELETE FROM audience_members WHERE audience=2", "audience"),
    "a type": ("UPDATE types SET name=name||'x' WHERE type=1", "row"),
    "a run's range of times": ("UPDATE change_runs SET low=low+1", "run"),
    "a run's audiences": ("UPDATE change_runs SET directory=zeroblob(8)", "run"),
    "a run's offsets": ("UPDATE change_runs SET offsets=zeroblob(20)", "run"),
    "a run's totals": ("UPDATE change_totals SET created=created+1", "run"),
    "a lost run": ("DELETE FROM change_runs", "run"),
    "a lost block": ("DELETE FROM change_blocks", "change"),
    "a change": (
        "UPDATE change_blocks SET rows=CAST(x'01'||substr(rows,2) AS BLOB)", "change"),
    "a doubled block": (
        "UPDATE change_blocks SET rows=CAST(rows||substr(rows,1,36) AS BLOB)", "change"),
    "a life": ("UPDATE incarnations SET since=since+1 WHERE row=1", "incarnation"),
    "a lost life": ("DELETE FROM incarnations WHERE row=1", "incarnation"),
    "a life of a job that has one": (
        "INSERT INTO incarnations SELECT 10000,row,id,audience,type,created_at,bulk_id,0,0,NULL,"
        "NULL FROM jobs WHERE row NOT IN (SELECT job FROM incarnations) LIMIT 1", "incarnation"),
    "a tally": ("UPDATE checkpoints SET late=late+1, applied=applied-1", "tally"),
    "a checkpoint before the log's end": (
        "UPDATE checkpoints SET next_offset=next_offset-1", "checkpoint"),
    "a checkpoint behind the log's end": (
        "UPDATE checkpoints SET next_offset=next_offset+1", "checkpoint"),
    "a lost checkpoint": (
        "DELETE FROM checkpoints WHERE partition=(SELECT max(partition) FROM checkpoints)",
        "checkpoint"),
    "a text in place of bytes": ("UPDATE jobs SET trail='a trail' WHERE row=10", "file"),
    "no number": ("UPDATE jobs SET state='failed' WHERE row=11", "file"),
    "an index": ("", "file"),
}  # fmt: skip


class Folded(NamedTuple):
    """A log, and a store that holds all of it; nobody writes either."""

    settings: Settings
    jobs: int
    records: int

    def damaged(self, folder: Path, how: Callable[[Any], None]) -> Settings:
        """Return settings of a copy of the store, damaged."""
        shutil.copytree(self.settings.store_folder, folder)
        db = apsw.Connection(str(folder / "shard-0.db"))
        how(db)
        db.close()
        return self.settings.model_copy(update={"store": f"sqlite:///{folder}"})


@pytest.fixture(scope="module")
async def folded(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> Folded:
    """Fold a log of every kind of life in two steps, so that many jobs are written twice."""
    from services.broker.topics import ensure_topics

    folder = tmp_path_factory.mktemp("folded")
    settings = Settings(
        data_dir=folder, bootstrap_servers=kafka, topic="verified", dead_topic="verified-dead",
        group="verified", partitions=8,
    )  # fmt: skip
    await ensure_topics(kafka, settings)
    records = [record for seed in (1, 2, 3) for record in stream(seed, jobs=300, events=4000)]
    alike = Log()
    for number in range(6_000):
        # So many that runs of changes have totals.
        alike.tell("created", f"alike-{number}", BASE)
    records += itertools.chain(*alike.records.values())
    folding = projector(settings)
    try:
        await folding.start()
        for some in (records[:3000], records[3000:]):
            await write(settings, some)
            log = await read_log(settings)
            await reached(settings, log.ends())
    finally:
        assert await folding.stop() == 0
    jobs = {record.key for record in records if record.key is not None}
    return Folded(settings, len(jobs), len(records))


@pytest.mark.parametrize("at_a_time", [200_000, 17])
async def test_an_equal_store_is_called_equal(folded: Folded, at_a_time: int) -> None:
    report = await verify(folded.settings, jobs_at_a_time=at_a_time)
    assert report.lines()[:-2] == []
    assert (report.count, report.jobs, report.records) == (0, folded.jobs, folded.records)
    assert report.position == held(folded.settings).position
    said = read_verified(folded.settings.store_folder)
    assert said is not None
    assert parse_position(said.position) == report.position
    assert not [*(folded.settings.store_folder / "verify").glob("*.db*")]


async def test_a_sample_is_some_of_the_jobs(folded: Folded) -> None:
    report = await verify(folded.settings, sample=5)
    assert report.count == 0
    assert folded.jobs // 10 < report.jobs < folded.jobs // 2


@pytest.mark.parametrize("damage", DAMAGES)
async def test_a_damage_is_named(folded: Folded, tmp_path: Path, damage: str) -> None:
    statement, kind = DAMAGES[damage]

    def harm(db: Any) -> None:
        if statement:
            db.execute(statement)
            assert db.changes() or "LIMIT" in statement
        else:
            db.execute("PRAGMA writable_schema=ON")
            (root,) = db.execute(
                "SELECT rootpage FROM sqlite_master WHERE name='jobs_by_creation'"
            ).fetchone()
            db.execute("UPDATE sqlite_master SET rootpage=? WHERE name='jobs_by_bulk'", (root,))

    settings = folded.damaged(tmp_path / "store", harm)
    report = await verify(settings, limit=1000)
    assert kind in {difference.kind for difference in report.differences}, report.lines()
    assert not (settings.store_folder / VERIFIED).exists() or report.count


async def test_all_differences_are_counted_and_some_listed(folded: Folded, tmp_path: Path) -> None:
    settings = folded.damaged(tmp_path / "store", lambda db: db.execute("DELETE FROM jobs"))
    report = await verify(settings, limit=3)
    assert len(report.differences) == 3
    assert report.count > 100
    assert report.as_json()["differences"] == report.count


async def test_a_store_is_verified_while_it_is_written(
    make_log: MakeLog, running: list[Process]
) -> None:
    settings = await make_log()
    folding = projector(settings)
    running.append(folding)
    await folding.start()
    async with Traffic(settings, 4):
        for number in range(3):
            await reached(settings, {0: (number + 1) * 50})
            report = await verify(settings)
            assert report.lines()[:-2] == []
            assert report.jobs
    await equals_fold(settings)


async def test_the_command_says_what_differs_by_its_status(folded: Folded, tmp_path: Path) -> None:
    settings = folded.damaged(
        tmp_path / "store", lambda db: db.execute("UPDATE jobs SET attempt=99 WHERE row=3")
    )
    for chosen, status, differences in ((folded.settings, 0, 0), (settings, 1, 1)):
        process = prepared(tmp_path, child_environment(chosen), "verify", "--json")
        await process.spawn()
        found = await outcome(process)
        assert (found.status, found.err) == (status, "")
        assert json.loads(found.out)["differences"] == differences
    process = prepared(tmp_path, child_environment(settings), "verify", "--sample", "0")
    await process.spawn()
    assert (await outcome(process)).status == 2
