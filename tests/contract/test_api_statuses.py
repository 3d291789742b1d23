"""`POST /jobs/statuses` without a wait: the states as they are at the end of the log."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.contract.api_service import PATIENT, Api, running

COMPLETED = {"id": "j", "state": "completed", "output": None}


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with running(tmp_path, timeouts=PATIENT, max_waits=6, max_waits_per_caller=3) as api:
        api.make_store()
        api.follow()
        yield api


async def test_statuses_are_a_map_in_the_order_of_the_question(api: Api) -> None:
    api.emit("a", "created")
    api.emit("b", "completed", output={"n": 1})
    await api.project()
    answer = await api.statuses("b", "x", "a", "b")
    assert list(answer.json.items()) == [
        ("b", {"id": "b", "state": "completed", "output": {"n": 1}}),
        ("a", {"id": "a", "state": "created", "output": None}),
    ]


async def test_statuses_are_those_at_the_end_of_the_log(api: Api) -> None:
    api.emit("j", "created")
    await api.project()
    api.emit("j", "active")
    api.emit("j", "completed", output="done")
    api.emit("new", "created")
    api.show()
    answer = await api.statuses("j", "new", headers=api.bearer("alice"))
    assert answer.json == {
        "j": {"id": "j", "state": "completed", "output": "done"},
        "new": {"id": "new", "state": "created", "output": None},
    }
    assert (answer.headers["Jobtrail-Position"], answer.headers["Jobtrail-Lag"]) == (api.end, "0")
    # What the projections have applied meanwhile is not applied again.
    await api.project()
    assert (await api.statuses("j", "new", headers=api.bearer("alice"))).json == answer.json


async def test_a_position_that_the_tail_has_needs_no_projection(api: Api) -> None:
    position = api.emit("j", "created")
    api.show()
    headers = {**api.bearer("alice"), "Jobtrail-Position": position}
    assert (await api.statuses("j", headers=headers)).json["j"]["state"] == "created"
