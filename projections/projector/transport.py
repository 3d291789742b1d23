"""Faust by the record batch.

Stock Faust handles one event at a time, at about 120 microseconds each before any work is done.
Here the unit is what one fetch brought, of all partitions: one Faust message, whose value is all of
those records. It goes by the name of one of the partitions and the offset of its last record; all
are acknowledged with it. Faust keeps what it is good at: assignment, rebalancing, agents,
supervision.

The position is not Faust's: on assignment the consumer starts from the store's checkpoint, and
the group's committed offset is for monitoring only. Written for faust-streaming 0.15.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError, NoOffsetForPartitionError, OffsetOutOfRangeError
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, ConsumerMessage, Message

from jobtrail.log.clients import keep_topics
from jobtrail.log.consumers import Group, InGroups

logger = logging.getLogger(__name__)


#: Records behind the last one that was fetched: Kafka counts some that are never delivered.
FAR_BEHIND: Final = 1_000


class Fetched(NamedTuple):
    """What one fetch brought."""

    groups: Sequence[tuple[TP, Group]]
    #: Whether others follow at once, of any partition.
    more: bool

    def each(self) -> Iterator[tuple[int, Group, bool]]:
        """Yield a partition, a group of it, and whether others follow."""
        left = len(self.groups)
        for tp, group in self.groups:
            left -= 1
            yield tp.partition, group, self.more or left > 0

    def ends(self) -> dict[TP, int]:
        """Return the offset of each partition's last record."""
        return {tp: group.next_offset - 1 for tp, group in self.groups}


class Assignments(Protocol):
    """Who knows where each partition starts."""

    async def start_offsets(self, partitions: set[int]) -> dict[int, int]:
        """Return the store's checkpoints of partitions that were just assigned."""

    async def look(self, partitions: set[int]) -> None:
        """Find out where to go on in partitions whose log does not reach to where we are."""


class _NothingRead(dict[TP, int | None]):
    """Faust's memory of what it has read last of each partition: none.

    It drops messages that lie before that, also those that a seek has just asked for again: a
    message that was on its way during the seek moves the memory on behind them. What comes twice
    or out of turn is passed over by the projector, which knows better.
    """

    def __missing__(self, _tp: TP) -> None:
        """Return that nothing was read, and do not keep it."""

    def __setitem__(self, tp: TP, offset: int | None) -> None:
        """Do nothing."""

    def update(self, *_offsets: Any, **_more: Any) -> None:
        """Do nothing."""


class _GroupsThread(driver.AIOKafkaConsumerThread):
    """Has the consumer yield groups of records: see `jobtrail.log.consumers.fetch_groups`."""

    def _create_consumer(self, loop: asyncio.AbstractEventLoop) -> AIOKafkaConsumer:
        consumer = super()._create_consumer(loop)
        keep_topics(consumer._client)
        # Faust passes none of these on.
        consumer._value_deserializer = InGroups(self.app.limits)
        consumer._isolation_level = "read_committed"
        # Nobody but the store knows where to go on: a position is never moved by itself.
        consumer._auto_offset_reset = "none"
        return consumer


class RecordBatchConsumer(driver.Consumer):
    """Yields one message for each fetch, and commits the last one acknowledged."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._read_offset = _NothingRead()

    def _new_consumer_thread(self) -> _GroupsThread:
        return _GroupsThread(self, loop=self.loop, beacon=self.beacon)

    async def seek_to_committed(self) -> Mapping[TP, int]:
        """Seek every assigned partition to the store's checkpoint.

        Faust calls this after each rebalance, last of all, so a seek made anywhere else would be
        overwritten by it.
        """
        assigned = {tp for tp in self.assignment() if tp.topic == self.app.log_topic}
        starts = await self.app.assignments.start_offsets({tp.partition for tp in assigned})
        offsets = {tp: starts[tp.partition] for tp in assigned}
        if offsets:
            await self._thread.seek_wait(offsets)
        return offsets

    async def getmany(
        self,
        timeout: float,  # noqa: ASYNC109 (Faust's own signature)
    ) -> AsyncIterator[tuple[TP, ConsumerMessage]]:
        """Fetch, and yield what came as one message."""
        try:
            records, active = await self._wait_next_records(timeout)
        except OffsetOutOfRangeError as error:
            await self._go_on_elsewhere(error)
            return
        except NoOffsetForPartitionError:
            # The group has committed nothing of it yet, and aiokafka looked before our seek came.
            await self.fetch_again()
            return
        generation = self.app.consumer_generation_id
        if records is None or self.should_stop:
            return
        if not self.flow_active:
            await self.fetch_again()
            return
        groups = [
            (tp, group)
            for tp, some in records.items()
            if active is None or tp in active or tp in self._buffered_partitions
            for group in some
        ]
        if groups:
            tp, last = groups[-1]
            more = self._is_far_behind(tp, last.next_offset)
            yield tp, _as_message(Fetched(groups, more), generation)

    async def _go_on_elsewhere(self, error: OffsetOutOfRangeError) -> None:
        """Go on from the store's checkpoints, once they are such that the log has."""
        partitions = {tp.partition for tp in error.args[0]}
        logger.warning("action=out_of_range partitions=%s", sorted(partitions))
        try:
            await self.app.assignments.look(partitions)
        except (KafkaError, TimeoutError) as failure:
            logger.warning("action=look_given_up %r", failure)
        await self.fetch_again()

    def _is_far_behind(self, tp: TP, offset: int) -> bool:
        """Tell whether so much of a partition is left that its next batch will come at once."""
        highwater = self.highwater(tp) if tp in self.assignment() else None
        return highwater is not None and highwater - offset > FAR_BEHIND

    async def fetch_again(self) -> None:
        """Seek to the checkpoints, unless partitions are revoked meanwhile.

        Then it does not matter: every rebalance ends with a seek of its own.
        """
        try:
            await self.perform_seek()
        except (KafkaError, TimeoutError) as error:
            logger.warning("action=seek_given_up %r", error)

    def on_buffer_full(self, tp: TP) -> None:
        """Do nothing: the agent's bounded queue is the pressure.

        Faust would stop fetching the partition until the queue is empty, which under load it
        never is: other partitions go on and this one waits for the end of the log.
        """

    def on_buffer_drop(self, tp: TP) -> None:
        """Do nothing, as `on_buffer_full` did nothing."""

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        """Do nothing: offsets between the last ones of two batches are no gap."""

    def ack(self, message: Message) -> bool:
        """Acknowledge what one fetch brought."""
        acknowledged: bool = super().ack(message)
        if acknowledged:
            for tp, offset in message.value.ends().items():
                self._acked[tp].append(offset)
        return acknowledged

    def _new_offset(self, tp: TP) -> int | None:
        acked = self._acked[tp]
        if not acked:
            return None
        last: int = max(acked)
        acked.clear()
        self._acked_index[tp].clear()
        return last + 1


def _as_message(fetched: Fetched, generation: int) -> ConsumerMessage:
    tp, last = fetched.groups[-1]
    return ConsumerMessage(
        topic=tp.topic,
        partition=tp.partition,
        offset=last.next_offset - 1,
        timestamp=last.timestamp / 1000,
        timestamp_type=0,
        headers=[],
        key=None,
        value=fetched,
        checksum=None,
        tp=tp,
        generation_id=generation,
    )


class RecordBatchTransport(driver.Transport):
    """Faust's aiokafka transport with the consumer above."""

    Consumer = RecordBatchConsumer
