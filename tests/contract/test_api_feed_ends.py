"""For how long `GET /jobs/events` goes on, who ends it, and who is not let in."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from jobtrail.keys import add_key, make_key, revoke_key
from jobtrail.position import parse_position
from jobtrail.tokens import make_token
from services.api.limits import Patience
from tests.contract.api_service import PARTITIONS, Api, running
from tests.contract.feeding import feed, happen


async def nobody_listens(api: Api) -> None:
    async with asyncio.timeout(30):
        while await api.metric("jobtrail_feeds"):
            pass


async def test_a_quiet_stream_says_where_it_is(tmp_path: Path) -> None:
    patience = Patience(unknown=0.2, position=0.2, sign_of_life=0.02)
    async with running(tmp_path, patience=patience) as api:
        api.make_store()
        api.follow()
        async with feed(api, "?owner=nobody") as reader:
            began = reader.last_id
            api.emit("job-1", "created")
            await happen(api)
            while reader.last_id == began:
                block = await reader.block()
                assert block is not None
                assert block.data is None
            assert parse_position(reader.last_id) == parse_position(api.end)


async def test_a_stream_ends_with_its_token(api: Api) -> None:
    over = int(time.time()) + 1
    token = make_token(api.secret, "alice", lifetime=timedelta(seconds=1), at=over - 1)
    async with feed(api, headers={"Authorization": f"Bearer {token}"}) as reader:
        assert await reader.block() is None
        assert time.time() >= over


async def test_a_stream_ends_with_its_key(tmp_path: Path) -> None:
    patience = Patience(unknown=0.2, position=0.2, sign_of_life=0.02, keys=0.01)
    async with running(tmp_path, patience=patience) as api:
        api.make_store()
        api.follow()
        key, text = make_key("alice", at=datetime.now(UTC))
        add_key(api.settings.keys_path, key)
        while (await api.get("/jobs/summary", {"Authorization": f"Bearer {text}"})).status != 200:
            pass
        async with feed(api, headers={"Authorization": f"Bearer {text}"}) as reader:
            assert await reader.block() is not None
            revoke_key(api.settings.keys_path, key.id)
            while await reader.block() is not None:
                pass


async def test_a_service_that_stops_ends_its_streams(api: Api) -> None:
    async with feed(api) as reader:
        api.service.feed.close()
        assert await reader.block() is None
        async with feed(api) as late:
            assert await late.block() is None


async def test_who_leaves_is_forgotten(api: Api) -> None:
    async with feed(api), feed(api):
        assert await api.metric("jobtrail_feeds") == 2
    await nobody_listens(api)
    api.emit("job-1", "created")
    await happen(api)
    async with feed(api) as reader:
        assert parse_position(reader.last_id) == parse_position(api.end)


async def test_there_are_as_many_listeners_as_there_may_be(tmp_path: Path) -> None:
    async with running(tmp_path, max_feeds=3, max_feeds_per_caller=2) as api:
        api.make_store()
        api.follow()
        alice, bob = api.bearer("alice"), api.bearer("bob")
        async with feed(api, headers=alice), feed(api, headers=alice):
            refused = await api.get("/jobs/events", alice)
            assert (refused.status, refused.headers["Retry-After"]) == (429, "5")
            async with feed(api, headers=bob):
                assert (await api.get("/jobs/events", bob)).status == 429
        await nobody_listens(api)
        async with feed(api, headers=bob):
            pass


async def test_head_answers_without_a_stream(api: Api) -> None:
    answer = await api.ask("HEAD", "/jobs/events")
    assert (answer.status, answer.headers["Content-Type"]) == (200, "text/event-stream")
    await nobody_listens(api)


@pytest.mark.parametrize("query", ["size=1", "cursor=x", "offset=0", "wait=1", "state=nonsense"])
async def test_what_is_no_filter_is_refused(api: Api, query: str) -> None:
    answer = await api.get(f"/jobs/events?{query}")
    assert answer.status == 400
    assert answer.errors[0]["parameter"] == query.partition("=")[0]


async def test_a_log_that_was_replaced_ends_the_streams(api: Api) -> None:
    for n in range(6):
        api.emit(f"job-{n}", "created")
    await happen(api)
    async with feed(api) as reader:
        for partition in range(PARTITIONS):
            api.service.tail.begin(partition, 0)
        assert await reader.block() is None
