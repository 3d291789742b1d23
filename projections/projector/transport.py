"""Faust by the record batch.

Stock Faust handles one event at a time, at about 120 microseconds each before any work is done.
Here the unit is a fetch, of all partitions: one Faust message, whose value is all of its records.
The message has the name of one of the partitions and the offset of its last record; all are
acknowledged with it. Faust does the rest: assignment, rebalancing, agents, supervision.

The position is not Faust's: on assignment the consumer starts from the store's checkpoint, and
the group's committed offset is for monitoring only. Written for faust-streaming 0.15.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from aiokafka.errors import KafkaError, NoOffsetForPartitionError, OffsetOutOfRangeError

from jobtrail.log.consumers import Group, InGroups
from projections.internals.faust_internals import (
    TP,
    ConsumerMessage,
    ConsumerThread,
    FetchConsumer,
    Transport,
)

logger = logging.getLogger(__name__)


#: A lag of more records counts as far behind: Kafka counts some records that are never delivered.
FAR_BEHIND: Final = 1_000


class Fetched(NamedTuple):
    """The records of one fetch."""

    groups: Sequence[tuple[TP, Group]]
    #: Whether more records follow at once, of any partition.
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


class _GroupsThread(ConsumerThread):
    """Has the consumer yield groups of records: see `jobtrail.log.consumers.fetch_groups`."""

    def deserializer(self) -> InGroups:
        return InGroups(self.app.limits)


class RecordBatchConsumer(FetchConsumer):
    """Yields one message for each fetch, and commits the last one acknowledged."""

    Thread = _GroupsThread

    async def seek_to_committed(self) -> Mapping[TP, int]:
        """Seek every assigned partition to the store's checkpoint.

        Faust calls this after each rebalance, last of all, so a seek made anywhere else would be
        overwritten by it.
        """
        assigned = {tp for tp in self.assignment() if tp.topic == self.app.log_topic}
        starts = await self.app.assignments.start_offsets({tp.partition for tp in assigned})
        offsets = {tp: starts[tp.partition] for tp in assigned}
        if offsets:
            await self.seek_all(offsets)
        return offsets

    async def getmany(
        self,
        timeout: float,  # noqa: ASYNC109 (Faust's own signature)
    ) -> AsyncIterator[tuple[TP, ConsumerMessage]]:
        """Fetch, and yield the records as one message."""
        try:
            groups = await self.fetch(timeout)
        except OffsetOutOfRangeError as error:
            await self._go_on_elsewhere(error)
            return
        except NoOffsetForPartitionError:
            # The group has committed nothing of it yet, and aiokafka looked before our seek came.
            await self.fetch_again()
            return
        generation = self.app.consumer_generation_id
        if groups is None:
            return
        if not self.flow_active:
            await self.fetch_again()
            return
        if groups:
            tp, last = groups[-1]
            more = self._is_far_behind(tp, last.next_offset)
            yield tp, _as_message(Fetched(groups, more), generation)

    async def _go_on_elsewhere(self, error: OffsetOutOfRangeError) -> None:
        """Go on from the store's checkpoints, after they were moved to offsets that the log has."""
        partitions = {tp.partition for tp in error.args[0]}
        logger.warning("action=out_of_range partitions=%s", sorted(partitions))
        try:
            await self.app.assignments.look(partitions)
        except (KafkaError, TimeoutError) as failure:
            logger.warning("action=look_given_up %r", failure)
        await self.fetch_again()

    def _is_far_behind(self, tp: TP, offset: int) -> bool:
        """Tell whether the lag of a partition is so large that its next batch will come at once."""
        highwater = self.highwater(tp) if tp in self.assignment() else None
        return highwater is not None and highwater - offset > FAR_BEHIND

    async def fetch_again(self) -> None:
        """Seek to the checkpoints, unless partitions are revoked in the meantime.

        In that case the seek is not needed: every rebalance ends with one.
        """
        try:
            await self.perform_seek()
        except (KafkaError, TimeoutError) as error:
            logger.warning("action=seek_given_up %r", error)


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


class RecordBatchTransport(Transport):
    """Faust's aiokafka transport with the consumer above."""

    Consumer = RecordBatchConsumer
