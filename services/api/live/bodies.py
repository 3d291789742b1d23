"""Reads events from the log by their offsets: a job's trail has only these."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from bisect import bisect_left
from collections.abc import AsyncIterator, Mapping, Sequence
from operator import attrgetter
from typing import Any, Final, NamedTuple, NoReturn

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError, OffsetOutOfRangeError

from jobtrail.core.position import mark_of
from jobtrail.log.consumers import BREAKS, Group, group_reader
from jobtrail.log.kafka import stop_client
from services.api.limits.overload import busy
from services.api.limits.turns import FairQueue
from services.api.live.buffer import Record
from services.api.live.log_verifier import LogVerifier, is_own_cancellation
from services.api.problems.problems import log_unavailable, position_gone

logger = logging.getLogger(__name__)

#: Events of one job that are fewer offsets apart than this are read without a seek between them.
_READ_ON: Final = 2_000
#: Events that are read in one turn of a caller.
_IN_A_TURN: Final = 100
#: Reads that may wait for their turn: at most one of each request.
_WAITING: Final = 10_000
#: Partly read groups that are cached: so many requests can take turns without fetching again.
_REMAINDERS: Final = 8
_POLL_MS: Final = 1_000
_WITHIN: Final = 10.0
_offset: Final = attrgetter("offset")


class ScannedRecords(NamedTuple):
    """Consecutive records."""

    #: Key and record of those that have a key.
    records: list[tuple[bytes, Record]]
    #: The offset at which the next scan begins.
    reached: int
    #: Offset and mark of the last record before that; None where there was none.
    last: tuple[int, int] | None


class Bodies:
    """Reads records of the log by their offsets, one request at a time; callers take turns.

    Records are returned once it is certain that the log is the one that was folded.

    Args:
        topic: The topic of the log.
        client: Keyword arguments for aiokafka: servers and security.
        verifier: Tells whether the log was replaced.
        within: Seconds until the turn has to come, and until the log has to answer; also the
            seconds for which a partly read group is cached.
    """

    def __init__(
        self,
        topic: str,
        client: Mapping[str, Any],
        verifier: LogVerifier,
        *,
        within: float = _WITHIN,
    ) -> None:
        self._topic = topic
        self._client = client
        self._verifier = verifier
        self._within = within
        self._consumer: Any = None
        self._remainders: list[_Remainder] = []
        #: How many scans fetched from the log.
        self.scans = 0
        self._queue = FairQueue(_WAITING, _WAITING, lambda _own: busy())

    async def read(
        self, partition: int, keys: Mapping[int, bytes], user: str = ""
    ) -> dict[int, bytes | None]:
        """Return the values of records by offset; without those that the log no longer has.

        Args:
            partition: Of the records.
            keys: Their keys by offset, ascending. A record with another key is left out: it is of
                another log than the projections.
            user: Who asks.

        Raises:
            Problem: 503 where the log does not answer in time, or was replaced.
        """
        found: dict[int, bytes | None] = {}
        replacements = self._verifier.replacements
        offsets = list(keys)
        for at in range(0, len(offsets), _IN_A_TURN):
            async with self._turn(user):
                found |= await self._read(partition, offsets[at : at + _IN_A_TURN], keys)
        await self._verifier.check_unchanged(replacements)
        return found

    @contextlib.asynccontextmanager
    async def _turn(self, user: str) -> AsyncIterator[None]:
        """Give exclusive use of the consumer, when it is the caller's turn.

        Raises:
            Problem: 503 where the turn does not come, or the log does not answer in time.
        """
        clock = asyncio.get_running_loop().time
        try:
            async with asyncio.timeout(self._within):
                await self._queue.enter(user)
        except TimeoutError:
            # Another request is reading, so this says nothing about the log.
            raise busy() from None
        began = clock()
        try:
            async with asyncio.timeout(self._within):
                try:
                    yield
                finally:
                    self._queue.leave(user, clock() - began)
        except (KafkaError, TimeoutError) as error:
            await self._fail(error)
        except asyncio.CancelledError as error:
            if not is_own_cancellation():
                raise
            await self._fail(error)

    async def _fail(self, error: BaseException) -> NoReturn:
        """Close a connection that failed, before the next request reads.

        Raises:
            Problem: 503.
        """
        await self.close()
        raise log_unavailable(f"reading events: {error!r}") from None

    async def _read(
        self, partition: int, offsets: Sequence[int], keys: Mapping[int, bytes]
    ) -> dict[int, bytes | None]:
        found: dict[int, bytes | None] = {}
        while offsets and (remainder := self._resume(partition, offsets[0])) is not None:
            found |= await remainder.pick(offsets, keys)
            self._keep(remainder)
            offsets = offsets[bisect_left(offsets, remainder.reached) :]
        return found | await self._fetch(partition, offsets, keys) if offsets else found

    async def _fetch(
        self, partition: int, offsets: Sequence[int], keys: Mapping[int, bytes]
    ) -> dict[int, bytes | None]:
        consumer = await self._started()
        tp = TopicPartition(self._topic, partition)
        consumer.assign([tp])
        found: dict[int, bytes | None] = {}
        position = -_READ_ON - 1
        try:
            for offset in offsets:
                if offset < position:
                    # It was read with the group before, or the log no longer has it.
                    continue
                if offset > position + _READ_ON:
                    consumer.seek(tp, offset)
                    position = offset
                while position <= offset:
                    try:
                        some = await consumer.getmany(timeout_ms=_POLL_MS, max_records=1)
                    except OffsetOutOfRangeError:
                        # The log has no record there; it may have the next one.
                        position = -_READ_ON - 1
                        break
                    for group in some.get(tp, ()):
                        position = group.next_offset
                        remainder = _Remainder(partition, group)
                        wanted = offsets[bisect_left(offsets, group.begin) :]
                        if wanted and wanted[0] < position:
                            found |= await remainder.pick(wanted, keys)
                            self._keep(remainder)
        finally:
            # Else it would go on fetching records that nobody asked for.
            consumer.pause(tp)
        return found

    def _resume(self, partition: int, offset: int) -> _Remainder | None:
        """Return a cached group that has the record at an offset still unread, or None.

        A record batch can be very large, so it is not unpacked again for every few records.
        """
        now = asyncio.get_running_loop().time()
        self._remainders = [remainder for remainder in self._remainders if remainder.is_sure(now)]
        for remainder in self._remainders:
            if remainder.has(partition, offset):
                self._remainders.remove(remainder)
                return remainder
        return None

    def _keep(self, remainder: _Remainder) -> None:
        if not remainder.is_over:
            remainder.until = asyncio.get_running_loop().time() + self._within
            self._remainders.append(remainder)
            del self._remainders[:-_REMAINDERS]

    async def scan(self, partition: int, begin: int, end: int) -> ScannedRecords:
        """Read consecutive records.

        Args:
            partition: Which.
            begin: The offset of the first one.
            end: The offset after the last one that is wanted; greater than `begin`.

        Returns:
            Those before `end` that are in the first fetched group.

        Raises:
            Problem: 410 where the log no longer has that offset; 503 where it does not answer in
                time, or was replaced.
        """
        replacements = self._verifier.replacements
        async with self._turn(""):
            remainder = self._resume(partition, begin)
            if remainder is None:
                tp = TopicPartition(self._topic, partition)
                try:
                    remainder = _Remainder(partition, await self._group(tp, begin))
                except OffsetOutOfRangeError:
                    raise position_gone(f"{partition}:{begin}") from None
            taken = await remainder.take(begin, end)
            self._keep(remainder)
        await self._verifier.check_unchanged(replacements)
        last = (taken[-1].offset, mark_of(taken[-1].key, taken[-1].value)) if taken else None
        records = [
            (raw.key, (partition, raw.offset, raw.timestamp * 1000, raw.value))
            for raw in taken
            if raw.key is not None
        ]
        return ScannedRecords(records, min(remainder.reached, end), last)

    async def _group(self, tp: TopicPartition, begin: int) -> Group:
        """Fetch the group of records at an offset."""
        self.scans += 1
        consumer = await self._started()
        consumer.assign([tp])
        consumer.seek(tp, begin)
        try:
            groups: Sequence[Group] = ()
            while not groups:
                found = await consumer.getmany(timeout_ms=_POLL_MS, max_records=1)
                groups = found.get(tp, ())
            return groups[0].check()
        finally:
            # Else it would go on fetching records that nobody asked for.
            consumer.pause(tp)

    async def _started(self) -> Any:
        if self._consumer is None:
            consumer = group_reader(
                self._client,
                max_partition_fetch_bytes=256 * 1024,
            )
            # Stored only once it has started: the request may be cancelled before.
            try:
                await consumer.start()
            except BaseException:
                await stop_client(consumer)
                raise
            self._consumer = consumer
        return self._consumer

    async def close(self) -> None:
        """Close the connection to Kafka; the next read connects again."""
        self._remainders.clear()
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await stop_client(consumer)


class _Remainder:
    """The unread part of a fetched group.

    Args:
        partition: Of the records.
        group: As it was fetched.
    """

    def __init__(self, partition: int, group: Group) -> None:
        self._partition = partition
        self._end = group.next_offset
        self._breaks = BREAKS.count
        #: Until when it is cached, by the loop's clock.
        self.until = 0.0
        self._pieces = group.pieces()
        self._piece: Sequence[Any] = ()
        #: The offset after the last record that was returned or skipped.
        self.reached = group.begin

    @property
    def is_over(self) -> bool:
        """Whether nothing is left."""
        return self.reached >= self._end

    def is_sure(self, now: float) -> bool:
        """Tell whether it is recent, and no connection has broken since it was fetched."""
        return self._breaks == BREAKS.count and now < self.until

    def has(self, partition: int, offset: int) -> bool:
        """Tell whether it would contain the record at an offset."""
        return partition == self._partition and self.reached <= offset < self._end

    async def take(self, begin: int, end: int) -> list[Any]:
        """Return the next records between two offsets."""
        taken: list[Any] = []
        while (some := await self._next(end)) is not None:
            taken += some[bisect_left(some, begin, key=_offset) :]
        return taken

    async def pick(
        self, offsets: Sequence[int], keys: Mapping[int, bytes]
    ) -> dict[int, bytes | None]:
        """Return the values of the records at some offsets, and skip the others before them."""
        found: dict[int, bytes | None] = {}
        wanted = set(offsets)
        while (some := await self._next(offsets[-1] + 1)) is not None:
            found |= {
                record.offset: record.value
                for record in some
                if record.offset in wanted and record.key == keys[record.offset]
            }
        return found

    async def _next(self, end: int) -> Sequence[Any] | None:
        """Return some of the next records before an offset; None where there are no more."""
        if self.reached >= min(end, self._end):
            return None
        if not self._piece:
            # Other requests are served while it is unpacked.
            await asyncio.sleep(0)
            piece = next(self._pieces, None)
            if piece is None:
                self.reached = self._end
                return None
            self._piece = piece
        some = self._piece
        beyond = bisect_left(some, end, key=_offset)
        self._piece, some = some[beyond:], some[:beyond]
        if self._piece:
            self.reached = end
        elif some:
            self.reached = some[-1].offset + 1
        return some
