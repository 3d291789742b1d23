"""A projector's health: reasons in words, figures, and a server that nobody can fill up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final, NamedTuple

import aiohttp
import pytest

from jobtrail.contract.readiness import DRAINING, LOG_SILENT
from jobtrail.core.errors import FencedError, StoreError
from projections.ports.write import Beat, Checkpoint
from projections.projector.health import Health
from projections.projector.health_server import (
    CONNECTION_SECONDS,
    MOST_CONNECTIONS,
    serving_health,
)
from projections.projector.vitals import MeteredWriter, Progress, Vitals
from tests.contract.sqlite.test_unwritable import heavy_log
from tests.contract.store_feeding import batch_of
from tests.contract.stores import SqliteStore
from tests.processes import free_port

#: Seconds: none of the tests takes as long.
LONG: Final = 600.0


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def at(offset: int) -> Checkpoint:
    return Checkpoint(offset, None, 0)


def well() -> Vitals:
    """Return what is known of a projector that does its work."""
    vitals = Vitals(LONG)
    vitals.log_answers = True
    vitals.assigned = lambda: {0, 1}
    vitals.beaten_at = asyncio.get_running_loop().time()
    return vitals


# --- whether it gets on


def test_a_partition_stays_only_with_something_to_apply_and_while_it_is_counted() -> None:
    clock = Clock()
    progress = Progress(10, clock)
    ends = {0: 5, 1: 5, 2: 5, 3: 9}
    for now, moving in ((0, 1), (6, 2), (12, 3)):
        clock.now = now
        checkpoints = {0: at(3), 1: at(5), 2: at(3), 3: at(moving)}
        progress.note(checkpoints, ends, {0, 1, 3})
    assert progress.still_for() == {0: 12}
    assert progress.stuck() == (
        "partition 0 stays at offset 3, the log ends at 5, nothing was applied for 12 s"
    )
    progress.forget()
    assert progress.stuck() is None
    progress.note({0: at(3)}, ends, {0})
    assert progress.still_for() == {}


async def test_each_reason_is_said_in_words_and_none_where_all_is_well() -> None:
    vitals = well()
    health = Health(vitals, LONG)
    assert health.reasons() == []
    assert health.readiness().ready
    vitals.stopped = lambda: {1: "Records of the log are missing."}
    assert health.reasons() == ["partition 1: Records of the log are missing."]
    vitals.stopped, vitals.store_fault = dict, "The store can't be written."
    assert health.reasons() == ["The store can't be written."]
    vitals.store_fault, vitals.beaten_at = "", None
    assert health.reasons() == ["partitions 0, 1: no heartbeat of a projector yet."]
    vitals.assigned = set
    assert health.reasons() == ["No partition is assigned to this projector."]
    vitals.log_answers = False
    vitals.draining.set()
    assert health.reasons()[:2] == [DRAINING, LOG_SILENT]
    assert not health.readiness().ready


async def test_silence_and_a_stop_count_when_they_are_too_long() -> None:
    vitals = well()
    vitals.beaten_at = asyncio.get_running_loop().time() - 40
    assert Health(vitals, 60).reasons() == []
    (reason,) = Health(vitals, 30).reasons()
    assert reason == "partitions 0, 1: no heartbeat of a projector for 40 s."
    vitals, clock = well(), Clock()
    vitals.progress = Progress(LONG, clock)
    for clock.now in (0, 40):
        vitals.progress.note({0: at(3), 1: at(5)}, {0: 5, 1: 5}, {0, 1})
    assert Health(vitals, 60).reasons() == []
    assert Health(vitals, 30).reasons() == [
        "partition 0: no progress for 40 s, with events to apply."
    ]
    assert Health(vitals, 60).lags() == {0: 2, 1: 0}


def test_what_is_written_is_counted_and_a_store_that_can_not_be_written_is_named(
    tmp_path: Path,
) -> None:
    store = SqliteStore(tmp_path / "store", shards=2)
    store.create()
    vitals = Vitals(LONG)
    writer = MeteredWriter(store.folder, vitals)
    log = heavy_log()
    writer.apply([batch_of(writer, 5, log.slice(5, 0, 20))])
    assert sum(vitals.tally) == 20
    assert vitals.progress.next_offsets == {5: 20}
    assert vitals.applied_at > 0
    late = batch_of(writer, 5, log.slice(5, 20, 25))
    writer.apply([late])
    with pytest.raises(FencedError):
        writer.apply([late])
    assert vitals.store_fault == ""
    rest = batch_of(writer, 5, log.slice(5, 25, len(log)))
    with store.full_disk(writer), pytest.raises(StoreError) as caught:
        writer.apply([rest])
    assert vitals.store_fault == caught.value.what
    assert sum(vitals.tally) == 25
    writer.beat({5: Beat(0, "")})
    assert vitals.store_fault == ""
    assert vitals.beaten_at is not None
    writer.close()


# --- the server


class Served(NamedTuple):
    """A health endpoint that answers."""

    vitals: Vitals
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    vitals, port = well(), free_port()
    async with serving_health(Health(vitals, LONG), "127.0.0.1", port):
        yield Served(vitals, port)


async def test_the_server_answers_three_questions_and_nothing_else(served: Served) -> None:
    async with aiohttp.ClientSession(served.url) as session:
        for path, status in (
            ("/healthz", 200), ("/readyz", 200), ("/metrics", 200), ("/", 404), ("/jobs", 404),
        ):  # fmt: skip
            async with session.get(path) as answer:
                assert (answer.status, answer.headers["Connection"]) == (status, "close")
            async with session.head(path) as answer:
                assert (answer.status, await answer.read()) == (status, b"")
        async with session.post("/readyz", data=b"x" * 100_000) as answer:
            assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD")
        served.vitals.draining.set()
        async with session.get("/readyz") as answer:
            assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
            assert await answer.json() == {
                "ready": False, "reasons": [DRAINING], "partitions": [0, 1], "lagRecords": 0,
            }  # fmt: skip


async def test_a_head_that_is_too_long_is_refused(served: Served) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 20_000 + b"\r\n\r\n")
    assert (await reader.readline()).split()[1] == b"400"
    writer.close()


async def test_connections_are_bounded_in_number_and_time(served: Served) -> None:
    """Nobody says anything: those beyond the bound are cut at once, the others after a while."""
    some = [
        await asyncio.open_connection("127.0.0.1", served.port) for _ in range(MOST_CONNECTIONS)
    ]
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    async with asyncio.timeout(CONNECTION_SECONDS / 2):
        assert await reader.read() == b""
    writer.close()
    async with asyncio.timeout(2 * CONNECTION_SECONDS):
        for reader, writer in some:
            assert await reader.read() == b""
            writer.close()
    async with aiohttp.ClientSession(served.url) as session, session.get("/healthz") as answer:
        assert answer.status == 200
