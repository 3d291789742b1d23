"""The service and its document say the same: thousands of drawn requests to a running service."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from jobtrail.access.tokens import READ_ALL, WRITE, local_secret, make_token
from jobtrail.settings import Settings
from tests.conftest import MakeLog
from tests.e2e.fuzzing import POSITION
from tests.processes import Process, api, clean_environment, projector

ROOT = Path(__file__).parents[2]
CONFIG = Path(__file__).with_name("schemathesis.toml")
DOCUMENT = ROOT / "docs" / "openapi.json"
#: Drawn cases of each operation that takes anything.
CASES = 30
if os.environ.get("THOROUGH") == "true":
    CASES = 1_000
elif os.environ.get("CI") == "true":
    CASES = 200
#: So that the same is drawn again.
SEED = 1


@pytest.fixture
async def service(make_log: MakeLog, running: list[Process]) -> tuple[Settings, str]:
    """Run a projector and an API process on a log of their own."""
    settings = await make_log()
    folding, answering = projector(settings), api(settings)
    running += [folding, answering]
    await folding.start()
    return settings, await answering.start()


def some_events() -> Iterator[dict[str, Any]]:
    """Jobs in several states, so that there is something to be found."""
    for number in range(12):
        job = f"seed-{number}"

        def event(kind: str, job: str = job, **data: Any) -> dict[str, Any]:
            return {
                "specversion": "1.0",
                "id": f"{job}-{kind}",
                "source": "//tests",
                "type": f"job.{kind}",
                "subject": job,
                "data": data,
            }

        yield event("created", jobType=f"type-{number % 3}", owner="fuzzer", bulkId="seeds")
        if number % 2:
            yield event("active", worker="w")
        if number % 3 == 0:
            yield event("completed", output=[number, {"deep": None}])


@pytest.mark.timeout(7200 if CASES == 1_000 else 1500)
async def test_no_answer_lies_outside_of_the_document(
    service: tuple[Settings, str], tmp_path: Path
) -> None:
    settings, url = service
    permissions = [READ_ALL, WRITE]
    secret = local_secret(settings.data_dir)
    token = make_token(secret, "fuzzer", (), permissions, timedelta(hours=1))
    headers = {"Authorization": f"Bearer {token}"}
    async with aiohttp.ClientSession(url, headers=headers) as session:
        batch = {"Content-Type": "application/cloudevents-batch+json"}
        body = json.dumps(list(some_events()))
        async with session.post("/events", data=body, headers=batch) as answer:
            assert answer.status == 200, await answer.text()
            position = answer.headers["Jobtrail-Position"]
        at = {"Jobtrail-Position": position}
        async with session.get("/jobs/search", headers=at) as answer:
            assert answer.status == 200, await answer.text()
        fuzz = partial(run_schemathesis, url, headers, position, tmp_path)
        await fuzz("all", "--max-examples", str(CASES))
        # Beside operations that need nothing schemathesis begins no chain of requests with one that
        # takes ids: so here are the chains from what was written to what can be read of it.
        written = ("ingest", "job", "history")
        only = [part for name in written for part in ("--include-operation-id", name)]
        await fuzz("written", "--phases", "stateful", "--max-examples", "40", *only)
        async with session.get("/metrics") as answer:
            figures = await answer.text()
    assert [line for line in figures.splitlines() if 'status="5' in line] == []
    assert_all_was_tried(tmp_path)


async def run_schemathesis(
    url: str, headers: dict[str, str], position: str, folder: Path, label: str, *options: str
) -> None:
    """Let it loose on a service; what it reports goes to a file of this label."""
    report = folder / f"{label}.ndjson"
    argv = [
        *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIG)),
        *("run", str(DOCUMENT), "--url", url, "--checks", "all", "--mode", "all"),
        *("--seed", str(SEED), "--report-ndjson-path", str(report), *options),
        *(part for name, value in headers.items() for part in ("-H", f"{name}: {value}")),
    ]
    environment = {**clean_environment(), "PYTHONPATH": str(ROOT), POSITION: position}
    child = await asyncio.create_subprocess_exec(
        *argv,
        cwd=folder,
        env=environment,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        output, _ = await child.communicate()
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    assert child.returncode == 0, output.decode(errors="replace")[-20_000:]


def assert_all_was_tried(folder: Path) -> None:
    """Check that the runs were some: every operation, as many cases as were ordered, the links."""
    cases: Counter[tuple[str, str]] = Counter()
    statuses: Counter[tuple[str, int]] = Counter()
    followed: set[tuple[str, str]] = set()
    for recorder in recorders(folder):
        for name, interaction in recorder["interactions"].items():
            node = recorder["cases"][name]
            case = node["value"]
            cases[case["method"], case["path"]] += 1
            statuses[case["path"], interaction["response"]["status_code"]] += 1
            if parent := recorder["cases"].get(node.get("parent_id")):
                followed.add((parent["value"]["path"], case["path"]))
    document = json.loads(DOCUMENT.read_bytes())
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            varied = operation["parameters"] or "requestBody" in operation
            assert cases[method.upper(), path] >= (CASES if varied else 1), (method, path)
        assert statuses[path, 405] > 0, path
    for path in ("/jobs", "/jobs/search", "/jobs/{id}", "/jobs/statuses", "/events"):
        assert all(statuses[path, status] > 0 for status in (200, 400, 401)), path
    assert statuses["/events", 415] > 0
    # Which links a run takes is drawn; that it takes some of each end is not.
    assert {"/jobs/{id}", "/jobs/{id}/history"} & {to for at, to in followed if at == "/events"}
    assert {"/jobs/search", "/jobs/statuses"} & {to for at, to in followed if at != "/events"}


def recorders(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield what the runs have recorded of each of their scenarios."""
    for report in folder.glob("*.ndjson"):
        for line in report.read_text(encoding="utf-8").splitlines():
            finished = json.loads(line).get("ScenarioFinished", {})
            if "interactions" in finished.get("recorder", {}):
                yield finished["recorder"]
