"""Projectors and API processes that are commands of their own, on a real Kafka and one store."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest

from jobtrail.access.tokens import READ_ALL, local_secret, make_token
from jobtrail.contract.readiness import DRAINING
from jobtrail.settings import Settings
from projections.ports.write import Tally
from projections.sqlite.files import schema
from tests.conftest import MakeLog
from tests.contract.store_streams import Log
from tests.e2e.own_processes import (
    LOOK,
    Own,
    environment,
    figures,
    is_ready,
    own,
    own_api,
    own_projector,
    readiness,
    until_ready_is,
)
from tests.e2e.service import command
from tests.faults.flows import (
    Traffic,
    all_get_on,
    applied,
    equals_fold,
    fold_of,
    losses,
    read_log,
    said,
    stream,
    until,
    write,
)
from tests.processes import Process, clean_environment

#: Seconds in which the other projector has all partitions. A member that did not leave would keep
#: its own for a session of 30 s.
TAKEN_OVER_WITHIN: Final = 10.0
#: Seconds in which a projector ends that was told to.
ENDS_WITHIN: Final = 20.0


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    """Give a client without bounds; each request has a connection of its own."""
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    async with aiohttp.ClientSession(connector=connector) as session:
        yield session


def bearer(settings: Settings) -> dict[str, str]:
    token = make_token(local_secret(settings.data_dir), "root", (), [READ_ALL])
    return {"Authorization": f"Bearer {token}"}


def has_all(settings: Settings) -> Any:
    """Return what tells whether a projector is ready and has all partitions."""
    everything = list(range(settings.partitions))
    return lambda status, said: status == 200 and said["partitions"] == everything


async def started(running: list[Process], *some: Own) -> None:
    running.extend(one.process for one in some)
    await asyncio.gather(*(one.process.start() for one in some))


@pytest.mark.timeout(420)
async def test_projectors_are_restarted_one_by_one_under_load_and_nothing_is_lost(
    make_log: MakeLog, running: list[Process], session: aiohttp.ClientSession
) -> None:
    settings = await make_log()
    pair = [own_projector(settings, number) for number in range(2)]
    apis = [own_api(settings, number) for number in range(2)]
    clock = asyncio.get_running_loop().time
    async with Traffic(settings, 5):
        await started(running, *pair, *apis)
        for one in (*pair, *apis):
            await until_ready_is(session, one.url, is_ready)
        parts = [(await readiness(session, one.url))[1]["partitions"] for one in pair]
        assert sorted(parts[0] + parts[1]) == list(range(settings.partitions))
        for one, other in (pair, pair[::-1]):
            began = clock()
            assert await one.process.stop() == 0
            assert clock() - began < ENDS_WITHIN
            await until_ready_is(session, other.url, has_all(settings), TAKEN_OVER_WITHIN)
            await all_get_on(settings)
            await one.process.start()
            for each in pair:
                await until_ready_is(session, each.url, shares(settings))
            await all_get_on(settings)
        async with session.get(f"{apis[1].url}/jobs/summary", headers=bearer(settings)) as answer:
            assert answer.status == 200
    await equals_fold(settings)
    assert losses(settings) == []
    assert said(settings, "action=group_not", "action=fenced") == []


def shares(settings: Settings) -> Any:
    """Return what tells whether a projector is ready and has half of the partitions."""
    return lambda status, said: (
        status == 200 and len(said["partitions"]) == settings.partitions // 2
    )


def is_level(status: int, said: Mapping[str, Any]) -> bool:
    """Tell whether a projector is ready and has applied all that it knows of."""
    return status == 200 and said["lagRecords"] == 0


async def test_a_projector_says_how_it_fares(
    make_log: MakeLog, running: list[Process], session: aiohttp.ClientSession
) -> None:
    settings = await make_log()
    records = stream(31, jobs=20, events=200, steady=0)
    await write(settings, records)
    worker = own_projector(settings, 0)
    await started(running, worker)
    async with session.get(f"{worker.url}/healthz") as answer:
        assert (answer.status, await answer.json()) == (200, {"alive": True})
    await until(lambda: applied(settings) == len(records), "all is applied")
    at = await until_ready_is(session, worker.url, is_level)
    assert at == {
        "ready": True, "reasons": [], "partitions": list(range(settings.partitions)),
        "lagRecords": 0,
    }  # fmt: skip
    found = await figures(session, worker.url)
    tallies = fold_of(await read_log(settings)).tallies().values()
    for verdict, count in zip(Tally._fields, map(sum, zip(*tallies, strict=True)), strict=True):
        assert found[f'jobtrail_projector_records_total{{verdict="{verdict}"}}'] == count, verdict
    places = range(settings.partitions)
    position = [found[f'jobtrail_projector_position{{partition="{p}"}}'] for p in places]
    assert sum(position) == len(records)
    assert all(found[f'jobtrail_projector_lag_records{{partition="{p}"}}'] == 0 for p in places)
    assert found["jobtrail_projector_rebalances_total"] >= 1
    assert found["jobtrail_projector_ready"] == found["jobtrail_projector_log_answers"] == 1
    assert found["jobtrail_projector_applied_timestamp_seconds"] > 1_700_000_000


async def test_a_projector_without_a_log_is_alive_and_says_what_is_missing(
    tmp_path: Path, running: list[Process], session: aiohttp.ClientSession
) -> None:
    worker = own_projector(Settings(data_dir=tmp_path, bootstrap_servers="127.0.0.1:1"), 0)
    running.append(worker.process)
    await worker.process.spawn()
    said = await until_ready_is(session, worker.url, lambda status, _: status == 503)
    assert "The log does not answer." in said["reasons"]
    assert "No partition is assigned to this projector." in said["reasons"]
    async with session.get(f"{worker.url}/healthz") as answer:
        assert answer.status == 200
    assert await worker.process.stop() == 0


async def test_an_api_that_is_told_to_stop_drains_then_ends_its_waits(
    make_log: MakeLog, running: list[Process], session: aiohttp.ClientSession
) -> None:
    settings = await make_log()
    worker, service = own_projector(settings, 0), own_api(settings, 0, "--drain", "5")
    await started(running, worker, service)
    await until_ready_is(session, service.url, is_ready)

    job = "waited-for"
    await write(settings, [Log().tell("created", job, jobType="t", owner="alice")])
    await until(lambda: applied(settings) == 1, "it is applied")

    async def wait() -> tuple[int, str]:
        url, body = f"{service.url}/jobs/statuses", {"jobIds": [job], "wait": -1}
        async with session.post(url, json=body, headers=bearer(settings)) as answer:
            return answer.status, (await answer.json())["type"]

    waiting = asyncio.create_task(wait())
    while (await figures(session, service.url))["jobtrail_waits_held"] < 1:
        await asyncio.sleep(LOOK)
    service.process.signal(signal.SIGTERM)
    said = await until_ready_is(session, service.url, lambda status, _: status == 503)
    assert (said["ready"], said["reasons"]) == (False, [DRAINING])
    async with session.get(f"{service.url}/jobs/summary", headers=bearer(settings)) as answer:
        assert answer.status == 200
    async with session.get(f"{service.url}/healthz") as answer:
        assert answer.status == 200
    assert not waiting.done()
    assert await waiting == (503, "urn:jobtrail:problem:stopping")
    assert await service.process.child.wait() == 0


async def test_the_second_signal_ends_an_api_at_once(
    make_log: MakeLog, running: list[Process], session: aiohttp.ClientSession
) -> None:
    service = own_api(await make_log(), 0, "--drain", "600")
    await started(running, service)
    service.process.signal(signal.SIGTERM)
    await until_ready_is(session, service.url, is_draining)
    assert await service.process.stop() == 128 + signal.SIGTERM


async def test_a_projector_that_can_not_finish_ends_in_time_or_at_the_second_signal(
    make_log: MakeLog, running: list[Process], session: aiohttp.ClientSession
) -> None:
    """What holds it up here: somebody else writes to the store, for a long time."""
    settings = await make_log()
    pair = patient, hasty = [own_projector(settings, number) for number in range(2)]
    await started(running, *pair)
    for one in pair:
        await until_ready_is(session, one.url, shares(settings))
    with contextlib.ExitStack() as stack:
        for shard in range(settings.shards):
            db = schema.connect(schema.shard_path(settings.store_folder, shard))
            stack.callback(db.close)
            db.execute("BEGIN IMMEDIATE")
        await write(settings, stream(32))
        for one in pair:
            await until_ready_is(session, one.url, lambda _, said: said.get("lagRecords", 0) > 0)
        began = asyncio.get_running_loop().time()
        for one in pair:
            one.process.signal(signal.SIGTERM)
            await until_ready_is(session, one.url, is_draining)
        assert await hasty.process.stop() == 128 + signal.SIGTERM
        assert await patient.process.child.wait() == 0
        assert asyncio.get_running_loop().time() - began < ENDS_WITHIN
    assert applied(settings) == 0
    await asyncio.gather(*(one.process.start() for one in pair))
    await equals_fold(settings)


def is_draining(_status: int, said: Mapping[str, Any]) -> bool:
    """Tell whether a process says that it is told to stop."""
    return DRAINING in said.get("reasons", ())


# --- wrong use


async def refused(process: Process, status: int, *words: str) -> None:
    """Check that a command ends by itself, with these words and no traceback."""
    await process.spawn()
    assert await process.child.wait() == status
    text = process.log.read_text()
    assert all(word in text for word in words), text
    assert "Traceback" not in text


@pytest.mark.parametrize("kind", ["projector", "api"])
async def test_a_command_says_what_it_needs(tmp_path: Path, kind: str) -> None:
    servers = ("--bootstrap-servers", "127.0.0.1:1")
    file = tmp_path / "file"
    file.write_text("no folder")

    def run(*options: str, **variables: str) -> Process:
        environment = {**clean_environment(), "JOBTRAIL_DATA_DIR": str(tmp_path), **variables}
        return Process(command(kind, *options), environment, tmp_path / f"{len(options)}.log")

    await refused(run(), 2, "It is not said where Kafka is.", "JOBTRAIL_BOOTSTRAP_SERVERS")
    wrong = {"JOBTRAIL_PORT": "70000", "JOBTRAIL_HEALTH_PORT": "-1"}
    await refused(run(*servers, **wrong), 2, "JOBTRAIL_PORT", "JOBTRAIL_HEALTH_PORT")
    await refused(run(*servers, "--store", "postgresql://h/d"), 2, "sqlite:///FOLDER")
    port = "--port" if kind == "api" else "--health-port"
    await refused(run(*servers, port, "70000"), 2, port)
    below = {"JOBTRAIL_DATA_DIR": str(file / "below")}
    await refused(run(*servers, **below), 2, "The data folder can't be used.", str(file))


async def test_a_projector_needs_a_name_and_a_port_of_its_own(make_log: MakeLog) -> None:
    settings = await make_log()
    await refused(own(settings, "projector", "nameless", "--name", ""), 2, "needs a name")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        words = ("can't listen there", f"127.0.0.1:{port}", "JOBTRAIL_HEALTH_PORT")
        await refused(own(settings, "projector", "second", "--health-port", port), 1, *words)


async def test_the_help_says_what_a_command_needs(tmp_path: Path) -> None:
    for kind in ("projector", "api"):
        help_of = await asyncio.create_subprocess_exec(
            *command(kind, "--help"),
            stdout=asyncio.subprocess.PIPE,
            env=environment(Settings(data_dir=tmp_path)),
        )
        text, _ = await help_of.communicate()
        assert help_of.returncode == 0
        for word in (b"It needs a Kafka", b"--bootstrap-servers", b"--data-dir", b"--store"):
            assert word in b" ".join(text.split()), kind
