"""What tests of replay on the command line share: a log of jobs, and the command."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from jobtrail.produce.log_writer import LogWriter
from jobtrail.settings import Settings
from tests.conftest import MakeLog
from tests.e2e.service import command
from tests.processes import clean_environment

JOBS = 500


def event(kind: str, job_id: str, second: int, **data: Any) -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "id": f"{job_id}.{kind}",
        "source": "//tests",
        "type": f"job.{kind}",
        "subject": job_id,
        "time": f"2026-11-23T13:{second // 60:02}:{second % 60:02}Z",
        "data": data,
    }


async def write(settings: Settings, records: list[tuple[str, bytes]]) -> dict[int, int]:
    async with LogWriter(settings) as writer:
        for key, value in records:
            await writer.append(key, value)
        await writer.settle()
    return dict(writer.position)


async def filled(make_log: MakeLog) -> Settings:
    """Make a log of so many jobs."""
    settings = await make_log()
    found: list[dict[str, Any]] = []
    for n in range(JOBS):
        found.append(event("created", f"j{n}", n, jobType=f"t{n % 2}", owner=f"u{n % 5}"))
        found.append(event("active", f"j{n}", n + 10))
        if n % 3:
            found.append(event("completed", f"j{n}", n + 20, output={"n": n}))
    records = [(one["subject"], json.dumps(one).encode()) for one in found]
    await write(settings, [*records, ("j1", b"no event")])
    return settings


async def begin(
    settings: Settings, *arguments: str, name: str = "replay"
) -> asyncio.subprocess.Process:
    servers = ("--bootstrap-servers", settings.bootstrap_servers)
    return await asyncio.create_subprocess_exec(
        *command("--data-dir", str(settings.data_dir), *name.split(), *servers, *arguments),
        env={**clean_environment(), "JOBTRAIL_TOPIC": settings.topic},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def run(settings: Settings, *arguments: str, name: str = "replay") -> tuple[int, str, str]:
    process = await begin(settings, *arguments, name=name)
    out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()
