"""What happens to jobs, told as it happens to all who listen, each once and in the log's order.

An event is told when the projections hold it: what the fold made of it then stands in its job's
trail, and who may see the job in its row. So the same is told whether somebody listened at the
time or takes it up later from a position, and each look at the projections serves all listeners.

What was told last is kept, as far as there is room. Who is further behind, because he comes back
or reads slowly, reads the log itself until he has caught up.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from jobtrail.decoding import ids_of
from jobtrail.events import TYPE_NAMES
from jobtrail.job import Job, TrailEntry, Verdict, entry_at
from jobtrail.partitions import partition_of
from jobtrail.states import State
from projections.reading import Caller, Filters, Held, Snapshot
from services.api.answers import encode, entry_answer, job_answer
from services.api.buffer import Buffer, Record
from services.api.problems import too_many_feeds

#: Records that are taken in at one look, so that requests are served in between.
AT_ONCE: Final = 256
#: What is kept for those who are a little behind: changes, and bytes of their events.
_KEPT: Final = 4096
_KEPT_BYTES: Final = 8 << 20
#: The number of the next change for who has to read the log first.
_BEHIND: Final = -1
_CREATED: Final = TYPE_NAMES.index("job.created")


class Change:
    """One event that changed a job, and the job as it is now."""

    __slots__ = ("_text", "entry", "job", "partition", "value")

    def __init__(self, partition: int, entry: TrailEntry, job: Job, value: bytes) -> None:
        self.partition = partition
        self.entry = entry
        self.job = job
        self.value = value
        self._text: bytes | None = None

    @property
    def text(self) -> bytes:
        """The lines of a server-sent event but for its id."""
        if self._text is None:
            content = {
                **entry_answer(self.entry, self.partition, self.value),
                "job": job_answer(self.job),
            }
            # Line ends outside of JSON's strings mean nothing, inside of them there are none.
            data = encode(content).replace(b"\r", b" ").replace(b"\n", b" ")
            name = TYPE_NAMES[self.entry.type_code].encode()
            self._text = b"event: %b\ndata: %b\n\n" % (name, data)
        return self._text


class Interest(NamedTuple):
    """What a listener is told of."""

    caller: Caller
    filters: Filters
    #: The state after the event has to be one of these; empty for any.
    states: tuple[State, ...]

    @classmethod
    def of(cls, caller: Caller, filters: Filters) -> Interest:
        """Return the interest of a caller in what a search with these filters would find."""
        return cls(caller, filters._replace(states=()), filters.states)

    def takes(self, change: Change) -> bool:
        """Tell whether the listener is to be told of a change."""
        return (
            (not self.states or change.entry.state in self.states)
            and self.caller.sees(change.job)
            and self.filters.match(change.job)
        )


def changes(
    snapshot: Snapshot, records: Sequence[tuple[bytes, Record]], partitions: int
) -> Iterator[Change]:
    """Yield what records changed, in their order.

    Args:
        snapshot: Of the projections; holds all of the records.
        records: Key and record of each.
        partitions: How many partitions the log has.
    """
    ids = ids_of(key for key, _ in records)
    jobs = snapshot.watched(list(ids.values()))
    trails = {job.id: job.trail for job in jobs.values()}
    for job in jobs.values():
        job.trail = b""
    for key, (partition, offset, _timestamp, value) in records:
        job_id = ids.get(key)
        if job_id not in jobs or value is None or partition_of(job_id, partitions) != partition:
            continue
        entry = entry_at(trails[job_id], offset)
        if entry is not None and _changes(entry):
            yield Change(partition, entry, jobs[job_id], value)


def _changes(entry: TrailEntry) -> bool:
    # A `job.created` that came after the fact may have said whose the job is.
    return entry.verdict is Verdict.APPLIED or (
        entry.verdict is Verdict.LATE and entry.type_code == _CREATED
    )


class Limits(NamedTuple):
    """How many listeners there may be."""

    total: int
    per_caller: int


class Listener:
    """One who listens: up to where he was told, and what wakes him."""

    __slots__ = ("at", "future", "next", "over", "user")

    def __init__(self, user: str, at: dict[int, int], following: int) -> None:
        self.user = user
        #: Per partition the offset before which he was told everything.
        self.at = at
        #: The number of the next change that he is to look at.
        self.next = following
        #: Whether there is nothing more to tell him.
        self.over = False
        self.future: asyncio.Future[None] | None = None

    def wake(self) -> None:
        """Let him look whether there is news."""
        if self.future is not None and not self.future.done():
            self.future.set_result(None)


class Feed:
    """Tells listeners what happens.

    Args:
        buffer: What the tail has seen.
        limits: How many may listen.
    """

    def __init__(self, buffer: Buffer, limits: Limits) -> None:
        self._buffer = buffer
        self._limits = limits
        self._listeners: dict[Listener, None] = {}
        self._by_user: Counter[str] = Counter()
        self._kept: list[Change] = []
        self._kept_bytes = 0
        #: The number of the first change that is kept.
        self._first = 0
        #: Per partition the offset before which everything was told.
        self.position: dict[int, int] = {}
        self._closed = False

    @property
    def listeners(self) -> int:
        """How many listen."""
        return len(self._listeners)

    @property
    def following(self) -> int:
        """The number of the next change."""
        return self._first + len(self._kept)

    def join(self, caller: Caller, held: Mapping[int, int], wanted: Mapping[int, int]) -> Listener:
        """Let somebody listen. `leave` has to follow, whatever happens.

        Args:
            caller: Who listens.
            held: What the projections hold now.
            wanted: From where on he is to be told, per partition; from now on where it says
                nothing.

        Raises:
            Problem: 429 where too many listen.
        """
        if len(self._listeners) >= self._limits.total:
            raise too_many_feeds("This process has as many listeners as it may.")
        if self._by_user[caller.user] >= self._limits.per_caller:
            raise too_many_feeds(f"You listen as often as you may: {self._limits.per_caller}.")
        if not self._listeners:
            self.position = dict(held)
        behind = any(offset < self.position.get(p, 0) for p, offset in wanted.items())
        following = _BEHIND if behind else self.following
        listener = Listener(caller.user, {**self.position, **wanted}, following)
        listener.over = self._closed
        self._listeners[listener] = None
        self._by_user[caller.user] += 1
        return listener

    def leave(self, listener: Listener) -> None:
        """Forget a listener."""
        del self._listeners[listener]
        self._by_user[listener.user] -= 1
        if not self._by_user[listener.user]:
            del self._by_user[listener.user]
        if not self._listeners:
            self._forget()

    def _forget(self) -> None:
        """Keep nothing: whoever listens has to read the log."""
        # One number is left out, so that even who has looked at everything is behind.
        self._first = self.following + 1
        self._kept = []
        self._kept_bytes = 0

    def is_behind(self, listener: Listener) -> bool:
        """Tell whether a listener has to read the log to be told everything."""
        return listener.next < self._first

    def news(self, listener: Listener, most: int) -> Iterable[Change]:
        """Return the next changes that are kept for a listener, and move him on behind them.

        Args:
            listener: One who is not behind.
            most: How many at most; what concerns him is for him to see.
        """
        start = listener.next - self._first
        found = self._kept[start : start + most]
        listener.next += len(found)
        return found

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
        following = self.following
        room = AT_ONCE
        records: list[tuple[bytes, Record]] = []
        reached: dict[int, int] = {}
        skipped = False
        for partition, begin in self.position.items():
            end = min(snapshot.held.position.get(partition, 0), self._buffer.end(partition))
            if end <= begin or not room:
                continue
            if self._buffer.covers(partition, begin):
                end = min(end, begin + room)
                room -= end - begin
                records += self._buffer.between(partition, begin, end)
            else:
                # Dropped, for want of room or because the tail came later.
                skipped = True
            reached[partition] = end
        found = list(changes(snapshot, records, partitions))
        self.position.update(reached)
        if skipped:
            self._forget()
        self._keep(found)
        if self.following > following:
            for listener in self._listeners:
                listener.wake()
        return not room

    def _keep(self, found: Iterable[Change]) -> None:
        for change in found:
            self._kept.append(change)
            self._kept_bytes += len(change.value)
        if len(self._kept) > _KEPT or self._kept_bytes > _KEPT_BYTES:
            # By a quarter, so that this is rare.
            old = self._kept[: len(self._kept) // 4 + 1]
            del self._kept[: len(old)]
            self._first += len(old)
            self._kept_bytes -= sum(len(change.value) for change in old)

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
        if listener.over or listener.next < self.following:
            return
        listener.future = loop.create_future()
        timer = loop.call_at(until, listener.wake)
        try:
            await listener.future
        finally:
            timer.cancel()
            listener.future = None

    def lose(self, partition: int, _held: Held) -> None:
        """Take in that the tail began anew with a partition: let all go if its log is another."""
        begin = self._buffer.end(partition)
        if begin < self.position.get(partition, 0):
            self.position[partition] = begin
            self._end_all()

    def close(self) -> None:
        """Let every listener go."""
        self._closed = True
        self._end_all()

    def _end_all(self) -> None:
        for listener in self._listeners:
            listener.over = True
            listener.wake()
