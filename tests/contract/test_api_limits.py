"""Every limit of the service: it holds, it says so, and its setting moves it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from jobtrail.access.api_keys import add_key, make_key, revoke_key
from jobtrail.access.tokens import make_token
from services.api.http.requests import MAX_SIZE
from services.api.limits.limits import Rate
from services.api.problems.problems import Problem
from tests.contract.api_service import PATIENT, PROBLEM, Answer, Api, held, running, wait_for


@contextlib.asynccontextmanager
async def service(folder: Path, **options: Any) -> AsyncIterator[Api]:
    async with running(folder, **options) as api:
        api.make_store()
        for job in ("a", "b", "c"):
            api.emit(job, "created", bulkId="all")
        api.emit("a", "active")
        await api.project()
        api.follow()
        yield api


def only_fault(answer: Answer) -> tuple[str, str]:
    """Return where the one fault is, and what it is."""
    assert (answer.status, answer.headers["Content-Type"]) == (400, PROBLEM)
    (error,) = answer.errors
    return error.get("parameter", error.get("pointer")), error["detail"]


# --- sizes


async def test_ids_of_a_call(tmp_path: Path) -> None:
    async with service(tmp_path) as api:
        ids = [f"job-{number}" for number in range(MAX_SIZE + 1)]
        assert (await api.statuses(*ids[:MAX_SIZE])).status == 200
        place, detail = only_fault(await api.statuses(*ids))
        assert place == "/jobIds"
        assert f"at most {MAX_SIZE}" in detail


async def test_size_of_a_page(tmp_path: Path) -> None:
    async with service(tmp_path) as api:
        path, found = "/jobs/search?size=1", []
        while path:
            answer = await api.get(path)
            found.append(len(answer.json["jobs"]))
            path = answer.json["next"]
        assert found == [1, 1, 1]
        for path in ("/jobs/search", "/jobs/a/history"):
            place, detail = only_fault(await api.get(f"{path}?size={MAX_SIZE + 1}"))
            assert place == "size"
            assert f"equal to {MAX_SIZE}" in detail


async def test_what_a_request_consists_of(tmp_path: Path) -> None:
    async with service(tmp_path) as api:
        names = [f"type-{n}" for n in range(101)]
        assert (await api.get(f"/jobs/search?jobType={','.join(names[:100])}")).status == 200
        for query in (f"jobType={','.join(names)}", "&".join(f"jobType={n}" for n in names)):
            place, detail = only_fault(await api.get(f"/jobs/search?{query}"))
            assert place == "jobType"
            assert "at most 100" in detail
        # Also of who says nothing of who they are.
        many = "&".join(f"p{n}=" for n in range(201))
        for path in ("/jobs/search", "/healthz", "/readyz", "/openapi.json", "/docs"):
            assert "at most, not 201" in only_fault(await api.get(f"{path}?{many}"))[1]
        body = json.dumps({f"f{n}": 0 for n in range(51)}).encode()
        assert (
            "at most, not 51" in only_fault(await api.ask("POST", "/jobs/statuses", body=body))[1]
        )


async def test_faults_that_are_named(tmp_path: Path) -> None:
    async with service(tmp_path) as api:
        answer = await api.get("/jobs/search?" + "&".join(f"p{n}=" for n in range(150)))
        assert (answer.status, len(answer.errors)) == (400, 100)
        detail = "In this request 150 things are wrong; see `errors` for the first 100."
        assert answer.json["detail"] == detail


async def test_bytes_of_a_body(tmp_path: Path) -> None:
    async with service(tmp_path, max_body_bytes=1024) as api:
        body = json.dumps({"jobIds": ["a"]}).encode()
        assert (await api.ask("POST", "/jobs/statuses", body=body.ljust(1024))).status == 200
        answer = await api.ask("POST", "/jobs/statuses", body=body.ljust(1025))
        assert (answer.status, answer.headers["Content-Type"]) == (413, PROBLEM)
        assert "1024 bytes" in answer.json["detail"]


# --- time


async def test_a_head_that_does_not_come_is_not_waited_for(tmp_path: Path) -> None:
    async with service(tmp_path, idle_timeout=0.1) as api:
        host, port = api.url.removeprefix("http://").split(":")
        for begun in (b"", b"GET /healthz HTTP/1.1\r\nHost: x\r\n"):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(begun)
            async with asyncio.timeout(30):
                assert await reader.read() == b""
            writer.close()


# --- connections


async def test_connections_of_a_process(tmp_path: Path) -> None:
    async with service(tmp_path, max_connections=3) as api:
        host, port = api.url.removeprefix("http://").split(":")
        request = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
        taken = []
        for _ in range(3):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(request)
            assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
            taken.append(writer)
        for _ in range(5):
            head, body = await api.raw(request)
            assert head.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
            assert b"Retry-After: 1\r\n" in head
            assert b"Connection: close\r\n" in head
            assert json.loads(body)["type"] == "urn:jobtrail:problem:too-many-connections"
        # One that says nothing is not kept.
        reader, writer = await asyncio.open_connection(host, int(port))
        async with asyncio.timeout(30):
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
        writer.close()
        taken.pop().close()
        async with asyncio.timeout(30):
            while not (await api.raw(request))[0].startswith(b"HTTP/1.1 200 "):
                pass
        for writer in taken:
            writer.close()


@pytest.mark.parametrize(("hard", "room"), [(9_000, 5_000), (4_000, 2_800), (1_000, 500)])
def test_connections_are_within_the_open_files(hard: int, room: int) -> None:
    code = (
        "import resource as r; from services.api.__main__ import connections_within;"
        f"r.setrlimit(r.RLIMIT_NOFILE, (min({hard}, 1024), {hard}));"
        "print(connections_within(5_000), r.getrlimit(r.RLIMIT_NOFILE)[0])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == [str(room), str(min(hard, 6_200))]


# --- requests


async def test_requests_of_a_caller(tmp_path: Path) -> None:
    async with service(tmp_path, max_request_rate=0.1, max_request_burst=3) as api:
        alice, again = api.bearer("alice"), api.bearer("alice", "ops")
        for headers in (alice, again, alice):
            assert (await api.get("/jobs/summary", headers)).status == 200
        # However they prove who they are, and whatever they ask for.
        for path in ("/jobs/summary", "/jobs/search?size=x", "/jobs/a"):
            answer = await api.get(path, again)
            assert (answer.status, answer.headers["Content-Type"]) == (429, PROBLEM)
            assert answer.json["type"] == "urn:jobtrail:problem:too-many-requests"
            assert 1 <= int(answer.headers["Retry-After"]) <= 10
        # Others are not concerned, nor is who looks after the service.
        assert (await api.get("/jobs/summary", api.bearer("bob"))).status == 200
        for path in ("/healthz", "/readyz", "/metrics"):
            assert (await api.send("GET", path, alice)).status in (200, 503)


class Clock:
    """Goes when it is told to."""

    def __init__(self) -> None:
        self.now = 1e6

    def __call__(self) -> float:
        return self.now


def taken(rate: Rate, user: str = "alice") -> int:
    """Return how many requests there is room for."""
    for count in range(10_000):
        try:
            rate.take(user)
        except Problem:
            return count
    raise AssertionError("there is no bound")


@pytest.mark.parametrize(("per_second", "burst"), [(1000.0, 2000), (10.0, 1), (0.1, 5), (3.0, 7)])
def test_a_bucket_fills_as_fast_as_the_rate_says(per_second: float, burst: int) -> None:
    clock = Clock()
    rate = Rate(per_second, burst, clock)
    assert taken(rate) == burst
    for filled in (1, burst // 2, burst, 2 * burst, 5 * burst):
        clock.now += filled / per_second
        assert taken(rate) == min(filled, burst)
    with pytest.raises(Problem) as refused:
        rate.take("alice")
    clock.now += int(refused.value.headers["Retry-After"])
    rate.take("alice")


def test_nobody_gains_by_being_forgotten() -> None:
    clock = Clock()
    rate = Rate(10, 10, clock)
    assert taken(rate) == 10
    for _ in range(40):
        clock.now += 0.1
        # Others keep the buckets moving; the one that is looked at is always empty.
        rate.take(f"user-{clock.now}")
        assert taken(rate) == 1


def test_users_who_are_gone_take_no_memory() -> None:
    clock = Clock()
    rate = Rate(1000, 2000, clock)
    for number in range(50_000):
        clock.now += 0.01
        rate.take(f"user-{number}")
    assert len(rate) <= 2 * 200 + 2


# --- a wait ends with what proves who holds it


async def ask(api: Api, way: str, proof: str) -> Answer:
    headers = {"Authorization": f"Bearer {proof}"}
    async with asyncio.timeout(30):
        if way == "statuses":
            return await api.statuses("b", headers=headers, wait=-1)
        return await api.get("/jobs?bulkId=all&wait=86400", headers)


@pytest.mark.parametrize("way", ["statuses", "bulk"])
@pytest.mark.parametrize("left", [-2, 1])
async def test_a_wait_ends_with_its_token(tmp_path: Path, way: str, left: int) -> None:
    async with service(tmp_path, timeouts=PATIENT) as api:
        # One that is over by no more than clocks may differ is good still, but not for waiting.
        token = make_token(api.secret, "alice", lifetime=timedelta(seconds=left))
        answer = await ask(api, way, token)
        assert (answer.status, answer.json["b"]["state"]) == (200, "created")
        assert await api.metric("jobtrail_waits_held") == 0


async def test_a_wait_ends_with_its_key(tmp_path: Path) -> None:
    async with service(tmp_path, timeouts=replace(PATIENT, keys_check=0)) as api:
        now = datetime.now(UTC)
        key, text = make_key("alice", at=now, expires_at=now + timedelta(seconds=1))
        add_key(api.settings.keys_path, key)
        answer = await ask(api, "statuses", text)
        assert (answer.status, answer.json["b"]["state"]) == (200, "created")


@pytest.mark.parametrize("way", ["statuses", "bulk"])
async def test_a_wait_ends_when_its_key_is_revoked(tmp_path: Path, way: str) -> None:
    async with service(tmp_path, timeouts=replace(PATIENT, keys_check=0, sign_of_life=0.02)) as api:
        key, text = make_key("alice", at=datetime.now(UTC))
        add_key(api.settings.keys_path, key)
        waiting = asyncio.create_task(ask(api, way, text))
        await held(api, 1)
        other = await wait_for(api, "b")
        revoke_key(api.settings.keys_path, key.id)
        assert (await waiting).json["b"]["state"] == "created"
        assert not other.done()
        other.cancel()


async def test_a_wait_whose_proof_outlasts_it_ends_by_itself(tmp_path: Path) -> None:
    async with service(tmp_path, timeouts=replace(PATIENT, keys_check=0)) as api:
        key, text = make_key("alice", at=datetime.now(UTC))
        add_key(api.settings.keys_path, key)
        waiting = asyncio.create_task(ask(api, "statuses", text))
        await held(api, 1)
        api.emit("b", "completed")
        api.show()
        assert (await waiting).json["b"]["state"] == "completed"
