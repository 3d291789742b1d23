"""`jobtrail up` mends itself: hung processes, torn files, a broker that can't come back."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest

from jobtrail.local.running import FILE
from jobtrail.processes.process_states import read_processes
from tests.conftest import MakeLog
from tests.e2e.service import Service, command
from tests.e2e.test_emit import outcome
from tests.faults.flows import until
from tests.processes import Process, clean_environment

pytestmark = pytest.mark.timeout(300)


async def status(service: Service) -> tuple[int, dict[str, Any]]:
    process = service.command("status", "--json")
    await process.spawn()
    found = await outcome(process)
    assert found.out, found.err
    return found.status, json.loads(found.out)


async def doctor(service: Service) -> tuple[int, list[dict[str, str]]]:
    process = service.command("doctor", "--json")
    await process.spawn()
    found = await outcome(process)
    assert found.out, found.err
    return found.status, json.loads(found.out)


def pids(service: Service) -> dict[str, int | None]:
    said = read_processes(service.data_dir)
    return {p.name: p.pid for p in said.processes if p.state == "ready"} if said else {}


async def test_hung_processes_are_replaced_and_torn_files_are_mended(tmp_path: Path) -> None:
    service = Service(tmp_path / "data", settings={"JOBTRAIL_HUNG_AFTER": "5"})
    try:
        await service.start()
        before = pids(service)
        assert before.keys() == {"broker", "projector-0", "api-0"}
        (java,) = service.children("kafka.Kafka")
        # Of the broker only Java: the process that watches it is well.
        for pid in (java.pid, before["projector-0"], before["api-0"]):
            assert pid is not None
            os.kill(pid, signal.SIGSTOP)

        def replaced() -> bool:
            now = pids(service)
            return now.keys() == before.keys() and not set(now.values()) & set(before.values())

        await until(replaced, "each of them is another process")
        code, said = await status(service)
        while not said["ready"]:
            assert code == 1
            assert said["reasons"]
            code, said = await status(service)
        # A projector that fell several times while Kafka was away has to prove itself.
        assert all("again and again" in reason for reason in said["reasons"])
        assert code == (1 if said["reasons"] else 0)
        assert [(row["name"], row["restarts"] > 0) for row in said["processes"]] == [
            ("broker", True), ("projector-0", True), ("api-0", True),
        ]  # fmt: skip
        reasons = {row["lastEnd"]["reason"] for row in said["processes"]}
        assert "it was silent for 5 s and was ended" in reasons
        # What says where the service is, is kept as it should be.
        (service.data_dir / FILE).write_text("{")
        (service.data_dir / "processes.json").unlink()
        await until(
            lambda: (service.data_dir / FILE).read_text() != "{" and bool(pids(service)),
            "both files are whole again",
        )
        assert (await status(service))[1]["ready"]
        code, findings = await doctor(service)
        fallen = [f for f in findings if f["check"] in ("restarts", "processes")]
        assert [f["found"].split()[0] for f in fallen] == ["broker", "projector-0", "api-0"]
        problems = [f for f in findings if f["level"] == "problem"]
        assert {f["check"] for f in problems} <= {"processes"}
        assert code == (1 if problems else 0)
        assert await service.process.stop() == 0
        assert not {FILE, "processes.json"} & {path.name for path in service.data_dir.iterdir()}
    finally:
        await service.process.kill()


async def test_a_start_that_fails_says_why_and_leaves_nobody_behind(
    make_log: MakeLog, tmp_path: Path
) -> None:
    """The projector falls while the API is well."""
    kafka = ("--bootstrap-servers", (await make_log()).bootstrap_servers)
    (tmp_path / "file").touch()
    for folder, said in (
        (tmp_path / "data", "error: The projector-0 did not start (exit status 1)."),
        (tmp_path / "file" / "data", "error: The files of the local service can't be used."),
    ):
        store = ("--store", f"sqlite:///{tmp_path}/file/store")
        process = Process(
            command("--data-dir", str(folder), "up", "--port", "0", *kafka, *store),
            clean_environment(),
            tmp_path / "up.log",
        )
        await process.spawn()
        found = await outcome(process)
        assert (found.status, found.out) == (1, "")
        assert said in found.err
        assert "Traceback" not in found.err
    assert not (tmp_path / "data" / FILE).exists()
    assert not [
        process.pid
        for process in psutil.process_iter(["cmdline", "environ"])
        if str(tmp_path) in str(process.info["environ"] or "")
        and "-m services.api" in " ".join(process.info["cmdline"] or ())
    ]


async def test_a_start_that_takes_long_says_what_it_waits_for(tmp_path: Path) -> None:
    """A projector that stands still from its first moment on."""
    service = Service(tmp_path / "data")
    await service.process.spawn()
    try:
        await until(lambda: bool(service.children("-m projections")), "a projector is started")
        (projector,) = service.children("-m projections")
        projector.suspend()
        await until(
            lambda: "still waiting: projector-0 is starting" in service.process.log.read_text(),
            "that is said",
        )
        assert str(service.data_dir / "logs" / "projector-0.log") in service.process.log.read_text()
        projector.resume()
        assert (await service.process.next_ready()).startswith("http://")
        assert await service.process.stop() == 0
    finally:
        await service.process.kill()
