"""The internals of Faust that the projectors use, each with its reason; nothing else imports them.

Faust has no hook for a consumer that yields whole fetches and begins where a store says. Written
for faust-streaming 0.15; `mode`, its library of services, comes with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final

from faust.transport.drivers import aiokafka as driver
from faust.types import TP, ConsumerMessage, Message

from jobtrail.internals.aiokafka_internals import client_of, keep_topics, read_as
from jobtrail.internals.internal import Internal

__all__ = [
    "TP",
    "ConsumerMessage",
    "ConsumerThread",
    "FetchConsumer",
    "Message",
    "NothingRead",
    "Transport",
    "is_current",
]

#: The distribution whose internals these are.
LIBRARY: Final = "faust-streaming"

_DRIVER: Final = "faust.transport.drivers.aiokafka"
_CONSUMER: Final = f"{_DRIVER}:Consumer"

_FETCHES: Final = "one message is what one fetch brought, of all partitions"
_ACKED: Final = "all partitions of a fetch are acknowledged with its message"
_POSITION: Final = "where to go on is the store's to say, not the group's committed offset"
_PRESSURE: Final = "the agent's bounded queue is the pressure"
_REBALANCE: Final = "nothing is applied that was fetched before a rebalance"

INTERNALS: Final = (
    Internal(f"{_DRIVER}:Transport", _FETCHES),
    Internal(f"{_DRIVER}:Transport.Consumer", _FETCHES),
    Internal("faust.types:ConsumerMessage", _FETCHES),
    Internal("faust.types:Message", _FETCHES),
    Internal("faust.types:TP", _FETCHES),
    Internal(f"{_CONSUMER}._new_consumer_thread", _FETCHES, ("self",)),
    Internal(f"{_DRIVER}:AIOKafkaConsumerThread._create_consumer", _FETCHES, ("self", "loop")),
    Internal(f"{_CONSUMER}.getmany", _FETCHES, ("self", "timeout")),
    Internal(f"{_CONSUMER}._wait_next_records", _FETCHES, ("self", "timeout")),
    Internal(f"{_CONSUMER}._buffered_partitions", _FETCHES),
    Internal(f"{_CONSUMER}._add_gap", _FETCHES, ("self", "tp", "offset_from", "offset_to")),
    Internal(f"{_CONSUMER}.should_stop", _FETCHES),
    Internal(f"{_CONSUMER}.flow_active", _REBALANCE),
    Internal("faust:App.consumer_generation_id", _REBALANCE),
    Internal("faust:App.flow_control", _REBALANCE),
    Internal("mode.utils.queues:FlowControlEvent.is_active", _REBALANCE, ("self",)),
    Internal(f"{_CONSUMER}.ack", _ACKED, ("self", "message")),
    Internal(f"{_CONSUMER}._acked", _ACKED),
    Internal(f"{_CONSUMER}._acked_index", _ACKED),
    Internal(f"{_CONSUMER}._new_offset", _ACKED, ("self", "tp")),
    Internal(f"{_CONSUMER}._read_offset", _POSITION),
    Internal(f"{_CONSUMER}._thread", _POSITION),
    Internal(f"{_DRIVER}:AIOKafkaConsumerThread.seek_wait", _POSITION, ("self", "partitions")),
    Internal(f"{_CONSUMER}.seek_to_committed", _POSITION, ("self",)),
    Internal(f"{_CONSUMER}.perform_seek", _POSITION, ("self",)),
    Internal(f"{_CONSUMER}.assignment", _POSITION, ("self",)),
    Internal(
        f"{_CONSUMER}.highwater", "a store far behind writes larger transactions", ("self", "tp")
    ),
    Internal(f"{_CONSUMER}.on_buffer_full", _PRESSURE, ("self", "tp")),
    Internal(f"{_CONSUMER}.on_buffer_drop", _PRESSURE, ("self", "tp")),
)

#: Faust's aiokafka transport; a class of ours names another consumer.
Transport = driver.Transport


class NothingRead(dict[TP, int | None]):
    """Faust's memory of what it has read last of each partition: none.

    It drops messages that lie before that, also those that a seek has just asked for again: a
    message that was on its way during the seek moves the memory on to after them. What comes twice
    or out of turn is passed over by the projector, which knows better.
    """

    def __missing__(self, _tp: TP) -> None:
        """Return that nothing was read, and do not keep it."""

    def __setitem__(self, tp: TP, offset: int | None) -> None:
        """Do nothing."""

    def update(self, *_offsets: Any, **_more: Any) -> None:
        """Do nothing."""


class ConsumerThread(driver.AIOKafkaConsumerThread):
    """Runs the consumer in a thread; what it yields is for a class of ours to say."""

    def _create_consumer(self, loop: asyncio.AbstractEventLoop) -> Any:
        consumer = super()._create_consumer(loop)
        keep_topics(client_of(consumer))
        # Faust passes none of these on. Nobody but the store knows where to go on: a position is
        # never moved by itself.
        read_as(
            consumer, deserializer=self.deserializer(), isolation="read_committed", reset="none"
        )
        return consumer

    def deserializer(self) -> Any:
        """Return the consumer's `value_deserializer`."""
        raise AssertionError("a class of ours says it")


class FetchConsumer(driver.Consumer):
    """A consumer without what Faust does for each message between two fetches.

    A class of ours yields the messages, each with a value whose `ends()` says the offset of the
    last record of each of its partitions.
    """

    #: Makes the thread that the consumer runs in.
    Thread: type[ConsumerThread] = ConsumerThread

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._read_offset = NothingRead()

    def _new_consumer_thread(self) -> ConsumerThread:
        return self.Thread(self, loop=self.loop, beacon=self.beacon)

    async def seek_all(self, offsets: Mapping[TP, int]) -> None:
        """Go on elsewhere, and return once that is so.

        Args:
            offsets: The next offset of each partition.
        """
        await self._thread.seek_wait(offsets)

    async def fetch(self, seconds: float) -> Sequence[tuple[TP, Any]] | None:
        """Fetch once.

        Args:
            seconds: How long to wait for records.

        Returns:
            What came of which partition, in order; None where nothing is to be done with it, since
            the consumer stops or was stopped by a rebalance.

        Raises:
            OffsetOutOfRangeError: The log does not have the offset at which a partition goes on.
            NoOffsetForPartitionError: No such offset was said yet.
        """
        records, active = await self._wait_next_records(seconds)
        if records is None or self.should_stop:
            return None
        return [
            (tp, one)
            for tp, some in records.items()
            if active is None or tp in active or tp in self._buffered_partitions
            for one in some
        ]

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


def is_current(app: Any, generation: int) -> bool:
    """Tell whether no rebalance has begun since: what Faust asks before it hands on a message.

    Args:
        app: The Faust app.
        generation: Of the group, as of the fetch.
    """
    return bool(app.flow_control.is_active() and app.consumer_generation_id == generation)
