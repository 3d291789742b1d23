"""Keys that are bound to sources: they touch no job of others, whatever they send."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from jobtrail.access.api_keys import add_key, make_key
from jobtrail.access.tokens import WRITE
from jobtrail.core.events import MAX_EVENT_BYTES
from jobtrail.core.trail import read_trail
from projections.sqlite.read.reader import SqliteReader
from services.api.limits.limits import Timeouts
from tests.contract.api_service import Answer, Api, running

STRUCTURED = "application/cloudevents+json"
BATCHED = "application/cloudevents-batch+json"
MALLORY = "//mallory/app"


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with running(tmp_path, timeouts=Timeouts(keys_check=0), writable=True) as api:
        api.make_store()
        api.emit("hers", "created", writers=["//alice/worker"])
        api.emit("begun", "completed", output="secret")
        await api.project()
        api.follow()
        yield api


def new_key(api: Api, user: str, *sources: str) -> str:
    key, text = make_key(user, at=datetime.now(UTC), permissions=(WRITE,), sources=sources)
    add_key(api.settings.keys_path, key)
    return text


def event(job: str, kind: str, source: str, **data: Any) -> dict[str, Any]:
    found = {"specversion": "1.0", "id": f"{job} {kind} {source}", "source": source}
    return found | {"type": f"job.{kind}", "subject": job, "data": data}


async def post(api: Api, key: str, form: str, content: Any, **headers: str) -> Answer:
    headers = {"Authorization": f"Bearer {key}", "Content-Type": form, **headers}
    answer = await api.send("POST", "/events", headers, json.dumps(content).encode())
    await api.project()
    api.show()
    return answer


async def state_of(api: Api, job: str) -> tuple[str, str | None]:
    found = (await api.get(f"/jobs/{job}")).json
    return found["state"], found["owner"]


def verdicts_of(api: Api, job: str) -> list[str]:
    """Return the verdicts as its history has them."""
    reader = SqliteReader(api.settings.store_folder)
    with reader.snapshot() as snapshot:
        trail = snapshot.watched([job])[job].trail
    reader.close()
    return [entry.verdict for entry in read_trail(trail)]


async def test_nobody_takes_over_a_job_with_a_key_of_other_sources(api: Api) -> None:
    key = new_key(api, "mallory", MALLORY)
    mine = {"jobType": "x", "owner": "mallory", "viewers": ["user:mallory"]}
    forged = {"jobtrailsources": "//test", "JOBTRAILSOURCES": None}
    for job in ("hers", "begun"):
        before = await state_of(api, job)
        for content in (
            event(job, "cancelled", MALLORY),
            event(job, "created", MALLORY, **mine),
            event(job, "created", MALLORY, **mine, attempt=3, writers=[MALLORY]) | forged,
        ):
            assert (await post(api, key, STRUCTURED, content)).status == 200
            assert (await post(api, key, BATCHED, [content | {"id": "batched"}])).status == 200
        head = event(job, "created", MALLORY, **mine) | {"id": "binary"}
        binary = {f"ce-{name}": str(text) for name, text in head.items() if name != "data"}
        binary["ce-jobtrailsources"] = "//test"
        await post(api, key, "application/json", head["data"], **binary)
        assert await state_of(api, job) == before
        assert set(verdicts_of(api, job)[1:]) <= {"foreign", "duplicate"}
        answer = await api.send("GET", f"/jobs/{job}", {"Authorization": f"Bearer {key}"})
        assert answer.status == 404
    assert await api.metric('jobtrail_projected_records_total{verdict="foreign"}') >= 6


async def test_writers_of_a_job_and_its_own_source_work_on_it(api: Api) -> None:
    worker, own = new_key(api, "w", "//alice/worker"), new_key(api, "o", "//test", "//more")
    await post(api, worker, STRUCTURED, event("hers", "active", "//alice/worker"))
    assert await state_of(api, "hers") == ("active", "alice")
    await post(api, own, STRUCTURED, event("hers", "cancelled", "//more"))
    assert await state_of(api, "hers") == ("cancelled", "alice")
    anew = {"jobType": "x", "owner": "bob", "writers": ["//bob/worker"]}
    await post(api, worker, STRUCTURED, event("hers", "created", "//alice/worker", **anew))
    assert await state_of(api, "hers") == ("cancelled", "alice")
    await post(api, own, STRUCTURED, event("hers", "created", "//test", **anew))
    assert await state_of(api, "hers") == ("created", "bob")
    # Who may work on it is kept with the job, also where nothing else of it has changed.
    await post(api, worker, STRUCTURED, event("hers", "failed", "//alice/worker"))
    assert await state_of(api, "hers") == ("created", "bob")


async def test_writers_that_alone_have_changed_are_kept(api: Api) -> None:
    own, late = new_key(api, "o", "//test"), new_key(api, "w", "//late")
    same = {"jobType": "bulkPolicy", "owner": "alice", "writers": ["//late"]}
    await post(api, own, STRUCTURED, event("hers", "cancelled", "//test"))
    await post(api, own, STRUCTURED, event("hers", "created", "//test", **same))
    # The projector that goes on knows them from the store alone.
    assert api.projector is not None
    api.projector.close()
    api.make_store()
    await post(api, late, STRUCTURED, event("hers", "active", "//late"))
    assert await state_of(api, "hers") == ("active", "alice")


async def test_an_event_that_is_too_large_with_what_binds_its_sender_is_refused(api: Api) -> None:
    key = new_key(api, "mallory", MALLORY)
    content = event("new", "active", MALLORY) | {"more": ""}
    content["more"] = "x" * (MAX_EVENT_BYTES - len(json.dumps(content)) - 5)
    answer = await post(api, key, STRUCTURED, content)
    assert (answer.status, answer.json["status"]) == (400, 400)
    assert "too large" in answer.errors[0]["detail"]
    answer = await post(api, key, BATCHED, [content, event("new", "active", MALLORY)])
    assert answer.status == 207
    assert [one["reason"] for one in answer.json["events"]] == ["too-large", None]


async def test_a_caller_who_is_bound_to_nothing_is_trusted(api: Api) -> None:
    key = new_key(api, "root")
    await post(api, key, STRUCTURED, event("hers", "cancelled", "//anything"))
    assert await state_of(api, "hers") == ("cancelled", "alice")
