"""Who goes away in the middle of something leaves nothing half made for those who come after."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import ConsumerStoppedError

from jobtrail.core.errors import LogUnavailable
from jobtrail.log.consumers import Group
from jobtrail.produce.delivery import Delivery
from jobtrail.settings import Settings
from projections.ports.meter import Meter
from projections.sqlite.read.reader import SqliteReader
from services.api.access.cached_keys import ApiKeys
from services.api.limits.limits import Timeouts
from services.api.live.bodies import Bodies
from services.api.live.buffer import Buffer
from services.api.live.log_verifier import LogVerifier
from services.api.problems.problems import BUSY, LOG_UNAVAILABLE, Problem
from services.api.store import Store
from tests.contract.api_service import Record
from tests.groups import group_of


class Mute:
    """A server that takes connections and never says anything."""

    def __init__(self) -> None:
        self.address = ""
        self.open = 0
        self.arrived = asyncio.Event()

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        self.arrived.set()
        with contextlib.suppress(OSError):
            while await reader.read(1 << 16):
                pass
        self.open -= 1
        writer.close()


@pytest.fixture
async def mute() -> AsyncIterator[Mute]:
    mute = Mute()
    server = await asyncio.start_server(mute.take, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()[:2]
    mute.address = f"{host}:{port}"
    yield mute
    server.close()


def verifier() -> LogVerifier:
    """Return one to whom nothing has happened."""
    return LogVerifier("log", {}, Buffer(1 << 20), Timeouts())


async def test_a_history_that_is_left_in_the_middle_leaves_no_half_started_consumer(
    mute: Mute,
) -> None:
    kafka = {"bootstrap_servers": mute.address, "request_timeout_ms": 500}
    bodies = Bodies("log", kafka, verifier())
    for _ in range(3):
        mute.arrived.clear()
        reading = asyncio.create_task(bodies.read(0, {1: b"j"}))
        await mute.arrived.wait()
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
    # Those who come after are told the truth, not of a mistake.
    with pytest.raises(Problem) as told:
        await bodies.read(0, {1: b"j"})
    assert told.value.kind is LOG_UNAVAILABLE
    with pytest.raises(Problem) as told:
        await bodies.scan(0, 0, 1)
    assert told.value.kind is LOG_UNAVAILABLE
    await bodies.close()
    async with asyncio.timeout(10):
        while mute.open:
            await asyncio.sleep(0)


class Slow:
    """A consumer that finds one record at a time, and takes so long for each."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.at = 0
        self.stopped = False
        #: What it lets out once, in the place of a record.
        self.error: BaseException | None = None

    def assign(self, tps: Sequence[TopicPartition]) -> None:
        (self.tp,) = tps

    def seek(self, _tp: TopicPartition, offset: int) -> None:
        self.at = offset

    def pause(self, _tp: TopicPartition) -> None:
        pass

    async def getmany(self, **_options: object) -> dict[TopicPartition, list[Group]]:
        await asyncio.sleep(self.seconds)
        if self.stopped:
            raise ConsumerStoppedError
        error, self.error = self.error, None
        if error is not None:
            raise error
        record = Record(b"j", b"%d" % self.at, self.at, 0)
        return {self.tp: [group_of([record])]}

    async def stop(self) -> None:
        self.stopped = True


class SlowBodies(Bodies):
    """Reads by such a consumer."""

    def __init__(self, seconds: float) -> None:
        super().__init__("log", {}, verifier(), within=0.5)
        self.made: list[Slow] = []
        self._seconds = seconds

    async def _started(self) -> Slow:
        if self._consumer is None:
            self._consumer = Slow(self._seconds)
            self.made.append(self._consumer)
        consumer: Slow = self._consumer
        return consumer


async def test_who_waits_too_long_for_a_turn_leaves_alone_who_has_it() -> None:
    bodies = SlowBodies(0.3)
    found = await asyncio.gather(
        *(bodies.read(0, {n: b"j"}, f"user-{n}") for n in range(4)), return_exceptions=True
    )
    # The third and the fourth would have had to wait for two others.
    assert found[:2] == [{0: b"0"}, {1: b"1"}]
    for refused in found[2:]:
        assert isinstance(refused, Problem)
        assert refused.kind is BUSY
    assert len(bodies.made) == 1
    assert await bodies.read(0, {9: b"j"}) == {9: b"9"}
    await bodies.close()


async def test_a_cancellation_of_aiokafkas_own_is_a_log_that_did_not_answer() -> None:
    bodies = SlowBodies(0)
    assert await bodies.read(0, {0: b"j"}) == {0: b"0"}
    bodies.made[0].error = asyncio.CancelledError()
    with pytest.raises(Problem) as told:
        await bodies.scan(0, 1, 2)
    assert told.value.kind is LOG_UNAVAILABLE
    assert (await bodies.scan(0, 1, 2)).reached == 2
    assert len(bodies.made) == 2
    await bodies.close()


async def test_a_record_with_another_key_is_none_of_those_that_are_asked_for() -> None:
    """Another log than the one that was folded may have another job's event there."""
    bodies = SlowBodies(0)
    assert await bodies.read(0, {0: b"j"}) == {0: b"0"}
    assert await bodies.read(0, {5: b"other"}) == {}
    await bodies.close()


class Cancelled(LogVerifier):
    """Is cancelled from within at its first look, as a client of Kafka may let it out."""

    def __init__(self) -> None:
        super().__init__("log", {}, Buffer(1 << 20), Timeouts(reconnect=0))
        self.looks = 0
        self.looks_again = asyncio.Event()

    async def _watch(self, store: Store) -> None:
        self.looks += 1
        if self.looks == 1:
            raise asyncio.CancelledError
        self.looks_again.set()
        await asyncio.Event().wait()


async def test_a_cancellation_of_aiokafkas_own_does_not_end_the_verifier(tmp_path: Path) -> None:
    watching = Cancelled()
    meter = Meter(1, rows=1, audiences=1, every=1)
    store = Store(lambda: SqliteReader(tmp_path), lambda held: held, meter)
    task = asyncio.create_task(watching.run(store))
    async with asyncio.timeout(10):
        await watching.looks_again.wait()
    # One from without does.
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert watching.looks == 2


async def test_a_write_that_is_left_in_the_middle_leaves_no_producer(mute: Mute) -> None:
    settings = Settings(bootstrap_servers=mute.address)
    delivery = Delivery(settings, within=0.5)
    sending = asyncio.create_task(delivery.send("j", b"{}"))
    await mute.arrived.wait()
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    with pytest.raises(LogUnavailable):
        await delivery.send("j", b"{}")
    await delivery.close()
    async with asyncio.timeout(10):
        while mute.open:
            await asyncio.sleep(0)


async def test_a_sender_is_told_when_the_producer_is_closed(mute: Mute) -> None:
    delivery = Delivery(Settings(bootstrap_servers=mute.address), within=30)
    sending = asyncio.create_task(delivery.send("j", b"{}"))
    await mute.arrived.wait()
    await delivery.close()
    with pytest.raises(LogUnavailable):
        await sending


def test_keys_that_could_not_be_read_are_read_again(tmp_path: Path) -> None:
    """Or a key that was revoked would be good until the next change."""
    path = tmp_path / "keys.json"
    keys = ApiKeys(path, interval=0)
    path.mkdir()
    assert not keys.has("k")
    version = keys._version
    assert not keys.has("k")
    assert keys._version == version
    path.rmdir()
    assert not keys.has("k")
