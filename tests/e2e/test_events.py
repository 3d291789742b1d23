"""Events over HTTP and back: every mode of CloudEvents, read your writes, a job's history."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest

from jobtrail.access.api_keys import add_key, make_key, revoke_key
from jobtrail.access.tokens import local_secret, make_token
from jobtrail.core.position import holds, parse_position
from jobtrail.settings import Settings
from tests.conftest import MakeLog
from tests.processes import Process, api, projector

BATCH = "application/cloudevents-batch+json"
STRUCTURED = "application/cloudevents+json"


class Asker:
    """Asks one API process, as whoever a test says."""

    def __init__(self, url: str, settings: Settings, session: aiohttp.ClientSession) -> None:
        self._url = url
        self._secret = local_secret(settings.data_dir)
        self.keys_file = settings.keys_path
        self._session = session

    async def ask(
        self,
        method: str,
        path: str,
        *,
        user: str = "alice",
        permissions: tuple[str, ...] = (),
        headers: dict[str, str] | None = None,
        data: bytes | None = None,
    ) -> tuple[int, Any, Any]:
        token = make_token(self._secret, user, (), permissions)
        async with self._session.request(
            method,
            self._url + path,
            headers={"Authorization": f"Bearer {token}", **(headers or {})},
            data=data,
        ) as answer:
            return answer.status, answer.headers, await answer.json(content_type=None)

    async def post(self, data: bytes, form: str, **headers: str) -> tuple[int, Any, Any]:
        return await self.ask(
            "POST",
            "/events",
            permissions=("jobs:write",),
            headers={"Content-Type": form, **headers},
            data=data,
        )


@pytest.fixture
async def asker(make_log: MakeLog, running: list[Process]) -> AsyncIterator[Asker]:
    settings = await make_log()
    folding, answering = projector(settings), api(settings)
    running += [folding, answering]
    await folding.start()
    url = await answering.start()
    async with aiohttp.ClientSession() as session:
        yield Asker(url, settings, session)


def event(number: int, kind: str, job_id: str, **data: Any) -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "id": f"{job_id}-{number}",
        "source": "//tests",
        "type": f"job.{kind}",
        "subject": job_id,
        "time": f"2026-11-23T13:00:{number:02}Z",
        "data": data,
    }


def created(job_id: str, number: int = 0) -> dict[str, Any]:
    return event(number, "created", job_id, jobType="bulkPolicy", owner="alice")


def packed(content: Any) -> bytes:
    return json.dumps(content).encode()


async def test_every_mode_writes_and_can_be_read_at_its_position(asker: Asker) -> None:
    status, headers, answer = await asker.post(packed(created("a")), STRUCTURED)
    assert (status, answer["id"]) == (200, "a-0")
    assert headers["Jobtrail-Position"] == answer["position"]

    attributes = {k: v for k, v in event(1, "active", "a").items() if k != "data"}
    binary = {f"ce-{name}": str(value) for name, value in attributes.items()}
    status, _, _ = await asker.post(b'{"worker":"w"}', "application/json", **binary)
    assert status == 200

    batch = [event(2, "completed", "a", output={"rows": 1}), created("b")]
    status, headers, answer = await asker.post(packed(batch), BATCH)
    assert (status, [verdict["accepted"] for verdict in answer["events"]]) == (200, [True, True])

    at = {"Jobtrail-Position": headers["Jobtrail-Position"]}
    status, _, job = await asker.ask("GET", "/jobs/a", headers=at)
    assert (status, job["state"], job["output"], job["startedAt"]) == (
        200,
        "completed",
        {"rows": 1},
        "2026-11-23T13:00:01.000Z",
    )
    status, _, found = await asker.ask("GET", "/jobs/search", headers=at)
    assert {job["id"] for job in found["jobs"]} == {"a", "b"}


async def test_any_id_and_every_way_to_write_a_header_come_through(asker: Asker) -> None:
    """Ids that no path can say, and forms of JSON and of headers that the binding allows."""
    for job_id in ("search", "..", "{x}", 'a "b" c'):
        attributes = {k: v for k, v in created(job_id).items() if k != "data"}
        headers = {f"ce-{name}": str(value) for name, value in attributes.items()}
        escaped = job_id.replace('"', '\\"')
        headers["ce-subject"] = f'"{escaped}"'
        data = packed({"jobType": "bulkPolicy", "owner": "alice"})
        status, _, written = await asker.post(data, "application/vnd.x+json; v=1", **headers)
        assert status == 200
        at = {"Jobtrail-Position": written["position"]}
        asked = quote(job_id, safe="")
        status, _, job = await asker.ask("GET", f"/job?id={asked}", headers=at)
        assert (status, job["id"], job["jobType"]) == (200, job_id, "bulkPolicy")
        status, _, page = await asker.ask("GET", f"/job/history?id={asked}", headers=at)
        assert (status, page["events"][0]["event"]["datacontenttype"]) == (
            200,
            "application/vnd.x+json; v=1",
        )


async def test_in_a_batch_every_event_has_its_own_verdict(asker: Asker) -> None:
    bad = {**created("c"), "specversion": "0.3"}
    status, _, answer = await asker.post(packed([created("d"), bad, "no event"]), BATCH)
    assert status == 207
    assert [verdict["accepted"] for verdict in answer["events"]] == [True, False, False]
    assert [verdict["reason"] for verdict in answer["events"][1:]] == ["invalid", "invalid"]

    status, _, answer = await asker.post(packed([bad, bad]), BATCH)
    assert (status, [fault["pointer"] for fault in answer["errors"]]) == (400, ["/0", "/1"])
    for body in (b"[]", b"{}", b"[", b"\xff"):
        status, _, answer = await asker.post(body, BATCH)
        assert (status, answer["type"]) == (400, "urn:jobtrail:problem:invalid-request")


async def test_a_key_of_a_source_writes_that_source_alone(asker: Asker) -> None:
    now = datetime.now(UTC)
    grant = {"permissions": ("jobs:write",), "sources": ("//tests",)}
    key, text = make_key("alice", at=now, **grant)
    bearer = {"Authorization": f"Bearer {text}", "Content-Type": BATCH}
    foreign = {**created("k", 1), "source": "//elsewhere"}
    batch = packed([created("k"), foreign, "no event"])
    # The service that runs takes a new key up, and a revoked one down, by itself.
    add_key(asker.keys_file, key)
    async with asyncio.timeout(10):
        while (told := await asker.ask("POST", "/events", headers=bearer, data=batch))[0] == 401:
            pass
    status, headers, answer = told
    assert status == 207
    verdicts = [(one["accepted"], one.get("reason")) for one in answer["events"]]
    assert verdicts == [(True, None), (False, "foreign-source"), (False, "invalid")]
    at = {"Jobtrail-Position": headers["Jobtrail-Position"]}
    _, _, history = await asker.ask("GET", "/jobs/k/history", headers=at)
    assert [entry["event"]["id"] for entry in history["events"]] == ["k-0"]
    revoke_key(asker.keys_file, key.id)
    async with asyncio.timeout(10):
        while (await asker.ask("POST", "/events", headers=bearer, data=b"[]"))[0] != 401:
            pass


async def test_what_is_no_event_is_refused_whole(asker: Asker) -> None:
    assert (await asker.post(b"{", STRUCTURED))[0] == 400
    assert (await asker.post(b"{}", "application/json"))[0] == 415
    assert (await asker.post(b"{}", "text/plain"))[0] == 415
    binary = {"ce-specversion": "1.0", "ce-id": "x", "ce-source": "s", "ce-type": "job.active"}
    assert (await asker.post(b"", "application/json", **binary))[0] == 400
    assert (await asker.post(b"{", "application/json", **binary, **{"ce-subject": "j"}))[0] == 400
    form = {"Content-Type": STRUCTURED}
    status, _, answer = await asker.ask("POST", "/events", headers=form, data=packed(created("e")))
    assert (status, answer["detail"]) == (403, "It takes the permission jobs:write.")


async def test_every_write_is_read_back_at_its_position(asker: Asker) -> None:
    for number in range(200):
        job_id = f"rw-{number}"
        status, headers, _ = await asker.post(packed(created(job_id)), STRUCTURED)
        assert status == 200
        at = {"Jobtrail-Position": headers["Jobtrail-Position"]}
        status, _, found = await asker.ask("GET", "/jobs/search?size=1000", headers=at)
        assert status == 200
        assert job_id in {job["id"] for job in found["jobs"]}


async def test_the_last_position_holds_all_that_was_written(asker: Asker) -> None:
    """Whatever partitions it went to: a client that keeps one position reads all of its writes."""
    position = ""
    for number in range(40):
        headers = {"Jobtrail-Position": position} if position else {}
        batch = [created(f"kept-{number}-{n}") for n in (0, 1)]
        if number % 2:
            data, form = packed(batch), BATCH
        else:
            data, form = packed(batch[0]), STRUCTURED
        status, answered, body = await asker.post(data, form, **headers)
        assert status == 200, body
        reached = parse_position(answered["Jobtrail-Position"])
        # What was written is told by itself, too.
        assert holds(reached, parse_position(body["position"]))
        if position:
            assert holds(reached, parse_position(position))
        position = answered["Jobtrail-Position"]
    assert len(parse_position(position)) == 8
    status, _, found = await asker.ask(
        "GET", "/jobs/search?size=1000", headers={"Jobtrail-Position": position}
    )
    assert (status, len(found["jobs"])) == (200, 60)


async def test_a_write_with_what_is_no_position_is_refused(asker: Asker) -> None:
    status, _, problem = await asker.post(
        packed(created("unwritten")), STRUCTURED, **{"Jobtrail-Position": "3;7"}
    )
    assert (status, problem["errors"][0]["parameter"]) == (400, "Jobtrail-Position")
    assert (await asker.ask("GET", "/jobs/unwritten"))[0] == 404


async def test_history_has_every_event_with_its_body_and_verdict(asker: Asker) -> None:
    told = [
        created("h"),
        event(1, "active", "h", worker="w"),
        event(1, "active", "h", worker="w"),
        event(3, "created", "h", jobType="other", owner="mallory"),
        event(4, "completed", "h", output=[1, 2.50]),
    ]
    _, headers, _ = await asker.post(packed(told), BATCH)
    at = {"Jobtrail-Position": headers["Jobtrail-Position"]}
    events: list[Any] = []
    following = "/jobs/h/history?size=2"
    while following:
        status, _, answer = await asker.ask("GET", following, headers=at)
        assert (status, answer["id"]) == (200, "h")
        events += answer["events"]
        following = answer["next"]
    assert [entry["event"] for entry in events] == told
    assert [(entry["verdict"], entry["state"]) for entry in events] == [
        ("applied", "created"),
        ("applied", "active"),
        ("duplicate", "active"),
        ("not-allowed", "active"),
        ("applied", "completed"),
    ]
    offsets = [entry["offset"] for entry in events]
    assert offsets == sorted(offsets)


async def test_a_foreign_job_and_an_unknown_one_look_the_same(asker: Asker) -> None:
    _, headers, _ = await asker.post(packed(created("mine")), STRUCTURED)
    at = {"Jobtrail-Position": headers["Jobtrail-Position"]}
    for tail in ("", "/history"):
        foreign = await asker.ask("GET", f"/jobs/mine{tail}", user="bob", headers=at)
        unknown = await asker.ask("GET", f"/jobs/none{tail}", user="bob", headers=at)
        assert foreign[0] == unknown[0] == 404
        assert foreign[2] == unknown[2]
