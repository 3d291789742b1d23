"""How an answer goes out: not again to who has it, compressed for who asks, and whole."""

from __future__ import annotations

import json
import zlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import cramjam
import pytest

from services.api.http.coding import SMALLEST, choose
from services.api.limits.limits import Timeouts
from services.api.routes.bulk import PAGE
from tests.contract.api_service import Api, running


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with running(tmp_path, auto_decompress=False) as api:
        api.make_store()
        api.follow()
        yield api


def unzstd(body: bytes) -> bytes:
    return bytes(cramjam.zstd.decompress(body))


def gunzip(body: bytes) -> bytes:
    reader = zlib.decompressobj(31)
    found = reader.decompress(body)
    assert reader.eof, "the body is cut off"
    return found


DECODERS: dict[str, Callable[[bytes], bytes]] = {"zstd": unzstd, "gzip": gunzip}
PATHS = ("/jobs/search", "/jobs/summary", "/jobs?bulkId=b", "/jobs/job-1", "/healthz")


async def some_jobs(api: Api, count: int = 2) -> None:
    for n in range(count):
        api.emit(f"job-{n}", "created", bulkId="b", tags={"text": "x" * 200})
    await api.project()
    api.show()


@pytest.mark.parametrize("path", PATHS)
async def test_an_answer_that_the_client_has_is_not_sent_again(api: Api, path: str) -> None:
    await some_jobs(api)
    first = await api.get(path)
    tag = first.headers["ETag"]
    for known in (tag, f'"other", {tag}', tag.removeprefix("W/"), "*"):
        again = await api.get(path, {"If-None-Match": known})
        assert (again.status, again.body) == (304, b"")
        assert again.headers["ETag"] == tag
        assert again.headers.get("Jobtrail-Position") == first.headers.get("Jobtrail-Position")
        assert "Content-Type" not in again.headers
    for other in ('"other"', 'W/"other"', "nonsense"):
        again = await api.get(path, {"If-None-Match": other})
        assert (again.status, again.body) == (200, first.body)


async def test_the_tag_is_of_the_content_and_not_of_the_position(api: Api) -> None:
    await some_jobs(api)
    first = await api.get("/jobs/search?jobType=bulkPolicy")
    api.emit("another", "created", jobType="other")
    await api.project()
    moved = await api.get("/jobs/search?jobType=bulkPolicy")
    assert moved.headers["Jobtrail-Position"] != first.headers["Jobtrail-Position"]
    assert moved.headers["ETag"] == first.headers["ETag"]
    api.emit("job-1", "active")
    await api.project()
    changed = await api.get("/jobs/search?jobType=bulkPolicy", {"If-None-Match": "nonsense"})
    assert changed.headers["ETag"] != first.headers["ETag"]
    known = {"If-None-Match": first.headers["ETag"]}
    assert (await api.get("/jobs/search?jobType=bulkPolicy", known)).status == 200


async def test_what_is_no_success_and_no_get_has_no_tag(api: Api) -> None:
    await some_jobs(api)
    missing = await api.get("/jobs/none", {"If-None-Match": "*"})
    assert (missing.status, "ETag" in missing.headers) == (404, False)
    posted = await api.statuses("job-1", headers={"If-None-Match": "*"})
    assert (posted.status, "ETag" in posted.headers) == (200, False)


@pytest.mark.parametrize("coding", DECODERS)
@pytest.mark.parametrize("path", ["/jobs/search", "/jobs?bulkId=b"])
async def test_an_answer_is_compressed_for_who_asks(api: Api, path: str, coding: str) -> None:
    await some_jobs(api, 20)
    plain = await api.get(path, {"Accept-Encoding": "identity"})
    assert "Content-Encoding" not in plain.headers
    packed = await api.get(path, {"Accept-Encoding": coding})
    assert packed.headers["Content-Encoding"] == coding
    assert packed.headers["Vary"] == "Authorization, Accept-Encoding"
    assert packed.headers["ETag"] == plain.headers["ETag"]
    assert len(packed.body) < len(plain.body) / 4
    assert DECODERS[coding](packed.body) == plain.body
    head = await api.ask("HEAD", path, {"Accept-Encoding": coding})
    assert head.headers["Content-Length"] == packed.headers["Content-Length"]


@pytest.mark.parametrize("coding", DECODERS)
async def test_statuses_are_compressed_too(api: Api, coding: str) -> None:
    await some_jobs(api, 20)
    ids = [f"job-{n}" for n in range(20)]
    plain = await api.statuses(*ids, headers={"Accept-Encoding": "identity"})
    packed = await api.statuses(*ids, headers={"Accept-Encoding": coding})
    assert packed.headers["Content-Encoding"] == coding
    assert DECODERS[coding](packed.body) == plain.body


@pytest.mark.parametrize("coding", DECODERS)
async def test_a_bulk_of_several_pages_is_compressed_as_it_comes(api: Api, coding: str) -> None:
    await some_jobs(api, 2 * PAGE + 7)
    plain = await api.get("/jobs?bulkId=b", {"Accept-Encoding": "identity"})
    packed = await api.get("/jobs?bulkId=b", {"Accept-Encoding": coding})
    assert packed.headers["Content-Encoding"] == coding
    assert DECODERS[coding](packed.body) == plain.body
    assert len(packed.body) < len(plain.body) / 4


async def test_a_small_answer_goes_out_as_it_is(api: Api) -> None:
    await some_jobs(api)
    answer = await api.get("/jobs/summary", {"Accept-Encoding": "gzip"})
    assert len(answer.body) < SMALLEST
    assert "Content-Encoding" not in answer.headers


async def test_a_wait_that_has_shown_signs_of_life_is_not_compressed(tmp_path: Path) -> None:
    """Each would hold a compressor as long as it is held."""
    timeouts = Timeouts(unknown=60, sign_of_life=0.01)
    async with running(tmp_path, timeouts=timeouts, auto_decompress=False) as api:
        api.make_store()
        api.follow()
        await some_jobs(api, 20)
        headers = api.bearer("alice") | {"Accept-Encoding": "gzip"}
        path = f"{api.url}/jobs?bulkId=b&wait=-1"
        async with api.session.get(path, headers=headers) as answer:
            assert await answer.content.readexactly(1) == b"\n"
            for n in range(20):
                api.emit(f"job-{n}", "completed")
            api.show()
            assert len(json.loads(await answer.content.read())) == 20
            assert "Content-Encoding" not in answer.headers


@pytest.mark.parametrize(
    ("accepted", "coding"),
    [
        (None, None),
        ("", None),
        ("identity", None),
        ("br", None),
        ("gzip", "gzip"),
        ("x-gzip", "gzip"),
        ("GZIP, deflate", "gzip"),
        ("gzip, deflate, br, zstd", "zstd"),
        ("gzip;q=1, zstd;q=0.5", "gzip"),
        ("gzip;q=0.1, zstd;q=0", "gzip"),
        ("gzip;q=0", None),
        ("gzip;q=nonsense", None),
        ("*", "zstd"),
        ("*;q=0", None),
        ("zstd;q=0, *", "gzip"),
        ("identity;q=1, gzip;q=0.5", None),
        ("identity;q=0.5, gzip;q=0.5", "gzip"),
    ],
)
def test_the_coding_is_the_one_that_the_client_likes_best(
    accepted: str | None, coding: str | None
) -> None:
    assert choose(accepted) == coding
