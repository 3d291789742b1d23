"""Delivering records to the log: idempotent, acknowledged by all replicas, in bounded time.

It works again by itself once Kafka does. aiokafka's producer needs guards for that.
Without a broker its sends may never return (aiokafka #1101), so every record has a deadline of our
own. A batch that expired or was refused burns a sequence number and leaves its partition broken for
good (aiokafka #1017), so the first record that fails ends the producer, and the next one makes
another.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, Final, NamedTuple

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from jobtrail.errors import LogUnavailable
from jobtrail.events import MAX_EVENT_BYTES
from jobtrail.kafka import kafka_security, stop_client
from jobtrail.partitions import partition_of
from jobtrail.settings import Settings

#: Records under way at a time: at 330 bytes about 10 MiB together with their futures.
MAX_UNDER_WAY: Final = 10_000
_BATCH_BYTES: Final = 256 * 1024
_LINGER_MS: Final = 5
#: Seconds between two attempts to connect, and between two looks at the oldest record's deadline.
_CONNECT_PAUSE: Final = 0.25
_LOOK: Final = 0.25


class Delivered(NamedTuple):
    """Where a record went."""

    partition: int
    offset: int


class _Pending(NamedTuple):
    future: asyncio.Future[Delivered]
    deadline: float


class _Room:
    """Room for so many records, given in the order in which it was asked for.

    A semaphore would do the same, but looks through all that wait for each that gives up; here the
    one that asked first also gives up first.
    """

    def __init__(self, places: int) -> None:
        self._free = places
        self._waiting: deque[tuple[float, asyncio.Future[None]]] = deque()

    async def take(self, deadline: float) -> None:
        """Take a place; TimeoutError where none is free by a time of the loop's clock."""
        if self._free and not self._waiting:
            self._free -= 1
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((deadline, future))
        try:
            await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                self.give_back()
            raise

    def give_back(self) -> None:
        """Give a place to whoever waits first."""
        while self._waiting:
            _deadline, future = self._waiting.popleft()
            if not future.done():
                future.set_result(None)
                return
        self._free += 1

    def expire(self, now: float) -> None:
        """Let those give up whose time is over."""
        while self._waiting and (self._waiting[0][0] <= now or self._waiting[0][1].done()):
            _deadline, future = self._waiting.popleft()
            if not future.done():
                future.set_exception(TimeoutError())


class Delivery:
    """Sends records to one topic.

    Args:
        settings: Which Kafka, which topic.
        within: Seconds after which a record is given up.
    """

    def __init__(self, settings: Settings, within: float) -> None:
        self._settings = settings
        self._topic = settings.topic
        self._within = within
        self._room = _Room(MAX_UNDER_WAY)
        self._pending: deque[_Pending] = deque()
        self._producer: Any = None
        self._partitions = 0
        self._connecting: asyncio.Task[None] | None = None
        self._looking: asyncio.Task[None] | None = None
        self._stopping: set[asyncio.Task[None]] = set()

    @property
    def under_way(self) -> int:
        """How many records are not acknowledged and not given up."""
        return sum(not pending.future.done() for pending in self._pending)

    async def open(self, within: float | None = None) -> None:
        """Connect, so that the first record need not.

        Args:
            within: Seconds for that; None for those of a record.

        Raises:
            LogUnavailable: Kafka did not answer in time.
        """
        try:
            async with asyncio.timeout(self._within if within is None else within):
                await self._connected()
        except TimeoutError:
            raise self._not_sent("Kafka did not answer in time.") from None

    async def close(self) -> None:
        """Let go of Kafka. What is under way is given up: it may or may not arrive."""
        for task in (self._connecting, self._looking):
            if task is not None:
                task.cancel()
                await asyncio.wait([task])
        self._connecting = self._looking = None
        self._break("the producer was closed")
        if self._stopping:
            await asyncio.wait(self._stopping)

    async def send(self, job_id: str, value: bytes) -> asyncio.Future[Delivered]:
        """Hand over one record; waits only while too many are under way.

        Args:
            job_id: The record's key.
            value: Its value.

        Returns:
            Where it went, once Kafka has it. It fails with LogUnavailable; don't cancel it.

        Raises:
            LogUnavailable: There was no room or no connection in time: it was not sent.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._within
        self._watch()
        try:
            await self._room.take(deadline)
            try:
                async with asyncio.timeout_at(deadline):
                    producer = self._producer
                    if producer is None:
                        producer = await self._connected()
                    sent = await producer.send(
                        self._topic,
                        key=job_id.encode(),
                        value=value,
                        partition=partition_of(job_id, self._partitions),
                    )
            except BaseException:
                self._room.give_back()
                raise
        except TimeoutError:
            raise self._not_sent("Kafka did not take the event in time.") from None
        except KafkaError as error:
            self._break(repr(error), producer)
            raise self._not_sent(repr(error)) from None
        future: asyncio.Future[Delivered] = loop.create_future()
        self._pending.append(_Pending(future, deadline))
        sent.add_done_callback(lambda done: self._done(producer, done, future))
        return future

    async def settle(self) -> None:
        """Wait until nothing is under way: all of it is acknowledged or has failed."""
        waiting = [pending.future for pending in self._pending if not pending.future.done()]
        if waiting:
            await asyncio.wait(waiting)

    def _done(
        self, producer: Any, sent: asyncio.Future[Any], future: asyncio.Future[Delivered]
    ) -> None:
        error = None if sent.cancelled() else sent.exception()
        if future.done():
            # Given up before: it was said that nobody knows.
            return
        self._room.give_back()
        if sent.cancelled() or error is not None:
            _fail(future, self._unknown(repr(error or "cancelled")))
            self._break(repr(error), producer)
        else:
            record = sent.result()
            future.set_result(Delivered(record.partition, record.offset))
            while self._pending and self._pending[0].future.done():
                self._pending.popleft()

    async def _connected(self) -> Any:
        """Return a producer that is connected, however long that takes."""
        while self._producer is None:
            if self._connecting is None or self._connecting.done():
                self._connecting = asyncio.create_task(self._connect())
            await asyncio.wait([self._connecting])
            if (error := self._connecting.exception()) is not None:
                raise error
        return self._producer

    async def _connect(self) -> None:
        while True:
            producer = AIOKafkaProducer(
                bootstrap_servers=self._settings.bootstrap_servers,
                acks="all",
                enable_idempotence=True,
                linger_ms=_LINGER_MS,
                max_batch_size=_BATCH_BYTES,
                max_request_size=max(2 * MAX_EVENT_BYTES, _BATCH_BYTES),
                request_timeout_ms=int(self._within * 1000),
                **kafka_security(self._settings),
            )
            try:
                async with asyncio.timeout(self._within):
                    await producer.start()
                    self._partitions = len(await producer.partitions_for(self._topic))
                break
            except (KafkaError, TimeoutError):
                await stop_client(producer)
            # A broker that is being started anew is there in seconds.
            await asyncio.sleep(_CONNECT_PAUSE)
        self._producer = producer

    def _watch(self) -> None:
        if self._looking is None:
            self._looking = asyncio.create_task(self._look_at_deadlines())

    async def _look_at_deadlines(self) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(_LOOK)
            self._room.expire(clock())
            while self._pending and self._pending[0].future.done():
                self._pending.popleft()
            if self._pending and clock() >= self._pending[0].deadline:
                self._break(f"no acknowledgement within {self._within:.0f} s")

    def _break(self, why: str, producer: Any = None) -> None:
        """Give up a producer and all that it has under way; the next record makes another.

        Args:
            why: What is said of the records.
            producer: Which; one that is given up already changes nothing. None for the current.
        """
        if self._producer is None or (producer is not None and producer is not self._producer):
            return
        broken, self._producer = self._producer, None
        for pending in self._pending:
            if not pending.future.done():
                self._room.give_back()
                _fail(pending.future, self._unknown(why))
        self._pending.clear()
        stopping = asyncio.create_task(stop_client(broken))
        self._stopping.add(stopping)
        stopping.add_done_callback(self._stopping.discard)

    def _unknown(self, found: str) -> LogUnavailable:
        return LogUnavailable(
            "Kafka did not acknowledge in time; the event may or may not be in the log.",
            outcome_unknown=True,
            where=f"{self._settings.bootstrap_servers}, topic {self._topic}",
            found=found,
            mend="Send it again: an event that is there already changes nothing.",
        )

    def _not_sent(self, found: str) -> LogUnavailable:
        return LogUnavailable(
            "Kafka can't be reached; the event was not sent.",
            outcome_unknown=False,
            where=f"{self._settings.bootstrap_servers}, topic {self._topic}",
            found=found,
            mend="Send it again when Kafka is back.",
        )


def _fail(future: asyncio.Future[Delivered], error: LogUnavailable) -> None:
    future.set_exception(error)
    # Who has given up on it need not be told by asyncio.
    future.exception()
