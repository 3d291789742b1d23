"""A projector that is killed with SIGKILL at any point, and started again from its checkpoint."""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import sys
from asyncio.subprocess import PIPE, Process
from pathlib import Path

import pytest

from tests.contract.store_checks import check_counters, check_equal, check_snapshot
from tests.contract.store_feeding import fill
from tests.contract.store_model import Model
from tests.contract.store_process import small_log
from tests.contract.stores import SqliteStore

MODULE = "tests.contract.store_process"
ROOT = Path(__file__).parents[2]
#: How a step of a store begins: a kill hits right before it.
KINDS = {"BEGIN": 8, "INSERT INTO": 90, "UPDATE": 50, "SELECT": 20, "COMMIT": 8, "": 150}


async def start(*arguments: object) -> Process:
    """Start a process of `store_process`."""
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", MODULE, *map(str, arguments), cwd=ROOT, stdin=PIPE, stdout=PIPE
    )


def check_anywhere(store: SqliteStore, model: Model) -> None:
    """Assert that a store is at some position whole."""
    reader = store.reader()
    with reader.snapshot() as snapshot:
        check_snapshot(snapshot, model.advance(snapshot.held.position))
    reader.close()
    assert store.tallies() == model.tallies()
    check_counters(store, model)


@pytest.mark.parametrize("seed", [71])
async def test_kills_at_random_points_lose_and_repeat_nothing(
    store: SqliteStore, seed: int
) -> None:
    rng, model = random.Random(f"{seed} {store.shards}"), Model(small_log(seed))
    for how in ("dies", "tells", "dies", "tells", "dies"):
        kind = rng.choice(sorted(KINDS))
        number = rng.randint(1, KINDS[kind])
        process = await start("project", store.address, seed, kind, number, how)
        if how == "tells":
            assert process.stdout is not None
            assert await process.stdout.readline() == b"here\n", (kind, number)
            process.kill()
        assert await process.wait() == -signal.SIGKILL, (kind, number)
        check_anywhere(store, model)
    assert model.position != model.log.ends(), "every kill came when all was done"
    await fill(store, model.log)
    check_equal(store, model.advance())


async def test_a_reset_that_is_killed_did_nothing(store: SqliteStore) -> None:
    log = small_log(72)
    await fill(store, log, most=1000)
    before = store.rows()
    process = await start("reset", store.address, 72, "COMMIT", 1, "dies")
    assert await process.wait() == -signal.SIGKILL
    assert store.rows() == before
    check_equal(store, Model(log).advance())


def test_reads_during_writes_are_of_one_position(store: SqliteStore) -> None:
    model, reader = Model(small_log(73)), store.reader()
    command = [sys.executable, "-m", MODULE, "project", store.address, "73"]
    with subprocess.Popen(command, cwd=ROOT) as process:
        while process.poll() is None:
            with reader.snapshot() as snapshot:
                check_snapshot(snapshot, model.advance(snapshot.held.position))
    assert process.returncode == 0
    check_equal(store, model.advance())


async def test_a_disk_that_takes_no_more_stops_the_line_until_it_does(store: SqliteStore) -> None:
    process = await start("limit", store.address, 74)
    assert await process.wait() == 0
    check_equal(store, Model(small_log(74)).advance())
