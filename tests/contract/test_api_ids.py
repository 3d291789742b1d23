"""Every id can be asked for: by `GET /job?id=` all of them, by its path all that a path can say."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import quote

import pytest

from jobtrail.access.tokens import WRITE, make_token
from jobtrail.client import Client
from services.api.limits.limits import Timeouts
from tests.contract.api_service import Api, running

#: What a path can't say, and what one must be written for with care.
UNSAID: Final = ("search", "summary", "statuses", "events", ".", "..")
ODD: Final = (
    "{x}", "{", "}", "a/b", "/", "%", "%2F", "a b", "a+b", "a?b#c", "a&id=b", "é😀", "a,b", "a;b",
    "history", "a/history", "..a", "[]", "\\", '"', "{id}",
)  # fmt: skip


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    timeouts = Timeouts(unknown=0.2, position=0.2, sign_of_life=0.05)
    async with running(tmp_path, timeouts=timeouts) as api:
        api.make_store()
        api.follow()
        for job in (*UNSAID, *ODD):
            api.emit(job, "created", bulkId="b")
            api.emit(job, "active")
        await api.project()
        yield api


@pytest.mark.parametrize("job", [*UNSAID, *ODD])
async def test_any_id_can_be_asked_for(api: Api, job: str) -> None:
    asked = quote(job, safe="")
    found = await api.get(f"/job?id={asked}")
    assert (found.status, found.json["id"]) == (200, job)
    then = await api.get(f"/job?id={asked}&asOf=2026-11-24")
    assert then.json["state"] == "active"
    if job in ODD:
        assert (await api.get(f"/jobs/{asked}")).json == found.json


async def test_the_client_asks_for_any_id(api: Api) -> None:
    async with Client(api.url, api.token("alice")) as client:
        for job in (*UNSAID, *ODD):
            assert (await client.job(job)).id == job


async def test_a_job_of_somebody_else_is_answered_as_one_that_is_not_there(api: Api) -> None:
    foreign = await api.get("/job?id=search", headers=api.bearer("mallory"))
    unknown = await api.get("/job?id=nothing", headers=api.bearer("mallory"))
    assert foreign.status == unknown.status == 404
    assert foreign.body == unknown.body


@pytest.mark.parametrize("path", ["/job", "/job?id=", "/job?id=%00", "/job/history?id=a&id=b"])
async def test_an_id_that_is_none_is_refused(api: Api, path: str) -> None:
    answer = await api.get(path)
    assert (answer.status, [error["parameter"] for error in answer.errors]) == (400, ["id"])


@pytest.mark.parametrize("path", ["/jobs?bulkId=b&wait=1", "/jobs/events"])
async def test_a_client_of_http_1_0_sees_where_a_streamed_answer_ends(api: Api, path: str) -> None:
    host, _, port = api.url.rpartition("/")[2].partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = f"GET {path} HTTP/1.0\r\nHost: x\r\nConnection: keep-alive\r\nAuthorization: Bearer "
    writer.write(f"{head}{api.token('alice')}\r\n\r\n".encode())
    async with asyncio.timeout(20):
        answer = (await reader.readuntil(b"\r\n\r\n")).lower()
        assert b" 200 " in answer
        assert b"keep-alive" not in answer
        assert b"chunked" not in answer
        if "wait" in path:
            assert len(json.loads(await reader.read())) == len(UNSAID) + len(ODD)
    writer.close()


@contextlib.asynccontextmanager
async def sent(api: Api, lines: Sequence[bytes]) -> AsyncIterator[asyncio.StreamReader]:
    """Send a request as it is; read its answer."""
    host, _, port = api.url.rpartition("/")[2].partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(b"\r\n".join(lines))
        async with asyncio.timeout(20):
            yield reader
    finally:
        writer.close()


@pytest.mark.parametrize(
    ("header", "value"),
    [
        (b"ce-subject", b"a\xff"),
        (b"ce-subject", b"%ff"),
        (b"ce-source", b'"//x'),
        (b"ce-data_base64", b"AAAA"),
        (b"ce-data", b"{}"),
        (b"ce-id", b"again"),
        (b"content-type", b'application/json; x="\xff"'),
    ],
)
async def test_a_header_that_is_no_attribute_is_refused(
    api: Api, header: bytes, value: bytes
) -> None:
    token = make_token(api.secret, "alice", (), (WRITE,))
    lines = [
        b"POST /events HTTP/1.1", b"Host: x", f"Authorization: Bearer {token}".encode(),
        b"Content-Length: 2", b"Connection: close",
        *([] if header == b"content-type" else [b"Content-Type: application/json"]),
        b"ce-specversion: 1.0", b"ce-type: job.active", b"ce-id: e",
        *([] if header == b"ce-source" else [b"ce-source: //x"]),
        *([] if header == b"ce-subject" else [b"ce-subject: j"]),
        header + b": " + value,
    ]  # fmt: skip
    async with sent(api, [*lines, b"", b"{}"]) as reader:
        answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 400 ")
    errors = json.loads(answer.partition(b"\r\n\r\n")[2])["errors"]
    assert [error["parameter"] for error in errors] == [header.decode()]


@pytest.mark.parametrize(
    "header",
    [
        "Authorization", "Jobtrail-Position", "Last-Event-ID", "If-None-Match", "Accept-Encoding",
        "Content-Encoding", "Content-Type", "Accept", "Range", "Host", "Origin", "X-Any",
        "Traceparent", "Connection",
    ],
)  # fmt: skip
async def test_a_header_that_is_no_text_fails_nowhere(api: Api, header: str) -> None:
    token = make_token(api.secret, "alice", (), (WRITE,))
    usual = {
        "Host": b"x", "Authorization": f"Bearer {token}".encode(),
        "Content-Type": b"application/json", "Connection": b"close",
    }  # fmt: skip
    usual[header] = b'a; x="\xff\xfe"'
    for request, body in (
        (b"GET /jobs/search", b""),
        (b"GET /jobs/summary", b""),
        (b"GET /jobs/j/history", b""),
        (b"GET /jobs?bulkId=b", b""),
        (b"HEAD /jobs/events", b""),
        (b"GET /readyz", b""),
        (b"POST /jobs/statuses", b'{"jobIds": ["j"]}'),
        (b"POST /events", b"{}"),
    ):
        lines = [request + b" HTTP/1.1", b"Content-Length: %d" % len(body)]
        lines += [name.encode() + b": " + value for name, value in usual.items()]
        async with sent(api, [*lines, b"", body]) as reader:
            status = int((await reader.readuntil(b"\r\n")).split()[1])
        assert status < 500 or status == 503, (request, status)


@pytest.mark.parametrize(
    "form", ["application/json; charset=latin-1", "text/plain", "application/jsonx", "json"]
)
async def test_data_that_are_no_json_in_utf_8_are_refused(api: Api, form: str) -> None:
    token = make_token(api.secret, "alice", (), (WRITE,))
    headers = {
        "ce-specversion": "1.0", "Content-Type": form, "Authorization": f"Bearer {token}",
    }  # fmt: skip
    answer = await api.ask("POST", "/events", headers=headers, body=b"{}")
    assert answer.status == 415
