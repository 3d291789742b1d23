"""Readiness and lag tell the truth: who does not get on is not ready, with the reason in words."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from jobtrail.contract.readiness import DRAINING
from jobtrail.core.partitions import partition_of
from projections.ports.read import Watermark
from projections.sqlite.files import schema
from services.api.live.buffer import Buffer
from services.api.live.stalls import Stalls
from tests.contract.api_service import PARTITIONS, Api, running

NOW = 1_000_000


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with running(tmp_path) as api:
        api.make_store()
        api.follow()
        yield api


async def beat(api: Api) -> None:
    """Let the projector say that it lives."""
    assert api.projector is not None
    await api.projector.beat(range(PARTITIONS))


async def ready(api: Api) -> tuple[int, list[str]]:
    answer = await api.send("GET", "/readyz", {})
    assert answer.json["ready"] == (answer.status == 200)
    reasons: list[str] = answer.json["reasons"]
    return answer.status, reasons


async def test_a_service_is_ready_when_all_of_it_gets_on(api: Api) -> None:
    assert await ready(api) == (
        503,
        ["partitions 0, 1, 2: no heartbeat of a projector yet."],
    )
    await beat(api)
    assert await ready(api) == (200, [])
    api.deafen()
    assert await ready(api) == (503, ["The log does not answer."])


async def test_a_projector_that_is_gone_is_not_ready(api: Api) -> None:
    await beat(api)
    for shard in range(2):
        db = schema.connect(schema.shard_path(api.settings.store_folder, shard))
        db.execute("UPDATE beats SET at=at-40000000 WHERE partition=1")
        db.close()
    status, (reason,) = await ready(api)
    assert status == 503
    assert reason.startswith("partition 1: no heartbeat of a projector for 4")
    assert await api.metric('jobtrail_projector_silent_seconds{partition="1"}') >= 40
    assert await api.metric('jobtrail_projector_silent_seconds{partition="0"}') < 30


async def test_projections_that_recover_are_not_ready(tmp_path: Path) -> None:
    async with running(tmp_path) as api:
        api.make_store(ends={1: 2})
        api.follow()
        await beat(api)
        assert await ready(api) == (503, ["partition 1: being folded again from the log."])
        assert await api.metric('jobtrail_partition_answered{partition="1"}') == 0
        assert await api.metric('jobtrail_partition_answered{partition="0"}') == 1


async def test_metrics_say_how_far_each_partition_is(api: Api) -> None:
    api.emit("j", "created")
    partition = partition_of("j", PARTITIONS)
    await api.project()
    label = f'{{partition="{partition}"}}'
    assert await api.metric(f"jobtrail_projection_position{label}") == 1
    assert await api.metric(f"jobtrail_projection_still_seconds{label}") == 0
    assert await api.metric(f"jobtrail_projection_verified_position{label}") == 0


def held(position: int, **more: Any) -> Watermark:
    beats = {0: time.time_ns() // 1000 + 10_000_000}
    return Watermark({0: position}, {0: 0}, frozenset(), **{"beats": beats, **more})


def standing(stalled_after: float) -> Stalls:
    buffer = Buffer(1 << 20)
    buffer.begin(0, 5, NOW)
    return Stalls(buffer, stalled_after)


def test_a_partition_that_stands_still_with_events_to_apply_is_stuck() -> None:
    stands = standing(stalled_after=0)
    for position in (3, 4, 4):
        stands.note(held(position))
    (reason,) = stands.reasons(held(4))
    assert reason == "partition 0: no progress for 0 s, with events to apply."


def test_a_partition_that_moves_or_is_level_is_not() -> None:
    stands = standing(stalled_after=0.5)
    for position in (3, 4):
        stands.note(held(position))
        assert stands.reasons(held(position)) == []
    stands = standing(stalled_after=0)
    stands.note(held(5))
    assert stands.still_for(0) == 0


def test_a_partition_that_was_stopped_says_why_and_once() -> None:
    stands = standing(stalled_after=0)
    stands.note(held(4))
    stopped = held(4, stopped={0: "Records of the log are missing."})
    assert stands.reasons(stopped) == ["partition 0: Records of the log are missing."]


async def test_a_process_that_drains_is_not_ready_and_answers(api: Api) -> None:
    await beat(api)
    assert await ready(api) == (200, [])
    api.service.draining.set()
    assert await ready(api) == (503, [DRAINING])
    assert (await api.ask("GET", "/jobs/summary")).status == 200
    assert (await api.send("GET", "/healthz", {})).status == 200
