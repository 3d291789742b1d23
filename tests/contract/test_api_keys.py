"""API keys at a running service: made, used, over, revoked, and bound to sources."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from jobtrail.access.api_keys import add_key, make_key, revoke_key
from jobtrail.access.tokens import READ_ALL, WRITE
from services.api.limits.limits import Timeouts
from tests.contract.api_service import PROBLEM, Answer, Api, running

STRUCTURED = "application/cloudevents+json"
BATCHED = "application/cloudevents-batch+json"


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with running(tmp_path, timeouts=Timeouts(keys_check=0)) as api:
        api.make_store()
        api.emit("hers", "created", viewers=["group:ops"])
        api.emit("foreign", "created", owner="eve")
        await api.project()
        api.follow()
        yield api


def new_key(api: Api, user: str = "alice", lasts: timedelta | None = None, **grant: Any) -> str:
    """Add a key while the service runs."""
    now = datetime.now(UTC)
    end = None if lasts is None else now + lasts
    key, text = make_key(user, at=now, expires_at=end, **grant)
    add_key(api.settings.keys_path, key)
    return text


async def search(api: Api, key: str) -> Answer:
    return await api.send("GET", "/jobs/search", {"Authorization": f"Bearer {key}"})


async def seen(api: Api, key: str) -> list[str]:
    return sorted(job["id"] for job in (await search(api, key)).json["jobs"])


async def test_a_key_lets_its_bearer_in_as_its_user(api: Api) -> None:
    assert await seen(api, new_key(api)) == ["hers"]
    assert await seen(api, new_key(api, "bob")) == []
    assert await seen(api, new_key(api, "bob", groups=("ops",))) == ["hers"]
    key = new_key(api, "root", permissions=(READ_ALL,), lasts=timedelta(hours=1))
    assert await seen(api, key) == ["foreign", "hers"]


async def test_a_bad_key_is_refused_like_everybody(api: Api) -> None:
    good, revoked = new_key(api), new_key(api)
    assert (await search(api, revoked)).status == 200
    revoke_key(api.settings.keys_path, revoked.split(".")[0].removeprefix("jobtrail_"))
    over = new_key(api, lasts=timedelta(seconds=-1))
    nobody = await api.send("GET", "/jobs/search", {})
    for key in (revoked, over, good[:-1], good + "A", "jobtrail_", "jobtrail_x.y"):
        answer = await search(api, key)
        assert (answer.status, answer.body) == (401, nobody.body)
        assert answer.headers["WWW-Authenticate"] == nobody.headers["WWW-Authenticate"]
    assert (await search(api, good)).status == 200
    # Neither good nor bad ones take memory.
    assert len(api.service.gate) == 0


def event(number: int, source: str) -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "id": f"e-{number}",
        "source": source,
        "type": "job.active",
        "subject": "hers",
        "time": "2026-11-23T13:00:00Z",
    }


async def post(api: Api, key: str, form: str, content: Any, **headers: str) -> Answer:
    headers = {"Authorization": f"Bearer {key}", "Content-Type": form, **headers}
    return await api.send("POST", "/events", headers, json.dumps(content).encode())


async def test_a_key_of_a_source_writes_no_other(api: Api) -> None:
    key = new_key(api, permissions=(WRITE,), sources=("//a", "//b"))
    binary = {f"ce-{name}": text for name, text in event(1, "//c").items()}
    for answer in (
        await post(api, key, STRUCTURED, event(1, "//c")),
        await post(api, key, "application/json", {}, **binary),
        await post(api, key, BATCHED, [event(1, "//c"), event(2, "//A")]),
    ):
        assert (answer.status, answer.headers["Content-Type"]) == (403, PROBLEM)
        assert answer.json["type"] == "urn:jobtrail:problem:foreign-source"
        assert all("//a" not in error["detail"] for error in answer.errors)
    assert [error["pointer"] for error in answer.errors] == ["/0", "/1"]
    # What is wrong in more than one way is first of all wrong.
    mixed = await post(api, key, BATCHED, [event(1, "//c"), {}])
    assert (mixed.status, len(mixed.errors)) == (400, 2)


async def test_a_key_without_the_permission_writes_nothing(api: Api) -> None:
    answer = await post(api, new_key(api), STRUCTURED, event(1, "//a"))
    assert (answer.status, answer.json["type"]) == (403, "urn:jobtrail:problem:forbidden")
