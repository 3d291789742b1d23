"""The service around its endpoints: who gets in, what an error looks like, whether it is ready."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest

from jobtrail.access.tokens import make_token
from jobtrail.core.partitions import partition_of
from tests.contract.api_service import PARTITIONS, PROBLEM, Api, running

# --- who gets in

#: Every endpoint that needs a token, with a request that it would answer.
ENDPOINTS = [
    ("GET", "/jobs?bulkId=b", None),
    ("GET", "/jobs/search", None),
    ("GET", "/jobs/summary", None),
    ("POST", "/jobs/statuses", b'{"jobIds": ["j"]}'),
]


@pytest.mark.parametrize(("method", "path", "body"), ENDPOINTS)
async def test_nobody_gets_in_without_a_good_token(
    api: Api, method: str, path: str, body: bytes | None
) -> None:
    api.emit("j", "created", bulkId="b")
    await api.project()
    assert (await api.ask(method, path, body=body)).status == 200
    over = make_token(api.secret, "alice", lifetime=timedelta(hours=-1))
    foreign = make_token(b"x" * 32, "alice")
    tries = [None, "", "nonsense", "Basic YTpi", "Bearer x.y.z", f"Bearer {over}"]
    refusals = set()
    for header in [*tries, f"Bearer {foreign}"]:
        headers = {} if header is None else {"Authorization": header}
        answer = await api.send(method, path, headers, body)
        assert answer.headers["Content-Type"] == PROBLEM
        assert answer.headers["WWW-Authenticate"] == 'Bearer realm="jobtrail"'
        refusals.add((answer.status, answer.body))
    ((status, _body),) = refusals
    assert status == 401


async def test_who_is_not_let_in_learns_nothing_of_his_faults(api: Api) -> None:
    assert (await api.send("GET", "/jobs/search?size=x", {})).status == 401
    assert (await api.send("POST", "/jobs/statuses", {}, b"nope")).status == 401


# --- problems


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/joobs", 404),
        ("GET", "/jobs/", 404),
        ("GET", "/jobs/statuses", 405),
        ("PUT", "/jobs", 405),
        ("DELETE", "/jobs/search", 405),
        ("PATCH", "/jobs/summary", 405),
    ],
)
async def test_what_is_not_there_is_a_problem(
    api: Api, method: str, path: str, status: int
) -> None:
    answer = await api.ask(method, path)
    assert answer.status == answer.json["status"] == status
    assert answer.headers["Content-Type"] == PROBLEM
    assert set(answer.json) == {"type", "title", "status", "detail"}
    assert ("Allow" in answer.headers) == (status == 405)


async def test_a_body_has_its_limits(api: Api) -> None:
    large = await api.ask("POST", "/jobs/statuses", body=b" " * (1 << 20) + b"{}")
    assert (large.status, large.headers["Content-Type"]) == (413, PROBLEM)
    headers = {"Content-Encoding": "gzip"}
    coded = await api.ask("POST", "/jobs/statuses", headers, b"\x1f\x8b")
    assert (coded.status, coded.headers["Content-Type"]) == (415, PROBLEM)
    assert coded.headers["Accept-Encoding"] == "identity"


async def test_a_body_that_does_not_come_is_not_waited_for(tmp_path: Path) -> None:
    async with running(tmp_path, read_timeout=0.05) as api:
        head, body = await api.raw(
            b"POST /jobs/statuses HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n"
            b"Authorization: " + api.bearer("alice")["Authorization"].encode() + b"\r\n\r\n{"
        )
    assert head.startswith(b"HTTP/1.1 408 ")
    assert json.loads(body)["status"] == 408


@pytest.mark.parametrize(
    ("request_line", "header", "status"),
    [
        (b"GET /jobs?" + b"x" * 17_000 + b" HTTP/1.1", b"X: y", 414),
        (b"GET /healthz HTTP/1.1", b"X: " + b"y" * 13_000, 431),
        (b"GET /healthz HTTP/1.1", b"\r\n".join(b"X%d: y" % n for n in range(200)), 431),
        (b"GET /healthz HTTP/9.9", b"X: y", 400),
        (b"nonsense", b"X: y", 400),
        (b"GET /healthz HTTP/1.1", b"Expect: a wonder", 417),
    ],
)
async def test_what_is_not_even_read_is_a_problem(
    api: Api, request_line: bytes, header: bytes, status: int
) -> None:
    head, body = await api.raw(request_line + b"\r\nHost: x\r\n" + header + b"\r\n\r\n")
    assert int(head.split()[1]) == json.loads(body)["status"] == status
    assert b"Content-Type: application/problem+json" in head


async def test_a_mistake_of_the_service_tells_nothing_of_it(
    api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    api.service.store.close()
    for shard in api.settings.store_folder.glob("shard-*"):
        shard.unlink()
    answer = await api.get("/jobs/search")
    assert answer.status == 503
    assert str(api.settings.data_dir) not in answer.body.decode()
    (api.settings.store_folder / "store.json").unlink()
    (api.settings.store_folder / "store.json").mkdir()
    answer = await api.get("/jobs/search")
    assert answer.status in (500, 503)
    assert str(api.settings.data_dir) not in answer.body.decode()
    assert str(api.settings.data_dir) in caplog.text


# --- health


async def test_a_service_without_projections_lives_but_is_not_ready(tmp_path: Path) -> None:
    async with running(tmp_path) as api:
        assert (await api.send("GET", "/healthz", {})).json == {"alive": True}
        ready = await api.send("GET", "/readyz", {})
        assert (ready.status, ready.headers["Content-Type"]) == (503, PROBLEM)
        assert ready.headers["Retry-After"] == "1"
        assert ready.json["ready"] is False
        assert not any(ready.json[part]["up"] for part in ("log", "projections", "tail"))
        for path in ("/jobs/search", "/jobs/summary", "/jobs?bulkId=b"):
            answer = await api.get(path)
            assert (answer.status, answer.json["type"].split(":")[-1]) == (503, "recovering")
            assert "Retry-After" in answer.headers
        assert (await api.statuses("j")).status == 503
        # And as soon as there are projections, they are read.
        api.make_store()
        assert (await api.get("/jobs/search")).json == {"jobs": [], "next": None}


async def test_projections_that_recover_give_no_partial_answer(tmp_path: Path) -> None:
    async with running(tmp_path) as api:
        job = next(f"j{n}" for n in range(99) if partition_of(f"j{n}", PARTITIONS) == 1)
        other = next(f"j{n}" for n in range(99) if partition_of(f"j{n}", PARTITIONS) == 0)
        api.make_store(ends={1: 2})
        api.follow()
        for path in ("/jobs/search", "/jobs/summary", "/jobs?bulkId=b", "/jobs?bulkId=b&wait=1"):
            answer = await api.get(path)
            assert (answer.status, answer.json["type"].split(":")[-1]) == (503, "recovering")
            assert "Retry-After" in answer.headers
        for wait in (0, 1):
            assert (await api.statuses(job, other, wait=wait)).status == 503
            # What is asked for is there as a whole.
            assert (await api.statuses(other, wait=wait)).status == 200
        api.emit(job, "created")
        api.emit(job, "active")
        await api.project()
        assert (await api.get("/jobs/search")).json["jobs"][0]["state"] == "active"


async def test_metrics_count_what_the_fold_made_of_the_records(api: Api) -> None:
    partition = partition_of("job-1", PARTITIONS)
    api.emit("job-1", "created")
    api.emit("job-1", "completed")
    api.emit("job-1", "active")
    api.write(b"job-1", api.records[partition][0].value, partition)
    api.write(b"job-1", b"no event", partition)
    await api.project()
    api.show()
    counts = {
        verdict: await api.metric(f'jobtrail_projected_records_total{{verdict="{verdict}"}}')
        for verdict in ("applied", "duplicate", "late", "not-allowed", "foreign", "dead")
    }
    assert counts == {
        "applied": 2,
        "duplicate": 1,
        "late": 0,
        "not-allowed": 1,
        "foreign": 0,
        "dead": 1,
    }
    assert await api.metric("jobtrail_projection_lag_records") == 0


async def test_metrics_say_how_many_records_the_projections_lack(api: Api) -> None:
    for n in range(5):
        api.emit(f"job-{n}", "created")
    api.show()
    assert await api.metric("jobtrail_projection_lag_records") == 5
    await api.project()
    assert await api.metric("jobtrail_projection_lag_records") == 0


async def test_metrics_count_requests_by_route(api: Api) -> None:
    await api.get("/jobs/search")
    await api.get("/jobs/search?size=0")
    await api.ask("TRACE", "/elsewhere")
    text = (await api.send("GET", "/metrics", {})).body.decode()
    for status in (200, 400):
        labels = f'method="GET",route="search",status="{status}"'
        assert f"jobtrail_http_requests_total{{{labels}}} 1.0" in text
    assert 'jobtrail_http_requests_total{method="other",route="none",status="404"} 1.0' in text
    assert 'jobtrail_http_request_seconds_count{route="search"} 2.0' in text


async def test_every_answer_says_what_it_took(api: Api) -> None:
    for method, path, body in ENDPOINTS:
        answer = await api.ask(method, path, body=body)
        assert "total;dur=" in answer.headers["Server-Timing"]
        assert answer.headers["Server"] == "jobtrail"
        assert answer.headers["Cache-Control"] == "private, no-cache"


async def test_a_head_is_an_answer_without_its_body(api: Api) -> None:
    api.emit("j", "created", bulkId="b")
    await api.project()
    for path in ("/jobs?bulkId=b", "/jobs/search", "/jobs/summary", "/healthz", "/metrics"):
        head, whole = await api.ask("HEAD", path), await api.get(path)
        assert (head.status, head.body) == (200, b"")
        assert head.headers["Content-Type"] == whole.headers["Content-Type"]
