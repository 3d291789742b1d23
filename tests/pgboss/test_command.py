"""`jobtrail bridge pg-boss` as people run it: what it prints, and what it says where it can't."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

from jobtrail.processes.runtime import child_environment
from jobtrail.settings import Settings
from tests.conftest import MakeLog
from tests.e2e.service import command
from tests.pgboss.servers import Driver
from tests.postgres import WITHIN, Postgres
from tests.processes import clean_environment

URL = "postgresql://localhost/none"


async def ran(settings: Settings, *arguments: str) -> tuple[int | None, str, str]:
    process = await asyncio.create_subprocess_exec(
        *command("bridge", "pg-boss", *arguments),
        env=child_environment(settings),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    async with asyncio.timeout(WITHIN):
        out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


async def test_once(make_log: MakeLog, dsn: str, pg_boss: Path) -> None:
    settings = await make_log()
    async with Driver(pg_boss, "newest.mjs", dsn, "10") as driver:
        await driver.stage("install")
        await driver.stage("insert")
        await driver.stage("end")
    status, out, err = await ran(settings, "--dsn", dsn, "--once", "--json")
    assert (status, err) == (0, "")
    said = json.loads(out)
    assert (said["acknowledged"], said["read"], said["refused"]) == (10, 10, 0)
    assert said["position"]
    (file,) = (settings.data_dir / "bridges").glob("*.db")
    assert file.stat().st_size
    status, out, _ = await ran(settings, "--dsn", dsn, "--once", "--again")
    assert status == 0
    assert out.startswith("10 events acknowledged, position ")


async def test_what_it_cant_do_it_says(make_log: MakeLog, postgres: Postgres, dsn: str) -> None:
    settings = await make_log()
    cases = (
        (["--dsn", dsn], 1, "There is no pg-boss that this bridge supports."),
        (["--dsn", dsn, "--owner-path", "userId"], 2, "Expected: data.KEY"),
        (["--dsn", "mysql://localhost/x", "--once"], 1, "invalid DSN"),
        (["--dsn", postgres.dsn("absent"), "--once"], 1, 'database "absent" does not exist'),
        (["--dsn", "postgresql://127.0.0.1:1/x", "--once"], 1, "PostgreSQL does not answer."),
    )
    found = await asyncio.gather(*(ran(settings, *arguments) for arguments, _, _ in cases))
    for (status, out, err), (_, expected, said) in zip(found, cases, strict=True):
        assert (status, out) == (expected, "")
        assert err.startswith("error: ")
        assert said in err


def test_a_missing_package_is_named() -> None:
    script = f"""
import sys
sys.modules["asyncpg"] = None
from jobtrail.cli import main
main(["bridge", "pg-boss", "--dsn", {URL!r}])
"""
    found = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=clean_environment()
    )
    assert found.returncode == 2
    assert "(asyncpg): pip install 'jobtrail[pg-boss]' brings them." in found.stderr
