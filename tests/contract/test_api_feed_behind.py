"""Who is behind at `GET /jobs/events` reads the log: many together, and in bounded memory."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from jobtrail.core.position import parse_position
from services.api.feed.spans import SPAN, Spans
from services.api.limits.limits import Timeouts
from services.api.live.bodies import Bodies, Scanned
from tests.contract.api_service import FETCHED, PARTITIONS, Api, running
from tests.contract.feeding import feed, happen
from tests.waiting import let_all_run, until

LISTENERS = 20
EVENTS = 2 * SPAN * PARTITIONS
KINDS = ("created", "active", "progress", "completed")


async def filled(api: Api, events: int = EVENTS, **data: Any) -> None:
    """Let jobs of four events each be in the projections, and the tail begin behind them."""
    api.make_store()
    for n in range(events):
        kind = KINDS[n % len(KINDS)]
        api.emit(f"job-{n // len(KINDS)}", kind, **(data if kind == "completed" else {}))
    await api.project()
    api.follow()


async def told_from(api: Api, position: str, query: str = "") -> list[tuple[int, int]]:
    """Listen from a position on up to the log's end; return the places of what was told."""
    end = parse_position(api.end)
    found = []
    headers = api.bearer("root", reads_all=True) | {"Last-Event-ID": position}
    async with feed(api, query, headers) as reader:
        while parse_position(reader.last_id) != end:
            block = await reader.block()
            assert block is not None
            if block.data is not None:
                found.append((block.data["partition"], block.data["offset"]))
    return found


async def test_listeners_at_different_places_come_together(tmp_path: Path) -> None:
    async with running(tmp_path) as api:
        await filled(api)
        ends = {p: len(records) for p, records in api.records.items()}
        places = [
            {p: end * number // LISTENERS for p, end in ends.items()} for number in range(LISTENERS)
        ]
        positions = [",".join(f"{p}:{n}" for p, n in place.items()) for place in places]
        async with asyncio.timeout(60):
            told = await asyncio.gather(
                *(
                    told_from(api, place, "?jobType=none" if n % 5 else "")
                    for n, place in enumerate(positions)
                )
            )
        for place, found in list(zip(places, told, strict=True))[::5]:
            wanted = {(p, n) for p, end in ends.items() for n in range(place[p], end)}
            assert len(found) == len(set(found))
            assert set(found) == wanted
        made = api.service.spans.made
        at_least = sum(-(-end // SPAN) for end in ends.values())
        each_alone = sum(
            -(-(end - place[p]) // SPAN) for place in places for p, end in ends.items()
        )
        # One more for the place where each of them began, in each partition, at most.
        assert at_least <= made < each_alone / 2
        assert api.service.spans.scans < made


async def test_who_stands_in_line_is_shown_that_the_stream_lives(tmp_path: Path) -> None:
    async with running(tmp_path, timeouts=Timeouts(sign_of_life=0.05)) as api:
        await filled(api, 30)
        begin = ",".join(f"{p}:0" for p in range(PARTITIONS))
        headers = api.bearer("root", reads_all=True) | {"Last-Event-ID": begin}
        api.readable.clear()
        async with asyncio.timeout(20), feed(api, headers=headers) as reader:
            for _ in range(3):
                block = await reader.block()
                assert block is not None
                assert block.data is None
                assert reader.last_id == begin
            api.readable.set()
            assert len(await reader.changes(30)) == 30


async def test_the_first_part_is_counted_among_the_bytes_under_way(tmp_path: Path) -> None:
    async with running(tmp_path) as api:
        await filled(api, 80, output="x" * 50_000)
        begin = ",".join(f"{p}:0" for p in range(PARTITIONS))
        headers = api.bearer("root", reads_all=True) | {"Last-Event-ID": begin}
        outgoing, size = api.service.outgoing, api.settings.max_outgoing_bytes_per_caller
        outgoing.take("root", size)

        async def listen() -> int:
            async with feed(api, headers=headers) as reader:
                return len(await reader.changes(1))

        hearing = asyncio.create_task(listen())
        async with asyncio.timeout(20):
            await until(lambda: outgoing._waiting)
            # It would be here by now.
            await let_all_run()
            assert not hearing.done()
            outgoing.free("root", size)
            assert await hearing == 1


async def test_what_was_fetched_is_fetched_once(tmp_path: Path) -> None:
    async with running(tmp_path) as api:
        await filled(api)
        begin = ",".join(f"{p}:0" for p in range(PARTITIONS))
        assert len(await told_from(api, begin)) == EVENTS
        ends = [len(records) for records in api.records.values()]
        assert api.service.spans.scans == sum(-(-end // FETCHED) for end in ends)


async def test_what_is_kept_for_those_behind_is_bounded_in_bytes_of_memory(tmp_path: Path) -> None:
    async with running(tmp_path, feed_buffer_bytes=16 << 20) as api:
        output = {"rows": "x" * 3_000}
        await filled(api, EVENTS, output=output)
        begin = ",".join(f"{p}:0" for p in range(PARTITIONS))
        most = 8 << 20
        headers = api.bearer("root", reads_all=True) | {"Last-Event-ID": begin}
        async with feed(api, headers=headers) as reader:
            for _ in range(EVENTS):
                await reader.changes(1)
                assert api.service.spans.size <= most
        # All of it takes more: by the events alone that is not seen.
        assert api.service.spans.dropped > 0
        assert sum(len(r.value or b"") for rs in api.records.values() for r in rs) < most


@pytest.mark.parametrize("large", ["error", "viewers"])
async def test_what_is_told_of_the_live_log_is_bounded_in_bytes_of_memory(
    tmp_path: Path, large: str
) -> None:
    viewers = [f"user:{n:0>250}" for n in range(256)] if large == "viewers" else []
    error = {"text": "x" * 60_000} if large == "error" else None
    async with running(tmp_path, feed_buffer_bytes=16 << 20) as api:
        api.make_store()
        api.follow()
        api.emit("job-1", "created", viewers=viewers)
        api.emit("job-1", "failed", error=error)
        await happen(api)
        events = 300
        async with feed(api) as reader:
            for n in range(events):
                api.emit("job-1", "active", attempt=n + 1)
            api.emit("job-2", "created")
            await happen(api)
            api.service.progress.look()
            assert 0 < api.service.feed.size <= 8 << 20
            size = sum(len(change.text) for change in api.service.feed._kept)
            assert size < api.service.feed.size
            assert len(await reader.changes(events + 1)) == events + 1


@pytest.mark.parametrize("type_", ["bulkPolicy", "other"])
async def test_who_takes_some_is_told_where_he_is(tmp_path: Path, type_: str) -> None:
    async with running(tmp_path) as api:
        await filled(api, SPAN * PARTITIONS)
        begin = ",".join(f"{p}:0" for p in range(PARTITIONS))
        found = await told_from(api, begin, f"?jobType={type_}")
        assert len(found) == (SPAN * PARTITIONS if type_ == "bulkPolicy" else 0)


async def test_what_has_much_output_is_read_once_all_the_same(tmp_path: Path) -> None:
    """What is too large to be kept would be read again for each part that is sent."""
    async with running(tmp_path, feed_buffer_bytes=16 << 20) as api:
        await filled(api, EVENTS // 2, output="x" * 60_000, error={"text": "y" * 60_000})
        begin = ",".join(f"{p}:0" for p in range(PARTITIONS))
        headers = api.bearer("root", reads_all=True) | {"Last-Event-ID": begin}
        async with feed(api, headers=headers) as reader:
            found = await reader.changes(EVENTS // 2)
        assert len({(one["partition"], one["offset"]) for one in found}) == EVENTS // 2
        # Each change is a part of its own.
        assert api.service.spans.made < EVENTS // 2 / 3


class Endless(Bodies):
    """A log in which there lies anything, and nothing that is told."""

    async def scan(self, partition: int, begin: int, end: int) -> Scanned:
        self.scans += 1
        await asyncio.sleep(0)
        return Scanned([], end, None)


async def test_nobody_waits_for_the_many_listeners_of_one(api: Api) -> None:
    many, far = 40, 10**6
    spans = Spans(Endless("log", {}, api.witness), api.service.store, 8 << 20)

    async def read_on(begin: int, end: int, user: str) -> None:
        while begin < end:
            begin = (await spans.read(0, begin, end, user)).end

    # So far apart that no read serves two of them.
    greedy = [asyncio.create_task(read_on(n * far, (n + 1) * far, "greedy")) for n in range(many)]
    while spans.made < many:
        await asyncio.sleep(0)
    before = spans.made
    await read_on((many + 1) * far, (many + 1) * far + 5 * SPAN, "alice")
    # Of four turns one is by turns, of which she has every other one.
    assert spans.made - before <= 5 * 4 * 2
    for task in greedy:
        task.cancel()
    await asyncio.gather(*greedy, return_exceptions=True)
    await spans.close()
