"""Delivering records to the log: idempotent, acknowledged by all replicas, in bounded time.

Delivery resumes by itself once Kafka is back. aiokafka's producer needs guards for that.

Without a broker its sends may never return (aiokafka #1101), so every record has its own deadline.
A batch that expired or was refused burns a sequence number and leaves its partition broken for good
(aiokafka #1017), so the first record that fails ends the producer, and the next one makes another.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Final, NamedTuple

from aiokafka.errors import KafkaError, UnknownTopicOrPartitionError

from jobtrail.core.errors import LogUnavailable
from jobtrail.core.events import MAX_EVENT_BYTES
from jobtrail.core.partitions import partition_of
from jobtrail.log.clients import TOPIC_WITHIN, Producer, missing_topic, partitions_of
from jobtrail.log.kafka import kafka_security, stop_client
from jobtrail.settings import Settings

#: The most records in flight: at 330 bytes each about 10 MiB with their futures. A larger record
#: counts as several, so that all of them together take 80 MiB at most.
MAX_UNDER_WAY: Final = 10_000
_PLACE: Final = 8 * 1024
_BATCH_BYTES: Final = 256 * 1024
#: Seconds that a batch waits for more records, and after which a partition counts as quiet.
_LINGER: Final = 0.005
_QUIET: Final = 0.05
#: Seconds between two attempts to connect, and between two checks of the oldest deadline.
_CONNECT_PAUSE: Final = 0.25
_LOOK: Final = 0.25


class Delivered(NamedTuple):
    """Where a record went."""

    partition: int
    offset: int


class _PendingRecord(NamedTuple):
    """A record in flight."""

    delivered: asyncio.Future[Delivered]
    deadline: float
    #: The capacity that it takes.
    places: int


#: Called with each batch that is sent: its producer, its records, and its future.
_OnBatch = Callable[[Any, list[_PendingRecord], "asyncio.Future[Any]"], None]


class _CapacityQueue:
    """The capacity for records in flight, granted in the order of the requests.

    `asyncio.Semaphore` does that too, but searches all waiters for each one that times out; here
    the first waiter is also the first to time out.
    """

    def __init__(self, places: int) -> None:
        self._free = places
        self._waiting: deque[tuple[float, int, asyncio.Future[None]]] = deque()

    async def acquire(self, places: int, deadline: float) -> None:
        """Take places; TimeoutError where they are not free by a deadline on the loop's clock."""
        if self._free >= places and not self._waiting:
            self._free -= places
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((deadline, places, future))
        try:
            await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                self.release(places)
            raise

    def release(self, places: int) -> None:
        """Return places, to those that have waited longest."""
        self._free += places
        while self._waiting:
            _deadline, wanted, future = self._waiting[0]
            if not future.done():
                if wanted > self._free:
                    return
                self._free -= wanted
                future.set_result(None)
            self._waiting.popleft()

    def expire(self, now: float) -> None:
        """Time out the waiters whose deadline has passed."""
        while self._waiting and (self._waiting[0][0] <= now or self._waiting[0][2].done()):
            future = self._waiting.popleft()[2]
            if not future.done():
                future.set_exception(TimeoutError())


class _PartitionBatcher:
    """Gathers the records of one partition into batches and sends them one after the other.

    aiokafka would do that record by record, at three times the cost of each. A batch goes when it
    is full, or has waited its time; the first one after a quiet time goes at once.

    Args:
        producer: Of aiokafka.
        topic: Where to.
        partition: Which.
        done: Called with every batch: the producer, its records, and its future.
    """

    def __init__(self, producer: Any, topic: str, partition: int, done: _OnBatch) -> None:
        self._producer = producer
        self._topic = topic
        self._partition = partition
        self._done = done
        self._loop = asyncio.get_running_loop()
        self._builder: Any = None
        self._records: list[_PendingRecord] = []
        self._full: deque[tuple[Any, list[_PendingRecord]]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._sending: asyncio.Task[None] | None = None
        self._quiet_since = 0.0

    def add(self, key: bytes, value: bytes, record: _PendingRecord) -> None:
        """Add a record to the open batch."""
        if self._builder is not None:
            if self._builder.append(timestamp=None, key=key, value=value) is not None:
                self._records.append(record)
                return
            self._dispatch()
        self._builder = self._producer.create_batch()
        self._builder.append(timestamp=None, key=key, value=value)
        self._records.append(record)
        quiet = self._sending is None and self._loop.time() - self._quiet_since > _QUIET
        self._timer = self._loop.call_later(0 if quiet else _LINGER, self._dispatch)

    def _dispatch(self) -> None:
        """Send the open batch after those that are waiting."""
        if self._timer is not None:
            self._timer.cancel()
        self._full.append((self._builder, self._records))
        self._builder, self._records, self._timer = None, [], None
        if self._sending is None:
            self._sending = self._loop.create_task(self._send_all())

    async def _send_all(self) -> None:
        try:
            while self._full:
                builder, records = self._full.popleft()
                try:
                    # Waits until the one before it was sent.
                    sent = await self._producer.send_batch(
                        builder, self._topic, partition=self._partition
                    )
                except Exception as error:
                    # Any error means that the batch was not sent.
                    sent = self._loop.create_future()
                    sent.set_exception(error)
                sent.add_done_callback(partial(self._done, self._producer, records))
        finally:
            self._quiet_since = self._loop.time()
            self._sending = None

    def close(self) -> None:
        """Send nothing more."""
        if self._timer is not None:
            self._timer.cancel()
        if self._sending is not None:
            self._sending.cancel()


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
        self._capacity = _CapacityQueue(MAX_UNDER_WAY)
        self._under_way: deque[_PendingRecord] = deque()
        self._producer: Any = None
        self._lanes: list[_PartitionBatcher] = []
        self._connecting: asyncio.Task[None] | None = None
        #: Whether the cluster answered last that it has no such topic.
        self._is_missing = False
        self._looking: asyncio.Task[None] | None = None
        self._stopping: set[asyncio.Task[None]] = set()

    async def open(self, within: float | None = None) -> None:
        """Connect, so that the first record does not wait for it.

        Args:
            within: Timeout in seconds; None: that of a record.

        Raises:
            LogUnavailable: Kafka did not answer in time.
        """
        try:
            async with asyncio.timeout(self._within if within is None else within):
                await self._connected()
        except TimeoutError:
            raise self.not_sent("Kafka did not answer in time.") from None

    async def close(self) -> None:
        """Disconnect. Records in flight are given up: they may or may not arrive."""
        for task in (self._connecting, self._looking):
            if task is not None:
                task.cancel()
                await asyncio.wait([task])
        self._connecting = self._looking = None
        self._break("the producer was closed")
        if self._stopping:
            await asyncio.wait(self._stopping)

    async def send(self, job_id: str, value: bytes) -> asyncio.Future[Delivered]:
        """Send one record; waits only while too many are in flight.

        Args:
            job_id: The record's key.
            value: Its value.

        Returns:
            Where it went, once Kafka has it. It fails with LogUnavailable; don't cancel it.

        Raises:
            LogUnavailable: There was no capacity or no connection in time: it was not sent.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._within
        self._watch()
        try:
            places = 1 + len(value) // _PLACE
            await self._capacity.acquire(places, deadline)
            try:
                if self._producer is None:
                    async with asyncio.timeout_at(deadline):
                        await self._connected()
                record = _PendingRecord(loop.create_future(), deadline, places)
                lane = self._lanes[partition_of(job_id, len(self._lanes))]
                lane.add(job_id.encode(), value, record)
            except BaseException:
                self._capacity.release(places)
                raise
        except TimeoutError:
            raise self.not_sent("Kafka did not take the event in time.") from None
        self._under_way.append(record)
        return record.delivered

    async def settle(self) -> None:
        """Wait until nothing is in flight: every record is acknowledged or has failed."""
        waiting = [r.delivered for r in self._under_way if not r.delivered.done()]
        if waiting:
            await asyncio.wait(waiting)

    def _done(
        self,
        producer: Any,
        records: list[_PendingRecord],
        sent: asyncio.Future[Any],
    ) -> None:
        """Resolve the futures of a batch's records."""
        error = None if sent.cancelled() else sent.exception()
        if sent.cancelled() or error is not None:
            self._break(repr(error or "cancelled"), producer)
            return
        batch = sent.result()
        for offset, record in enumerate(records, batch.offset):
            # A record that was given up before has failed already, with an unknown outcome.
            if not record.delivered.done():
                self._capacity.release(record.places)
                record.delivered.set_result(Delivered(batch.partition, offset))
        while self._under_way and self._under_way[0].delivered.done():
            self._under_way.popleft()

    async def _connected(self) -> None:
        """Wait for a producer that is connected, however long that takes."""
        while self._producer is None:
            if self._connecting is None or self._connecting.done():
                self._connecting = asyncio.create_task(self._connect())
            connecting = self._connecting
            await asyncio.wait([connecting])
            if connecting.cancelled():
                raise self.not_sent("The producer was closed.")
            if (error := connecting.exception()) is not None:
                raise error

    async def _connect(self) -> None:
        while True:
            producer = Producer(
                bootstrap_servers=self._settings.bootstrap_servers,
                acks="all",
                enable_idempotence=True,
                max_batch_size=_BATCH_BYTES,
                max_request_size=max(2 * MAX_EVENT_BYTES, _BATCH_BYTES),
                request_timeout_ms=int(self._within * 1000),
                **kafka_security(self._settings),
            )
            try:
                async with asyncio.timeout(self._within):
                    await producer.start()
                    # It may be being made.
                    partitions = await partitions_of(
                        producer.client, self._topic, min(self._within / 3, TOPIC_WITHIN)
                    )
                break
            except (KafkaError, OSError, TimeoutError) as error:
                self._is_missing = isinstance(error, UnknownTopicOrPartitionError)
                await stop_client(producer)
            except BaseException:
                # Nothing would stop it later.
                await stop_client(producer)
                raise
            # A broker that restarts is back within seconds.
            await asyncio.sleep(_CONNECT_PAUSE)
        self._lanes = [
            _PartitionBatcher(producer, self._topic, partition, self._done)
            for partition in range(len(partitions))
        ]
        self._producer = producer

    def _watch(self) -> None:
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look_at_deadlines())

    async def _look_at_deadlines(self) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(_LOOK)
            self._capacity.expire(clock())
            while self._under_way and self._under_way[0].delivered.done():
                self._under_way.popleft()
            if self._under_way and clock() >= self._under_way[0].deadline:
                self._break(f"no acknowledgement within {self._within:.0f} s")

    def _break(self, why: str, producer: Any = None) -> None:
        """Give up a producer and its records in flight; the next record makes another producer.

        Args:
            why: The error text for the records.
            producer: Which; no effect for one that was given up already. None for the current.
        """
        if self._producer is None or (producer is not None and producer is not self._producer):
            return
        broken, self._producer = self._producer, None
        for lane in self._lanes:
            lane.close()
        for record in self._under_way:
            if not record.delivered.done():
                self._capacity.release(record.places)
                _fail(record.delivered, self._unknown(why))
        self._under_way.clear()
        stopping = asyncio.create_task(stop_client(broken))
        self._stopping.add(stopping)
        stopping.add_done_callback(self._stopping.discard)

    def _unknown(self, found: str) -> LogUnavailable:
        return LogUnavailable(
            "Kafka did not acknowledge in time; the event may or may not be in the log.",
            outcome_unknown=True,
            where=f"{self._settings.bootstrap_servers}, topic {self._topic}",
            found=found,
            hint="Send it again: an event that is there already changes nothing.",
        )

    def not_sent(self, found: str) -> LogUnavailable:
        """Return the error for a record that was not handed over."""
        if self._producer is None and self._is_missing:
            return missing_topic(self._topic, self._settings.bootstrap_servers)
        return LogUnavailable(
            "Kafka can't be reached; the event was not sent.",
            outcome_unknown=False,
            where=f"{self._settings.bootstrap_servers}, topic {self._topic}",
            found=found,
            hint="Send it again when Kafka is back.",
        )


def _fail(future: asyncio.Future[Delivered], error: LogUnavailable) -> None:
    future.set_exception(error)
    # Marks the exception as retrieved: asyncio would log it where nobody awaits the future.
    future.exception()
