"""Another user of the machine neither reads what the service keeps nor gets into its Kafka."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer

from jobtrail.local.kafka_login import login_of
from tests.conftest import managed_broker
from tests.contract.store_streams import event
from tests.e2e.service import Service
from tests.e2e.test_emit import outcome

pytestmark = [pytest.mark.timeout(420), pytest.mark.usefixtures("may_become_nobody")]


@pytest.fixture
def may_become_nobody() -> None:
    """Skip where this user can't act as another one, never in CI."""
    if os.geteuid() != 0:
        if os.environ.get("CI") == "true":
            pytest.fail("these tests have to run as root in CI")
        pytest.skip("only root can act as another user")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A data folder that other users get to: those of pytest are closed from above."""
    with tempfile.TemporaryDirectory(prefix="jobtrail-") as above:
        Path(above).chmod(0o755)
        folder = Path(above, "data")
        folder.mkdir()
        yield folder


async def run(service: Service, *arguments: str, given: bytes = b"") -> tuple[int, str]:
    process = service.command(*arguments)
    await process.spawn()
    found = await outcome(process, given)
    return found.status, found.out


async def earlier_folder(folder: Path) -> None:
    """Make what an earlier version left: a Kafka without a password, and rights for everybody."""
    broker = managed_broker(folder)
    servers = await broker.start()
    try:
        async with AIOKafkaProducer(bootstrap_servers=servers, acks="all") as producer:
            await producer.send_and_wait("job-events", event("created", "job-old", "1"), b"job-old")
    finally:
        await broker.stop()
    assert not (folder / "broker" / "client.properties").exists()
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o777 if path.is_dir() else 0o666)


def as_nobody(service: Service, secret: str) -> dict[str, Any]:
    properties = (service.data_dir / "broker" / "server.properties").read_text()
    ports = re.findall(r"://127\.0\.0\.1:(\d+)", properties)[:2]
    assert len(set(ports)) == 2
    pids = [str(service.process.pid), *(str(child.pid) for child in service.children(""))]
    asked = {"folder": str(service.data_dir), "ports": ports, "pids": pids, "secret": secret}
    said = subprocess.run(
        [sys.executable, "-m", "tests.e2e.as_nobody"],
        input=json.dumps(asked).encode(), capture_output=True, check=True,
    )  # fmt: skip
    found: dict[str, Any] = json.loads(said.stdout)
    return found


async def test_a_folder_of_an_earlier_version_is_closed_and_keeps_its_events(
    folder: Path,
) -> None:
    await earlier_folder(folder)
    service = Service(folder, settings={"JOBTRAIL_OIDC_SECRET": "", "A_SECRET_OF_OTHERS": "x"})
    try:
        await service.start()
        said = service.process.log.read_text()
        assert re.search(r"^\d+ files and folders in \S+ were open to other users", said)
        assert f"clients of others take {folder}/broker/client.properties" in said
        login = login_of(folder / "broker" / "client.properties")
        found = as_nobody(service, login.password)
        assert found.pop("looked at") > 100
        assert found.pop("refusals") == [
            "This user can't find out whether a local service runs.",
            "The secret of the local service can't be read.",
            "folder",
            "store",
        ]
        assert found == {
            "readable": [], "listens to anybody": [], "lets in": [],
            "password on a command line": False, "environments": [],
        }  # fmt: skip
        (java,) = service.children("kafka.Kafka")
        assert "A_SECRET_OF_OTHERS" not in java.environ()
        assert not [name for name in java.environ() if name.startswith("JOBTRAIL_")]
        (broker,) = service.children("-m services.broker")
        assert "A_SECRET_OF_OTHERS" not in broker.environ()
        # Its own user does not notice.
        line = event("created", "job-new", "2")
        assert (await run(service, "emit", given=line))[0] == 0
        status, out = await run(service, "replay")
        assert status == 0
        assert {json.loads(line)["job_id"] for line in out.splitlines()} == {"job-old", "job-new"}
        status, out = await run(service, "doctor", "--json")
        assert [row for row in json.loads(out) if row["level"] == "problem"] == []
        levels = {row["check"]: row["level"] for row in json.loads(out)}
        assert (levels["rights"], levels["kafka-access"]) == ("ok", "ok")
        (folder / "store").chmod(0o755)
        status, out = await run(service, "doctor", "--json")
        (problem,) = [row for row in json.loads(out) if row["level"] == "problem"]
        assert (status, problem["check"]) == (1, "rights")
        assert f"chmod -R go= {folder}" in problem["mend"]
        service.process.signal(signal.SIGINT)
        assert (await outcome(service.process)).status == 0
    finally:
        await service.process.kill()


async def test_a_folder_of_another_user_is_refused(folder: Path) -> None:
    os.chown(folder, 65534, 65534)
    service = Service(folder)
    service.process.log = folder.with_name("up.log")
    await service.process.spawn()
    found = await outcome(service.process)
    assert (found.status, found.out) == (1, "")
    assert found.err.startswith("error: The folder belongs to another user")
    assert f"Where: {folder}." in found.err
