"""What happens to jobs, told as it happens to all who listen, each once and in the log's order.

An event is told when the projections hold it: what the fold made of it then stands in its job's
trail, and who may see the job in its row. So the same is told whether somebody listened at the
time or takes it up later from a position, and each look at the projections serves all listeners.

What was told last is kept, as far as there is room. Who is further behind, because they come
back or read slowly, reads the log itself until they have caught up.
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

#: Records that are taken in at one look, so that requests are served in between: some 10 us each.
AT_ONCE: Final = 64
#: The most changes that are kept for those who are a little behind.
_KEPT: Final = 4096
#: The number of the next change for who has to read the log first.
_BEHIND: Final = -1


class Limits(NamedTuple):
    """How many listeners there may be."""

    total: int
    per_caller: int


class Listener:
    """One who listens: up to where they were told, and what wakes them."""

    __slots__ = ("at", "caller", "concerned", "future", "last", "next", "over")

    def __init__(
        self, caller: Caller, at: dict[int, int], last: dict[int, Sequence[int]], following: int
    ) -> None:
        self.caller = caller
        #: The numbers of the changes that they may see and have not looked at.
        self.concerned: deque[int] = deque()
        #: Per partition the offset before which they were told everything.
        self.at = at
        #: Per partition offset and mark of the last record before that, where it is known.
        self.last = last
        #: Everything before this number they have looked at, or may not see.
        self.next = following
        #: Whether there is nothing more to tell them.
        self.over = False
        self.future: asyncio.Future[None] | None = None

    def wake(self) -> None:
        """Let them look whether there is news."""
        if self.future is not None and not self.future.done():
            self.future.set_result(None)


class Feed:
    """Tells listeners what happens.

    Args:
        buffer: What the tail has seen.
        limits: How many may listen.
        most: Bytes that are kept for those who are a little behind.
    """

    def __init__(self, buffer: Buffer, limits: Limits, most: int) -> None:
        self._buffer = buffer
        self._limits = limits
        self._most = most
        self._listeners: dict[Listener, None] = {}
        self._by_user: Counter[str] = Counter()
        #: Those to whom a job may be visible under a name, and those who see all: each is told of
        #: what concerns them, and not asked about each change.
        self._by_principal: dict[str, dict[Listener, None]] = {}
        self._see_all: dict[Listener, None] = {}
        self._kept: list[Change] = []
        #: Bytes of what is kept.
        self.size = 0
        #: The number of the first change that is kept.
        self._first = 0
        #: Per partition the offset before which everything was told.
        self.position: dict[int, int] = {}
        #: Per partition the last record before that, where it is known.
        self._last: dict[int, Sequence[int]] = {}
        self._closed = False

    @property
    def listeners(self) -> int:
        """How many listen."""
        return len(self._listeners)

    @property
    def following(self) -> int:
        """The number of the next change."""
        return self._first + len(self._kept)

    def join(self, caller: Caller, held: Watermark, wanted: Mapping[int, int]) -> Listener:
        """Let somebody listen. `leave` has to follow, whatever happens.

        Args:
            caller: Who listens.
            held: What the projections hold now.
            wanted: From where on they are to be told, per partition; from now on where it says
                nothing.

        Raises:
            Problem: 429 where too many listen.
        """
        if len(self._listeners) >= self._limits.total:
            raise too_many_feeds("This process has as many listeners as it may.")
        if self._by_user[caller.user] >= self._limits.per_caller:
            raise too_many_feeds(f"You listen as often as you may: {self._limits.per_caller}.")
        if not self._listeners:
            self.position = dict(held.position)
            self._last = dict(held.last)
        behind = any(offset < self.position.get(p, 0) for p, offset in wanted.items())
        following = _BEHIND if behind else self.following
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
        """Return offset and mark of the last record that was told of a partition."""
        return self._last.get(partition)

    def leave(self, listener: Listener) -> None:
        """Forget a listener."""
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
            self._forget()

    def _forget(self) -> None:
        """Keep nothing: whoever listens has to read the log."""
        self._first = self.following
        self._kept = []
        self.size = 0
        for listener in self._listeners:
            _fall_behind(listener)

    def is_behind(self, listener: Listener) -> bool:
        """Tell whether a listener has to read the log to be told everything."""
        return listener.next == _BEHIND

    def catch_up(self, listener: Listener) -> Mapping[int, int]:
        """Return up to where a listener has to read the log; what is told later is kept."""
        listener.concerned.clear()
        listener.next = self.following
        return dict(self.position)

    def news(self, listener: Listener, most: int) -> Sequence[Change]:
        """Return the next changes that are kept for a listener.

        Args:
            listener: One who is not behind.
            most: How many at most; which of those they may see they want is for them to tell.
        """
        return [self._kept[number - self._first] for number in islice(listener.concerned, most)]

    def move_on(self, listener: Listener, looked_at: int) -> None:
        """Take it that a listener has looked at so many of their news.

        Args:
            listener: One who is not behind.
            looked_at: How many changes.
        """
        concerned = listener.concerned
        for _ in range(looked_at):
            concerned.popleft()
        listener.next = concerned[0] if concerned else self.following

    def publish(self, snapshot: Snapshot, partitions: int) -> bool:
        """Tell what the projections hold by now, some of it at a time.

        Args:
            snapshot: Of the projections, opened in this step of the event loop.
            partitions: How many partitions the log has.

        Returns:
            Whether there is more.
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
                # Dropped, for want of room or because the tail came later.
                skipped = True
            reached[partition] = end
            if (last := self._buffer.last(partition, end)) is not None:
                self._last[partition] = last
        found = list(changes(snapshot, self._of_concern(snapshot, records), partitions))
        self.position.update(reached)
        if skipped:
            self._forget()
        self._keep(found)
        return not room

    def _of_concern(
        self, snapshot: Snapshot, records: list[tuple[bytes, Record]]
    ) -> list[tuple[bytes, Record]]:
        """Return records of jobs that a listener may see: of others nothing more is read."""
        if self._see_all or not records:
            return records
        ids = ids_of(key for key, _ in records)
        # Wherever they lie: somebody may have written into another partition than the key's, too.
        places = {(ids[key], record[0]): None for key, record in records if key in ids}
        audiences = snapshot.audiences(places)
        named = self._by_principal
        concerned = {
            job_id
            for job_id, (owner, viewers) in audiences.items()
            if f"user:{owner}" in named or any(viewer in named for viewer in viewers)
        }
        return [record for record in records if ids.get(record[0]) in concerned]

    def _tell(self, number: int, job: Job) -> None:
        """Tell those of a change who may see the job."""
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

    def _keep(self, found: Iterable[Change]) -> None:
        for change in found:
            self._tell(self.following, change.job)
            self._kept.append(change)
            self.size += change.size
        while len(self._kept) > _KEPT or self.size > self._most:
            # By a quarter, so that this is rare.
            old = self._kept[: len(self._kept) // 4 + 1]
            del self._kept[: len(old)]
            self._first += len(old)
            self.size -= sum(change.size for change in old)
            for listener in self._listeners:
                if listener.concerned and listener.concerned[0] < self._first:
                    _fall_behind(listener)

    def kept(self, held: Mapping[int, int]) -> Mapping[int, int]:
        """Return up to where the buffer may be trimmed.

        Args:
            held: What the projections hold.
        """
        if not self._listeners:
            return held
        return {p: min(offset, self.position.get(p, offset)) for p, offset in held.items()}

    async def wait(self, listener: Listener, until: float) -> None:
        """Wait until there is news for a listener, or until a time of the loop's clock."""
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
        """Take in that the tail began again with a partition: let all go if its log is another."""
        if replaced and partition in self.position:
            self.position[partition] = self._buffer.end(partition)
            self._end_all()

    def close(self) -> None:
        """Let every listener go."""
        self._closed = True
        self._end_all()

    def _end_all(self) -> None:
        for listener in self._listeners:
            listener.over = True
            listener.wake()


def _fall_behind(listener: Listener) -> None:
    """Let a listener read the log: what they have not looked at is not kept any more."""
    listener.concerned.clear()
    listener.next = _BEHIND
    listener.wake()
