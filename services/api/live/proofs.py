"""Proves that the positions that clients send are of this log.

Most are proven by marks in memory, the others by reading the record in the log. Anybody may send
any position, so these reads must not slow others: they have a connection of their own, beside that
of the tail, and callers take turns. The mark of each record that was read is remembered, so that
positions with a wrong mark cost no second read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from time import monotonic
from typing import Any, Final, NamedTuple, Protocol

from jobtrail.core.position import Position, mark_of
from jobtrail.log.consumers import BREAKS
from projections.ports.read import Watermark
from services.api.limits.overload import busy, too_many_proofs
from services.api.limits.turns import FairQueue
from services.api.live.buffer import Buffer
from services.api.live.log_verifier import FAILURES, LogVerifier, is_own_cancellation
from services.api.problems.problems import Problem, log_changed, log_unavailable

#: Offsets whose marks are remembered: 1 MiB.
_REMEMBERED: Final = 4_096
#: Proofs that may wait for their turn, of one caller and of all. One takes some 5 ms, so that the
#: last of them has its turn in time.
_PER_CALLER: Final = 64
_WAITING: Final = 1_024
#: Seconds until the turn has to come, and until the log has to answer.
_WITHIN: Final = 5.0
#: Seconds for which it is remembered whether the log is compacted: asking takes a connection.
_COMPACTED_FOR: Final = 60.0
#: Stand for a mark: of an offset that retention has deleted, and of one without a record.
_ANY: Final = -1
_NONE: Final = -2


class QueryableLog(Protocol):
    """The questions about the log that a proof needs; see `jobtrail.log.questions.Log`."""

    async def begins(self) -> dict[int, int]:
        """Return the first offset of each partition."""

    async def ends(self) -> dict[int, int]:
        """Return the offset after the last record of each partition."""

    async def find(self, offsets: Mapping[int, int]) -> dict[int, Any]:
        """Return per partition the record at an offset, or None."""

    async def is_compacted(self) -> bool:
        """Tell whether offsets may be missing."""

    async def close(self) -> None:
        """Disconnect; the next question connects again."""


class _Found(NamedTuple):
    """What was found at an offset."""

    #: The mark of the record, or `_ANY` or `_NONE`.
    mark: int
    #: `BREAKS.count` before it was read.
    breaks: int


class Proofs:
    """Proves positions.

    Args:
        log: Used by this object alone.
        verifier: Tells whether the log was replaced.
        buffer: The records that the tail has read.
        within: Seconds until the turn has to come, and until the log has to answer.
    """

    def __init__(
        self, log: QueryableLog, verifier: LogVerifier, buffer: Buffer, *, within: float = _WITHIN
    ) -> None:
        self._log = log
        self._verifier = verifier
        self._buffer = buffer
        self._within = within
        self._queue = FairQueue(_WAITING, _PER_CALLER, _full)
        self._found: dict[tuple[int, int], _Found] = {}
        #: The verifier's `replacements` when the first of these was found.
        self._replacements = verifier.replacements
        #: By caller, partition and offset a future that is done when that was read.
        self._running: dict[tuple[str, int, int], asyncio.Future[None]] = {}
        #: Whether the log is compacted, and until when that counts.
        self._compacted = (False, float("-inf"))

    def __len__(self) -> int:
        """Return how many requests read the log or wait for their turn."""
        return len(self._queue)

    def unproven(self, wanted: Mapping[int, int], watermark: Watermark) -> dict[int, int]:
        """Return the pairs of a position that nothing in memory proves.

        Args:
            wanted: The position. A pair without a mark needs no proof.
            watermark: Of the projections.

        Returns:
            Per partition the offset of the record whose mark it has.
        """
        if not isinstance(wanted, Position) or not wanted.marks:
            return {}
        # After a break the marks in memory may be of a log that was replaced since.
        verified = self._verifier.is_verified
        places = {}
        for partition, mark in wanted.marks.items():
            offset = wanted[partition] - 1
            last = watermark.last.get(partition)
            if verified and last is not None and (last.offset, last.mark) == (offset, mark):
                continue
            if verified and self._buffer.mark(partition, offset) == mark:
                continue
            if self._at(partition, offset) not in (mark, _ANY):
                places[partition] = offset
        return places

    async def prove(self, user: str, wanted: Position, watermark: Watermark) -> None:
        """Prove all pairs of a position that are not proven yet.

        Args:
            user: Who sent it.
            wanted: The position.
            watermark: Of the projections.

        Raises:
            Problem: 410 where the log has another record there; 429 or 503 where too many wait;
                503 where the log does not answer.
        """
        # This proves most of them, and is asked once for all who wait.
        await self._verifier.verify()
        places = self.unproven(wanted, watermark)
        clock = asyncio.get_running_loop().time
        # Two turns: the first may be that of another request of the caller, which failed.
        until = clock() + 2 * self._within
        while missing := self._missing(places):
            if clock() > until:
                raise busy()
            await self._learn(user, missing)
        for partition, offset in places.items():
            if self._at(partition, offset) not in (wanted.marks[partition], _ANY):
                raise log_changed()

    def _missing(self, places: Mapping[int, int]) -> dict[int, int]:
        return {p: offset for p, offset in places.items() if self._at(p, offset) is None}

    def _at(self, partition: int, offset: int) -> int | None:
        """Return the mark of the record at an offset; None if it is not remembered."""
        if self._replacements != self._verifier.replacements:
            self._found.clear()
            self._replacements = self._verifier.replacements
        found = self._found.get((partition, offset))
        if found is None or not (self._verifier.is_verified or found.breaks == BREAKS.count):
            return None
        return found.mark

    async def _learn(self, user: str, places: Mapping[int, int]) -> None:
        """Read the marks at offsets, or wait for another request of the caller that reads one."""
        asked = [(user, *place) for place in places.items()]
        for each in asked:
            if (other := self._running.get(each)) is not None:
                # Shielded: it goes on if this request is cancelled.
                await asyncio.shield(other)
                return
        over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._running.update(dict.fromkeys(asked, over))
        try:
            await self._learn_in_turn(user, places)
        finally:
            for each in asked:
                del self._running[each]
            over.set_result(None)

    async def _learn_in_turn(self, user: str, places: Mapping[int, int]) -> None:
        clock = asyncio.get_running_loop().time
        try:
            async with asyncio.timeout(self._within):
                await self._queue.enter(user)
        except TimeoutError:
            # Other requests are reading, so this says nothing about the log.
            raise busy() from None
        began = clock()
        try:
            # Another caller may have read the same.
            if missing := self._missing(places):
                await self._ask(missing)
        finally:
            self._queue.leave(user, clock() - began)

    async def _ask(self, places: Mapping[int, int]) -> None:
        breaks, replacements = BREAKS.count, self._verifier.replacements
        try:
            async with asyncio.timeout(self._within):
                marks = await self._marks(places)
        except FAILURES as error:
            raise await self._failed(error) from None
        except asyncio.CancelledError as error:
            if not is_own_cancellation():
                raise
            raise await self._failed(error) from None
        if replacements != self._verifier.replacements:
            return
        for partition, offset in places.items():
            while len(self._found) >= _REMEMBERED:
                del self._found[next(iter(self._found))]
            self._found[partition, offset] = _Found(marks[partition], breaks)

    async def _failed(self, error: BaseException) -> Problem:
        """Close a connection that failed, and return the problem to answer with."""
        await self._log.close()
        return log_unavailable(f"proving a position: {error!r}")

    async def _marks(self, places: Mapping[int, int]) -> dict[int, int]:
        begins, ends = await self._log.begins(), await self._log.ends()
        if any(offset >= ends.get(partition, 0) for partition, offset in places.items()):
            # The log has lost its end. Not remembered, since the log may grow again.
            raise log_changed()
        kept = {p: offset for p, offset in places.items() if offset >= begins[p]}
        # What retention has deleted can be neither proven nor refuted.
        marks = dict.fromkeys(places, _ANY)
        there = await self._log.find(kept)
        if None in there.values():
            # Retention may have deleted it in between.
            begins = await self._log.begins()
        for partition, record in there.items():
            if record is not None:
                marks[partition] = mark_of(record.key, record.value)
            elif kept[partition] >= begins[partition] and not await self._is_compacted():
                marks[partition] = _NONE
        return marks

    async def _is_compacted(self) -> bool:
        compacted, until = self._compacted
        if monotonic() > until:
            compacted = await self._log.is_compacted()
            self._compacted = (compacted, monotonic() + _COMPACTED_FOR)
        return compacted

    async def close(self) -> None:
        """Close the connection to Kafka; the next proof connects again."""
        await self._log.close()


def _full(own: bool) -> Problem:
    return too_many_proofs(_PER_CALLER) if own else busy()
