"""For how long `GET /jobs/events` goes on, who ends it, and who is not let in."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from jobtrail.access.api_keys import add_key, make_key, revoke_key
from jobtrail.access.tokens import make_token
from jobtrail.core.position import parse_position
from jobtrail.log.consumers import BREAKS
from services.api.feed.spans import SPAN, Span
from services.api.limits.limits import Timeouts
from services.api.problems.problems import LOG_CHANGED, Problem
from tests.contract.api_service import PARTITIONS, Api, running
from tests.contract.feeding import feed, happen
from tests.feed_reader import Reader
from tests.waiting import look_again, until


async def nobody_listens(api: Api) -> None:
    async with asyncio.timeout(30):
        while await api.metric("jobtrail_feeds"):
            pass


async def test_a_quiet_stream_says_where_it_is(tmp_path: Path) -> None:
    timeouts = Timeouts(unknown=0.2, position=0.2, sign_of_life=0.02)
    async with running(tmp_path, timeouts=timeouts) as api:
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
    timeouts = Timeouts(unknown=0.2, position=0.2, sign_of_life=0.02, keys=0.01)
    async with running(tmp_path, timeouts=timeouts) as api:
        api.make_store()
        api.follow()
        key, text = make_key("alice", at=datetime.now(UTC))
        add_key(api.settings.keys_path, key)
        while (await api.get("/jobs/summary", {"Authorization": f"Bearer {text}"})).status != 200:
            await look_again()
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
            api.service.tail.begin(partition, 0, replaced=True)
        assert await reader.block() is None


async def test_who_reads_a_log_that_is_replaced_is_told_nothing_of_the_other_one(
    api: Api,
) -> None:
    events = 4 * SPAN * PARTITIONS
    for n in range(events):
        api.emit(f"job-{n}", "created")
    await api.project()
    api.follow()
    spans, read = api.service.spans, api.service.spans.read
    before = 0

    async def replaced(partition: int, begin: int, end: int, user: str) -> Span:
        nonlocal before
        span = await read(partition, begin, end, user)
        if not before and partition == PARTITIONS - 1:
            before = spans.made
            for each in range(PARTITIONS):
                api.service.tail.begin(each, 0, replaced=True)
        return span

    spans.read = replaced  # type: ignore[method-assign]
    begin = ",".join(f"{p}:0" for p in range(PARTITIONS))
    headers = api.bearer("root", reads_all=True) | {"Last-Event-ID": begin}
    told = 0
    async with feed(api, headers=headers) as reader:
        while (block := await reader.block()) is not None:
            told += block.data is not None
    assert 0 < told < before * SPAN
    assert spans.made == before


async def _to_the_end(reader: Reader) -> None:
    while await reader.block() is not None:
        pass


async def test_what_another_log_holds_is_not_told_before_the_tail_has_looked(api: Api) -> None:
    for n in range(4 * SPAN * PARTITIONS):
        api.emit(f"job-{n}", "created")
    await api.project()
    api.follow()
    spans, read = api.service.spans, api.service.spans.read
    waiting = asyncio.Event()

    async def replaced(partition: int, begin: int, end: int, user: str) -> Span:
        if partition == PARTITIONS - 1 and not waiting.is_set():
            for each, records in api.records.items():
                api.records[each] = [record._replace(key=b"other") for record in records]
            # As each new connection is counted.
            BREAKS.count += 1
            waiting.set()
        return await read(partition, begin, end, user)

    spans.read = replaced  # type: ignore[method-assign]
    begin = ",".join(f"{p}:0" for p in range(PARTITIONS))
    headers = api.bearer("root", reads_all=True) | {"Last-Event-ID": begin}
    async with feed(api, headers=headers) as reader:
        while not waiting.is_set():
            assert await reader.block() is not None
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(_to_the_end(reader), 0.5)
        assert parse_position(reader.last_id)[PARTITIONS - 1] == 0
        for each in range(PARTITIONS):
            api.service.tail.begin(each, 0, replaced=True)
        api.witness.trust(BREAKS.count)
        assert await reader.block() is None
    assert parse_position(reader.last_id)[PARTITIONS - 1] == 0


async def test_who_stands_in_line_while_the_log_is_replaced_is_told_so(api: Api) -> None:
    for n in range(30):
        api.emit(f"job-{n}", "created")
    await api.project()
    spans = api.service.spans
    first = asyncio.create_task(spans.read(0, 0, len(api.records[0]), "alice"))
    second = asyncio.create_task(spans.read(1, 0, len(api.records[1]), "alice"))
    await asyncio.sleep(0)
    # While it is read for the first of them.
    await asyncio.sleep(0)
    spans.forget()
    for asked in (first, second):
        with pytest.raises(Problem) as told:
            await asked
        assert told.value.kind is LOG_CHANGED
    await until(lambda: spans.size == 0)
    assert (await spans.read(0, 0, len(api.records[0]), "alice")).begin == 0
