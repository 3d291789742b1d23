"""Whether positions that clients send are of this log: by what is at hand, else by the log itself.

Anybody may send any position, so a look into the log costs its sender and nobody else: it has a
connection of its own, beside the one by which the tail is proven, and callers have their turns.
What lies at a place is remembered, whatever mark a client says is there: a wrong one costs no
second look.
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

#: Places whose records are remembered: 1 MiB.
_REMEMBERED: Final = 4_096
#: Proofs that wait for their turn, of one caller and of all: one takes the log some 5 ms, so the
#: last one of all has its turn before its time is up.
_PER_CALLER: Final = 64
_WAITING: Final = 1_024
#: Seconds for a turn to come, and for the log to answer.
_WITHIN: Final = 5.0
#: Seconds for which it is remembered whether the log is compacted: to ask takes a new connection.
_COMPACTED_FOR: Final = 60.0
#: Stand for the mark of a record, at a place of which nobody can tell, and where none lies.
_ANY: Final = -1
_NONE: Final = -2


class QueryableLog(Protocol):
    """A log that can be asked, as `jobtrail.log.questions.Log`."""

    async def begins(self) -> dict[int, int]:
        """Return the first offset of each partition."""

    async def ends(self) -> dict[int, int]:
        """Return the offset behind the last record of each partition."""

    async def find(self, offsets: Mapping[int, int]) -> dict[int, Any]:
        """Return per partition the record at an offset; None where none lies there."""

    async def is_compacted(self) -> bool:
        """Tell whether offsets may be missing."""

    async def close(self) -> None:
        """Disconnect; the next question connects again."""


class _Found(NamedTuple):
    """What lay at a place."""

    #: Of the record, or what stands for it.
    mark: int
    #: After so many breaks.
    breaks: int


class Proofs:
    """Proves positions.

    Args:
        log: Is asked by nobody else.
        verifier: Knows whether the log is the one that it was.
        buffer: What the tail has.
        within: Seconds for a turn to come, and for the log to answer.
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
        #: What the verifier's `others` was when the first of these was found.
        self._replacements = verifier.replacements
        #: By caller, partition and offset what ends when that was asked.
        self._asking: dict[tuple[str, int, int], asyncio.Future[None]] = {}
        #: Whether the log is compacted, and until when that counts.
        self._compacted = (False, float("-inf"))

    def __len__(self) -> int:
        """Return how many requests ask the log or wait for their turn."""
        return len(self._queue)

    def unproven(self, wanted: Mapping[int, int], watermark: Watermark) -> dict[int, int]:
        """Return which pairs of a position are not proven yet by what is at hand.

        Args:
            wanted: The position; a pair without a mark is taken at its word.
            watermark: By the projections.

        Returns:
            Per partition the offset of the record whose mark it has.
        """
        if not isinstance(wanted, Position) or not wanted.marks:
            return {}
        # After a break what is at hand may be of another log than the one that is there now.
        sure = self._verifier.is_verified
        places = {}
        for partition, mark in wanted.marks.items():
            offset = wanted[partition] - 1
            last = watermark.last.get(partition)
            if sure and last is not None and (last.offset, last.mark) == (offset, mark):
                continue
            if sure and self._buffer.mark(partition, offset) == mark:
                continue
            if self._at(partition, offset) not in (mark, _ANY):
                places[partition] = offset
        return places

    async def prove(self, user: str, wanted: Position, watermark: Watermark) -> None:
        """Prove those pairs of a position that are in doubt, all of them together.

        Args:
            user: Who sent it.
            wanted: The position.
            watermark: By the projections.

        Raises:
            Problem: 410 where another record is there; 429 or 503 where too many wait; 503 where
                the log does not answer.
        """
        # Most are proven by that, all together, and it is asked once for all who wait.
        await self._verifier.verify()
        places = self.unproven(wanted, watermark)
        clock = asyncio.get_running_loop().time
        # Of two turns at most: others of the caller may have asked, and had no answer.
        until = clock() + 2 * self._within
        while unknown := self._unknown(places):
            if clock() > until:
                raise busy()
            await self._learn(user, unknown)
        for partition, offset in places.items():
            if self._at(partition, offset) not in (wanted.marks[partition], _ANY):
                raise log_changed()

    def _unknown(self, places: Mapping[int, int]) -> dict[int, int]:
        return {p: offset for p, offset in places.items() if self._at(p, offset) is None}

    def _at(self, partition: int, offset: int) -> int | None:
        """Return the mark of the record at a place; None where that is not known any more."""
        if self._replacements != self._verifier.replacements:
            self._found.clear()
            self._replacements = self._verifier.replacements
        found = self._found.get((partition, offset))
        if found is None or not (self._verifier.is_verified or found.breaks == BREAKS.count):
            return None
        return found.mark

    async def _learn(self, user: str, places: Mapping[int, int]) -> None:
        """Ask what lies at places, or wait until the caller's other request has that asks it."""
        asked = [(user, *place) for place in places.items()]
        for each in asked:
            if (running := self._asking.get(each)) is not None:
                # Not cancelled with who waits for it.
                await asyncio.shield(running)
                return
        over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._asking.update(dict.fromkeys(asked, over))
        try:
            await self._learn_in_turn(user, places)
        finally:
            for each in asked:
                del self._asking[each]
            over.set_result(None)

    async def _learn_in_turn(self, user: str, places: Mapping[int, int]) -> None:
        clock = asyncio.get_running_loop().time
        try:
            async with asyncio.timeout(self._within):
                await self._queue.enter(user)
        except TimeoutError:
            # Others are asking: nothing is wrong with the log, as far as is known.
            raise busy() from None
        began = clock()
        try:
            # Another caller may have asked the same.
            if unknown := self._unknown(places):
                await self._ask(unknown)
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
        """Let go of a connection that failed, before the next one asks; return what to say."""
        await self._log.close()
        return log_unavailable(f"proving a position: {error!r}")

    async def _marks(self, places: Mapping[int, int]) -> dict[int, int]:
        begins, ends = await self._log.begins(), await self._log.ends()
        if any(offset >= ends.get(partition, 0) for partition, offset in places.items()):
            # It was held, so the log has lost it. Not remembered: the log may grow.
            raise log_changed()
        kept = {p: offset for p, offset in places.items() if offset >= begins[p]}
        # Of what retention has deleted nobody can tell.
        marks = dict.fromkeys(places, _ANY)
        there = await self._log.find(kept)
        if None in there.values():
            # Retention may have come in between.
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
        """Let go of the log; the next proof connects again."""
        await self._log.close()


def _full(own: bool) -> Problem:
    return too_many_proofs(_PER_CALLER) if own else busy()
