"""The proxy does to a link what it says, and what clients are told wrongly is seen."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from array import array
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from jobtrail.access.tokens import local_secret, make_token
from tests.conftest import MakeLog
from tests.contract.store_streams import Log
from tests.faults.kit.checker import Report
from tests.faults.kit.clients import Clients, Listener, Seen
from tests.faults.kit.keeping import first_of
from tests.faults.kit.load import Load
from tests.faults.kit.model import Model
from tests.faults.kit.proxy import Fault, Proxy
from tests.faults.kit.told import Told
from tests.processes import Process, api
from tests.waiting import until

ANSWER_WITHIN = 30.0
JOB = "job-1"


@contextlib.asynccontextmanager
async def echo() -> AsyncIterator[int]:
    """Run a server that says back what it is told; the value is its port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while some := await reader.read(1 << 16):
                writer.write(some)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


@contextlib.asynccontextmanager
async def linked(*, broker: bool = False) -> AsyncIterator[Proxy]:
    """Run a proxy before such a server."""
    async with echo() as port:
        proxy = await Proxy("test", port, broker=broker).start()
        try:
            yield proxy
        finally:
            await proxy.stop()


class Client:
    """A connection through a proxy."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def of(cls, proxy: Proxy) -> Client:
        return cls(*await asyncio.open_connection("127.0.0.1", proxy.port))

    async def said(self, text: bytes) -> bytes:
        """Say something; return as much of what comes back."""
        self.writer.write(text)
        async with asyncio.timeout(ANSWER_WITHIN):
            return await self.reader.readexactly(len(text))

    async def was_reset(self) -> bool:
        """Read to the end; tell whether the end is a reset."""
        try:
            async with asyncio.timeout(ANSWER_WITHIN):
                await self.reader.read()
        except ConnectionResetError:
            return True
        return False


async def test_what_passes_is_passed_on_in_order() -> None:
    async with linked() as proxy:
        client = await Client.of(proxy)
        text = b"x1" * 300_000 + b"127.0.0.1"
        assert await client.said(text) == text
        await proxy.apply(Fault("delay", seconds=0.01))
        assert await client.said(b"later") == b"later"
        assert proxy.accepted == 1


async def test_a_brokers_port_is_written_over_also_where_it_comes_in_two_pieces() -> None:
    async with linked(broker=True) as proxy:
        theirs, ours = (b"127.0.0.1" + struct.pack(">i", p) for p in (proxy.target, proxy.port))
        for cut in range(len(theirs) + 1):
            one, held = proxy.rewritten(b"a" + theirs[:cut])
            other, rest = proxy.rewritten(held + theirs[cut:] + b"b")
            # Less than a few bytes of an address, as the end of any answer may be, do not wait.
            split = 0 < cut < 4
            assert one + other == b"a" + (theirs if split else ours) + b"b"
            assert rest == b""
        client = await Client.of(proxy)
        assert await client.said(b"at " + theirs + b".") == b"at " + ours + b"."


@pytest.mark.parametrize("kind", ["cut", "refuse"])
async def test_connections_are_reset(kind: str) -> None:
    async with linked() as proxy:
        client = await Client.of(proxy)
        await client.said(b"there")
        await proxy.apply(Fault(kind))
        assert await client.was_reset()
        if kind == "refuse":
            with pytest.raises(ConnectionRefusedError):
                await Client.of(proxy)
            await proxy.heal()
        assert await (await Client.of(proxy)).said(b"again") == b"again"


async def test_a_connection_is_reset_after_some_bytes() -> None:
    async with linked() as proxy:
        await proxy.apply(Fault("reset-after", bytes=10))
        client = await Client.of(proxy)
        client.writer.write(b"0123456789")
        assert await client.was_reset()


@pytest.mark.parametrize("way", ["to_server", "to_client"])
async def test_one_way_is_swallowed_until_the_connection_is_reset(way: Any) -> None:
    async with linked() as proxy:
        client = await Client.of(proxy)
        await client.said(b"there")
        await proxy.apply(Fault("half-open", way=way))
        client.writer.write(b"gone")
        await until(lambda: proxy.swallowed)
        await proxy.heal()
        assert await client.was_reset()


async def test_a_post_is_taken_down_that_is_answered_after_the_last_write(
    make_log: MakeLog, running: list[Process], tmp_path: Path
) -> None:
    settings = await make_log()
    answering = api(settings)
    running.append(answering)
    proxy = await Proxy("client-api", int((await answering.start()).rpartition(":")[2])).start()
    acks = tmp_path / "acks.txt"
    load = Load(settings.bootstrap_servers, settings.topic, acks, seed=1, rate=50)
    load.url = f"http://{proxy.address}"
    secret = local_secret(settings.data_dir)
    token = make_token(secret, "kit", (), ["jobs:write"], timedelta(hours=1))
    load.headers = {"Authorization": f"Bearer {token}"}
    try:
        async with aiohttp.ClientSession() as session, asyncio.timeout(ANSWER_WITHIN):
            writing = asyncio.create_task(load.run())
            posting = asyncio.create_task(load.run_posting(session, every=0.01))
            assert await first_of(lambda: load.posted > 0, ANSWER_WITHIN)
            await proxy.apply(Fault("stall"))
            posted = load.posted
            # A post is made many times as often as so many other events are.
            some = load.acknowledged + 10
            await until(lambda: load.acknowledged >= some)
            load.finish()
            await writing
            assert not posting.done()
            await proxy.apply(Fault("refuse"))
            assert await first_of(lambda: "ClientConnectorError" in load.standing, ANSWER_WITHIN)
            await proxy.heal()
            await posting
    finally:
        await proxy.stop()
    assert load.posted > posted
    assert len(acks.read_text().splitlines()) == load.acknowledged


async def test_what_stalls_goes_on() -> None:
    async with linked() as proxy:
        client = await Client.of(proxy)
        await proxy.apply(Fault("stall"))
        client.writer.write(b"wait")
        other = await Client.of(proxy)
        waiting = asyncio.create_task(other.said(b"for it"))
        assert not (await asyncio.wait({waiting}, timeout=0.2))[0]
        await proxy.heal()
        assert await waiting == b"for it"
        assert await client.reader.readexactly(4) == b"wait"


# --- what clients are told


@pytest.fixture
async def told() -> AsyncIterator[tuple[Told, Clients]]:
    """Fold the life of one job; the clients were told nothing yet."""
    log = Log()
    for kind in ("created", "active", "progress", "failed", "retry", "active", "completed"):
        log.tell(kind, JOB)
    log.tell("active", JOB)
    model = Model(len(log.records))
    told = Told(model)
    for partition, records in log.records.items():
        for one in records:
            result = model.take(partition, one.offset, one.timestamp, one.key, one.value)
            told.take(partition, one.offset, result)
    async with aiohttp.ClientSession() as session:
        yield told, Clients(session, ["http://127.0.0.1:1"], {}, len(log.records))


@pytest.mark.parametrize(
    ("offsets", "wrong"),
    [
        ((0, 1, 2, 3, 4, 5, 6), {}),
        ((0, 1, 2, 4, 5, 6), {"feed-gap": 1}),
        ((0, 1, 2, 3, 4, 5), {"feed-gap": 1}),
        # It changed nothing.
        ((0, 1, 2, 3, 4, 5, 6, 7), {"feed-wrong": 1}),
    ],
)
def test_a_gap_in_the_feed_is_seen(
    told: tuple[Told, Clients], offsets: tuple[int, ...], wrong: dict[str, int]
) -> None:
    fold, clients = told
    (partition,) = [p for p, at in fold.ends().items() if at]
    listener = Listener(clients, 0, None)
    listener.begin = {partition: 0}
    listener.last_id = f"{partition}:8.0a1b2c3d"
    listener.told = {partition: array("q", offsets)}
    report = Report()
    fold.check_feed(clients, report)
    assert report.feed == wrong
    assert report.ok is not bool(wrong)


async def test_a_repeat_in_the_feed_is_seen(told: tuple[Told, Clients]) -> None:
    _, clients = told
    listener = Listener(clients, 0, None)
    block = b'id: 3:%d.0a1b2c3d\nevent: job.active\ndata: {"partition":3,"offset":%d,"job":{}}'
    for offset in (4, 5, 5):
        listener._take(block % (offset + 1, offset))
    assert listener.position() == {3: 6}
    assert clients.faults == {"feed-repeat": 1}


@pytest.mark.parametrize(
    ("seen", "back"),
    [
        ([("created", 0), ("active", 0), ("failed", 0), ("active", 0), ("completed", 0)], 0),
        # Once more active, once more failed: there was no second failure.
        ([("failed", 0), ("active", 0), ("failed", 0)], 1),
        ([("completed", 0), ("active", 0)], 1),
        # The answer said that it holds more.
        ([("created", 1)], 0),
        ([("created", 2)], 1),
        ([("expired", 0)], 1),
    ],
)
def test_a_state_that_goes_back_is_seen(
    told: tuple[Told, Clients], seen: list[tuple[str, int]], back: int
) -> None:
    fold, clients = told
    clients.seen += [Seen("somebody", JOB, state, least) for state, least in seen]
    report = Report()
    fold.check_seen(clients, report)
    assert report.seen["seen-back"] == back
