"""The bridge against pg-boss itself: what is counted in jobtrail is what pg-boss's tables hold."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import aiohttp
import asyncpg
import pytest

from jobtrail.access.tokens import local_secret, make_token
from jobtrail.core.errors import JobtrailError
from jobtrail.core.events import Created, decode
from jobtrail.core.job import Job, kept_trail
from jobtrail.core.position import format_position
from jobtrail.core.trail import Verdict, read_trail
from jobtrail.integrations.pgboss.bridge import Bridge, BridgeOptions
from jobtrail.integrations.pgboss.memory import BridgeCheckpoint, Memory
from jobtrail.settings import Settings
from tests.conftest import MakeLog, Served
from tests.e2e.service import get
from tests.faults.flows import DEADLINE, read_log
from tests.pgboss.bridging import (
    LOOK_EVERY,
    Counts,
    bridge,
    counted,
    counted_in,
    insert,
    jobs_of,
    once,
    until_counted,
)
from tests.pgboss.servers import Driver
from tests.postgres import Postgres
from tests.processes import Process

JOBS: Final = 5_000
PATHS: Final = ("--owner-path", "data.userId", "--bulk-path", "data.batch.id")


async def until_longer(settings: Settings, than: int) -> None:
    """Wait until a log has more records than so many."""
    async with asyncio.timeout(DEADLINE):
        while len(await read_log(settings)) <= than:
            await asyncio.sleep(LOOK_EVERY)


@pytest.fixture
async def place(served: Served) -> Any:
    """A log with a projector and an API on it; the value asks for its summary at a position."""
    settings, url = served

    async def summary() -> Counts:
        ends = (await read_log(settings)).ends()
        token = make_token(local_secret(settings.data_dir), "x", (), ("jobs:read:all",))
        headers = {
            "Authorization": f"Bearer {token}",
            "Jobtrail-Position": format_position({p: end for p, end in ends.items() if end}),
        }
        async with aiohttp.ClientSession(url, headers=headers) as session:
            found = await get(session, "/jobs/summary")
        return {
            (kind["jobType"], state): count
            for kind in found["jobType"]
            for state, count in kind.items()
            if state not in ("jobType", "total") and count
        }

    summary.settings = settings  # type: ignore[attr-defined]
    return summary


async def test_newest_version_killed_twice_on_the_way(
    place: Any, dsn: str, pg_boss: Path, running: list[Process]
) -> None:
    settings: Settings = place.settings
    async with Driver(pg_boss, "newest.mjs", dsn, str(JOBS)) as driver:
        await driver.stage("install")
        follower = bridge(settings, dsn, *PATHS)
        running.append(follower)
        await follower.spawn()
        await driver.stage("insert")
        await until_longer(settings, 0)
        await follower.kill()
        cut = len(await read_log(settings))
        await driver.stage("work")
        await driver.stage("cancel")
        follower = bridge(settings, dsn, *PATHS)
        running.append(follower)
        await follower.spawn()
        # Resumed when it is known that they were cancelled: their rows don't say so.
        await until_counted(settings, dsn)
        told = len(await read_log(settings))
        assert told > cut
        await driver.stage("resume")
        await until_longer(settings, told)
        await follower.kill()
        follower = bridge(settings, dsn, *PATHS)
        running.append(follower)
        await follower.spawn()
        await driver.stage("retry")
        await driver.stage("end")
    jobs = await until_counted(settings, dsn)
    assert await follower.stop() == 0
    expected = await counted_in(dsn)
    assert {state for _, state in expected} == {
        "created", "active", "retry", "completed", "failed", "cancelled",
    }  # fmt: skip
    assert sum(expected.values()) == len(jobs) == JOBS
    assert await place() == expected
    assert {job.owner for job in jobs.values()} == {f"user-{n}" for n in range(7)}
    assert {job.bulk_id for job in jobs.values()} == {f"batch-{n}" for n in range(11)}
    await rows_agree(dsn, jobs)
    # A second bridge that knows nothing sends all of it again, and no job changes.
    other = settings.model_copy(update={"data_dir": settings.data_dir / "other"})
    assert (await once(other, dsn)).acknowledged > JOBS
    assert await place() == expected
    again = await jobs_of(settings)
    assert {job.id: present(job) for job in again.values()} == {
        job.id: present(job) for job in jobs.values()
    }


def present(job: Job) -> tuple[object, ...]:
    """Return what a job is, without its trail."""
    return tuple(getattr(job, name) for name in job.__struct_fields__ if name != "trail")


async def rows_agree(dsn: str, jobs: Mapping[str, Job]) -> None:
    """Compare jobs with their rows: times, attempts, outputs."""
    connection = await asyncpg.connect(dsn)
    query = """
        SELECT id::text, state::text, retry_count, output IS NOT NULL AS output,
          (extract(epoch FROM created_on) * 1000000)::int8 AS created_on,
          (extract(epoch FROM completed_on) * 1000000)::int8 AS completed_on
        FROM pgboss.job
    """
    for row in await connection.fetch(query):
        job = jobs[row["id"]]
        told = (job.created_at, job.ended_at, bool(job.output or job.error))
        assert told == (row["created_on"], row["completed_on"], row["output"]), (row, job)
        if row["state"] != "created":
            assert job.attempt == row["retry_count"], (row, job)
    await connection.close()


@pytest.mark.parametrize("version", [9, 10])
async def test_older_versions_with_their_archive(
    make_log: MakeLog, dsn: str, pg_boss: Path, version: int
) -> None:
    settings, late = await make_log(), await make_log()
    async with Driver(pg_boss, "old.mjs", dsn, str(version)) as driver:
        await driver.stage("install")
        await driver.stage("work")
        await once(settings, dsn, owner_path=("userId",))
        assert counted(await jobs_of(settings)) == await counted_in(dsn)
        (archived,) = await driver.stage("archive")
        assert int(archived) >= 7
        await driver.stage("end")
    expected = await counted_in(dsn)
    states = {"created", "active", "retry", "completed", "failed", "cancelled"}
    assert {state for _, state in expected} == states | ({"expired"} if version == 9 else set())
    await once(settings, dsn, owner_path=("userId",))
    jobs = await jobs_of(settings)
    assert counted(jobs) == expected
    assert {job.owner for job in jobs.values()} == {"user-0", "user-1"}
    # Of a bridge that comes only now every job has the history that its row proves.
    await once(late, dsn)
    seen_late = await jobs_of(late)
    assert counted(seen_late) == expected
    for job in seen_late.values():
        verdicts = {entry.verdict for entry in read_trail(kept_trail(job))}
        assert verdicts == {Verdict.APPLIED}
        assert job.attempt == jobs[job.id].attempt


async def use_up(connection: asyncpg.Connection[Any]) -> None:
    """Use up the numbers of more transactions than a bridge that begins goes back."""
    await connection.execute("CREATE TEMP TABLE IF NOT EXISTS used (n int)")
    await connection.execute("""
        DO $$ BEGIN
          FOR n IN 1..1001 LOOP
            -- A savepoint, by its exception handler.
            BEGIN INSERT INTO used VALUES (n); EXCEPTION WHEN OTHERS THEN RAISE; END;
          END LOOP;
        END $$
    """)


@pytest.mark.parametrize("savepoint", [False, True])
async def test_a_late_commit_is_not_missed(
    make_log: MakeLog, dsn: str, two: tuple[Any, Any], savepoint: bool
) -> None:
    """Begun before others and committed after they were read, with a time long past."""
    settings = await make_log()
    first, second = two
    transaction = first.transaction()
    await transaction.start()
    expected = {await insert(first, "plain")}
    if savepoint:
        # Its number lies behind those of the others, and no snapshot lists it.
        await insert(second, "plain")
        inner = first.transaction()
        await inner.start()
        expected.add(await insert(first, "again"))
        await inner.commit()
    await use_up(second)
    seen = {await insert(second, "apart") for _ in range(3)}
    await once(settings, dsn)
    assert seen <= set(await jobs_of(settings)).difference(expected)
    assert (await once(settings, dsn)).readings == 1
    await transaction.commit()
    await once(settings, dsn)
    assert expected | seen <= set(await jobs_of(settings))


async def test_what_did_not_change_is_not_read_again(
    make_log: MakeLog, dsn: str, two: tuple[Any, Any]
) -> None:
    settings = await make_log()
    first, _ = two
    await first.execute(
        "INSERT INTO pgboss.job (name) SELECT 'plain' FROM generate_series(1, 2500)"
    )
    assert (await once(settings, dsn)).read == 2500
    # A bridge that begins goes back by 1,000 transactions.
    assert (await once(settings, dsn)).read == 2500
    await use_up(first)
    await once(settings, dsn)
    assert (await once(settings, dsn)).read == 0
    job = await insert(first, "plain")
    figures = await once(settings, dsn)
    assert (figures.read, figures.acknowledged) == (1, 1)
    assert job in await jobs_of(settings)
    assert (await once(settings, dsn, again=True)).read == 2501


@pytest.mark.parametrize("origin", ["another cluster", None])
async def test_numbers_of_another_place_mean_nothing(
    make_log: MakeLog, dsn: str, two: tuple[Any, Any], origin: str | None
) -> None:
    """Restored elsewhere, or to an instant before: everything is read again."""
    settings = await make_log()
    first, _ = two
    await insert(first, "plain")
    await use_up(first)
    await once(settings, dsn)
    assert (await once(settings, dsn)).read == 0
    with Memory(Bridge(settings, BridgeOptions(dsn)).path) as memory:
        at = memory.checkpoint
        assert at.since is not None
        since = at.since if origin else at.since + 10_000
        memory.save(BridgeCheckpoint(origin or at.origin, since))
    assert (await once(settings, dsn)).read == 1


async def test_a_role_that_may_only_read_is_enough(
    make_log: MakeLog, postgres: Postgres, dsn: str, two: tuple[Any, Any]
) -> None:
    settings = await make_log()
    first, _ = two
    role = f"reader_{settings.topic[-12:]}"
    await first.execute(f"CREATE ROLE {role} LOGIN")
    reader = dsn.replace("postgres@", f"{role}@")
    job = await insert(first, "apart")
    with pytest.raises(JobtrailError, match=r"Grant USAGE on schema pgboss and SELECT"):
        await once(settings, reader)
    await first.execute(f"GRANT USAGE ON SCHEMA pgboss TO {role}")
    await first.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA pgboss TO {role}")
    await once(settings, reader)
    assert job in await jobs_of(settings)


async def test_outputs_and_names_that_no_event_may_have(
    make_log: MakeLog, dsn: str, two: tuple[Any, Any]
) -> None:
    settings = await make_log()
    first, _ = two
    done = """
        INSERT INTO pgboss.job (name, state, data, started_on, completed_on, output)
        VALUES ('plain', 'completed', $1::jsonb, now(), now(), $2::jsonb) RETURNING id::text
    """
    large = await first.fetchval(done, '{"userId": "u\\u0007"}', f'"{"x" * 70_000}"')
    deep = await first.fetchval(done, '{"userId": 7}', "[" * 300 + "]" * 300)
    figures = await once(settings, dsn, owner="nobody", owner_path=("userId",))
    # One is too large, the other too deep.
    assert (figures.left_out, figures.refused) == (2, 0)
    jobs = await jobs_of(settings)
    assert {(str(jobs[job].state), jobs[job].output) for job in (large, deep)} == {
        ("completed", None)
    }
    assert [jobs[job].owner for job in (large, deep)] == ["nobody", "7"]
    (created,) = {
        event.source
        for records in (await read_log(settings)).records.values()
        for record in records
        if isinstance(event := decode(record.value), Created)
    }
    assert re.fullmatch(r"//pg-boss/db_[0-9a-f]{12}/pgboss", created)
