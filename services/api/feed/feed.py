"""The feed: sends changes of jobs to all listeners, each once and in the log's order.

An event is published when the projections have applied it: then its verdict is in the job's trail,
and the owner and viewers are in the job's row. So a listener who was connected receives the same as
one who resumes later from a position, and each read of the projections serves all listeners.

The latest changes are cached, in bounded memory. A listener who lags by more, because they resume
from an old position or read slowly, reads the log itself until they have caught up.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Final, NamedTuple

from jobtrail.core.decoding import ids_of
from jobtrail.core.job import Job
from jobtrail.core.position import Position
from projections.ports.read import Caller, Snapshot, Watermark
from services.api.feed.changes import Change, changes
from services.api.live.buffer import Buffer, Record
from services.api.problems.problems import too_many_feeds

#: Records that are published in one step, so that requests are served in between: some 10 us each.
AT_ONCE: Final = 64
#: The most changes that are cached.
_MOST_CACHED: Final = 4096
#: Stands for the number of the next change where the listener has to read the log first.
_LAGS: Final = -1


class FeedLimits(NamedTuple):
    """Bounds of the number of listeners."""

    total: int
    per_caller: int


class Listener:
    """A connected listener: what they have received, and what is pending for them."""

    __slots__ = ("at", "caller", "concerned", "future", "last", "next", "over")

    def __init__(
        self, caller: Caller, at: dict[int, int], last: dict[int, Sequence[int]], following: int
    ) -> None:
        self.caller = caller
        #: The numbers of changes that they may see and that are not handled yet.
        self.concerned: deque[int] = deque()
        #: Per partition the offset before which they have received everything.
        self.at = at
        #: Per partition offset and mark of the last record before that, if known.
        self.last = last
        #: Changes before this number are handled, or not visible to them.
        self.next = following
        #: Whether the stream is to end.
        self.over = False
        self.future: asyncio.Future[None] | None = None

    def wake(self) -> None:
        """Wake the request: a change is pending, or the stream ends."""
        if self.future is not None and not self.future.done():
            self.future.set_result(None)


class Feed:
    """Publishes changes to listeners.

    Args:
        buffer: The records that the tail has read.
        limits: How many listeners there may be.
        most: Bytes of the changes that are cached.
    """

    def __init__(self, buffer: Buffer, limits: FeedLimits, most: int) -> None:
        self._buffer = buffer
        self._limits = limits
        self._most = most
        self._listeners: dict[Listener, None] = {}
        self._by_user: Counter[str] = Counter()
        #: The listeners by principal, and those who see all jobs: a change is handed to those who
        #: may see it, and not tried with each listener.
        self._by_principal: dict[str, dict[Listener, None]] = {}
        self._see_all: dict[Listener, None] = {}
        self._cached: list[Change] = []
        #: Bytes of the cached changes.
        self.size = 0
        #: The number of the first cached change.
        self._first = 0
        #: Per partition the offset before which everything is published.
        self.position: dict[int, int] = {}
        #: Per partition the last record before that, if known.
        self._last: dict[int, Sequence[int]] = {}
        self._closed = False

    @property
    def listeners(self) -> int:
        """How many listeners there are."""
        return len(self._listeners)

    @property
    def following(self) -> int:
        """The number of the next change."""
        return self._first + len(self._cached)

    def join(self, caller: Caller, watermark: Watermark, wanted: Mapping[int, int]) -> Listener:
        """Add a listener. `leave` has to follow, whatever happens.

        Args:
            caller: Who listens.
            watermark: Of the projections now.
            wanted: The position from which they resume; partitions that it does not name, from now
                on.

        Raises:
            Problem: 429 where too many listen already.
        """
        if len(self._listeners) >= self._limits.total:
            raise too_many_feeds("This process has as many listeners as allowed.")
        if self._by_user[caller.user] >= self._limits.per_caller:
            raise too_many_feeds(
                f"You have {self._limits.per_caller} listeners, as many as allowed."
            )
        if not self._listeners:
            self.position = dict(watermark.position)
            self._last = dict(watermark.last)
        lags = any(offset < self.position.get(p, 0) for p, offset in wanted.items())
        following = _LAGS if lags else self.following
        marks = wanted.marks if isinstance(wanted, Position) else {}
        last: dict[int, Sequence[int]] = {p: o for p, o in self._last.items() if p not in wanted}
        last |= {p: (wanted[p] - 1, mark) for p, mark in marks.items()}
        listener = Listener(caller, {**self.position, **wanted}, last, following)
        listener.over = self._closed
        self._listeners[listener] = None
        self._by_user[caller.user] += 1
        if caller.reads_all:
            self._see_all[listener] = None
        else:
            for principal in caller.principals:
                self._by_principal.setdefault(principal, {})[listener] = None
        return listener

    def last(self, partition: int) -> Sequence[int] | None:
        """Return offset and mark of the last published record of a partition."""
        return self._last.get(partition)

    def leave(self, listener: Listener) -> None:
        """Remove a listener."""
        del self._listeners[listener]
        user = listener.caller.user
        self._by_user[user] -= 1
        if not self._by_user[user]:
            del self._by_user[user]
        self._see_all.pop(listener, None)
        for principal in listener.caller.principals:
            if (named := self._by_principal.get(principal)) is not None:
                named.pop(listener, None)
                if not named:
                    del self._by_principal[principal]
        if not self._listeners:
            self._drop_cached()

    def _drop_cached(self) -> None:
        """Drop all cached changes: every listener has to read the log."""
        self._first = self.following
        self._cached = []
        self.size = 0
        for listener in self._listeners:
            _fall_behind(listener)

    def is_behind(self, listener: Listener) -> bool:
        """Tell whether a listener has to read the log, because the cache lacks changes for them."""
        return listener.next == _LAGS

    def catch_up(self, listener: Listener) -> Mapping[int, int]:
        """Return up to where a listener has to read the log; later changes are cached for them."""
        listener.concerned.clear()
        listener.next = self.following
        return dict(self.position)

    def news(self, listener: Listener, most: int) -> Sequence[Change]:
        """Return the next cached changes that a listener may see; their filters are not applied.

        Args:
            listener: One for whom `is_behind` is false.
            most: How many at most.
        """
        return [self._cached[number - self._first] for number in islice(listener.concerned, most)]

    def move_on(self, listener: Listener, handled: int) -> None:
        """Note that a listener has handled some of what `news` returned.

        Args:
            listener: One for whom `is_behind` is false.
            handled: How many changes.
        """
        concerned = listener.concerned
        for _ in range(handled):
            concerned.popleft()
        listener.next = concerned[0] if concerned else self.following

    def publish(self, snapshot: Snapshot, partitions: int) -> bool:
        """Publish what the projections have applied since the last time, a bounded part of it.

        Args:
            snapshot: Of the projections, opened in this step of the event loop.
            partitions: How many partitions the log has.

        Returns:
            Whether there is more to publish.
        """
        if not self._listeners:
            return False
        room = AT_ONCE
        records: list[tuple[bytes, Record]] = []
        reached: dict[int, int] = {}
        skipped = False
        for partition, begin in self.position.items():
            end = min(snapshot.watermark.position.get(partition, 0), self._buffer.end(partition))
            if end <= begin or not room or partition in snapshot.watermark.recovering:
                continue
            if self._buffer.covers(partition, begin):
                end = min(end, begin + room)
                room -= end - begin
                records += self._buffer.between(partition, begin, end)
            else:
                # The buffer lacks them: they were dropped, or the tail began later.
                skipped = True
            reached[partition] = end
            if (last := self._buffer.last(partition, end)) is not None:
                self._last[partition] = last
        found = list(changes(snapshot, self._of_concern(snapshot, records), partitions))
        self.position.update(reached)
        if skipped:
            self._drop_cached()
        self._cache(found)
        return not room

    def _of_concern(
        self, snapshot: Snapshot, records: list[tuple[bytes, Record]]
    ) -> list[tuple[bytes, Record]]:
        """Return the records of jobs that some listener may see; no more is read of others."""
        if self._see_all or not records:
            return records
        ids = ids_of(key for key, _ in records)
        # By the partition too: a record may be in another one than that of its key.
        places = {(ids[key], record[0]): None for key, record in records if key in ids}
        audiences = snapshot.audiences(places)
        named = self._by_principal
        concerned = {
            job_id
            for job_id, (owner, viewers) in audiences.items()
            if f"user:{owner}" in named or any(viewer in named for viewer in viewers)
        }
        return [record for record in records if ids.get(record[0]) in concerned]

    def _hand_out(self, number: int, job: Job) -> None:
        """Hand a change to the listeners who may see the job."""
        for listener in self._see_all:
            listener.concerned.append(number)
            listener.wake()
        if job.owner is None or not self._by_principal:
            return
        for principal in (f"user:{job.owner}", *job.viewers):
            for listener in self._by_principal.get(principal, ()):
                concerned = listener.concerned
                if not concerned or concerned[-1] != number:
                    concerned.append(number)
                    listener.wake()

    def _cache(self, found: Iterable[Change]) -> None:
        for change in found:
            self._hand_out(self.following, change.job)
            self._cached.append(change)
            self.size += change.size
        while len(self._cached) > _MOST_CACHED or self.size > self._most:
            # A quarter at a time, so that this is rare.
            old = self._cached[: len(self._cached) // 4 + 1]
            del self._cached[: len(old)]
            self._first += len(old)
            self.size -= sum(change.size for change in old)
            for listener in self._listeners:
                if listener.concerned and listener.concerned[0] < self._first:
                    _fall_behind(listener)

    def trim_position(self, watermark: Mapping[int, int]) -> Mapping[int, int]:
        """Return the position up to which the buffer may be trimmed.

        Args:
            watermark: The position of the projections.
        """
        if not self._listeners:
            return watermark
        return {p: min(offset, self.position.get(p, offset)) for p, offset in watermark.items()}

    async def wait(self, listener: Listener, until: float) -> None:
        """Wait until a change is pending for a listener, or until a time of the loop's clock."""
        loop = asyncio.get_running_loop()
        if listener.over or listener.concerned or self.is_behind(listener):
            return
        listener.future = loop.create_future()
        timer = loop.call_at(until, listener.wake)
        try:
            await listener.future
        finally:
            timer.cancel()
            listener.future = None

    def lose(self, partition: int, *, replaced: bool) -> None:
        """Note that the tail lost records of a partition; end all streams of a replaced log."""
        if replaced and partition in self.position:
            self.position[partition] = self._buffer.end(partition)
            self._end_all()

    def close(self) -> None:
        """End all streams."""
        self._closed = True
        self._end_all()

    def _end_all(self) -> None:
        for listener in self._listeners:
            listener.over = True
            listener.wake()


def _fall_behind(listener: Listener) -> None:
    """Have a listener read the log: changes that are pending for them are no longer cached."""
    listener.concerned.clear()
    listener.next = _LAGS
    listener.wake()
