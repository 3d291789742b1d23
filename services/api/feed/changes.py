"""The changes that the feed sends: events that changed a job, with the job after them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from jobtrail.core.decoding import ids_of
from jobtrail.core.events import TYPE_NAMES
from jobtrail.core.job import Job
from jobtrail.core.partitions import partition_of
from jobtrail.core.position import mark_of
from jobtrail.core.states import State
from jobtrail.core.trail import TrailEntry, Verdict, entry_at
from projections.ports.read import Caller, Filters, Snapshot
from services.api.http.answers import encode, entry_answer, job_answer
from services.api.live.buffer import Record

#: Bytes of memory of a change beside its event and its job's output and error: the objects that it
#: consists of, and the frame of its text.
_COST: Final = 1_700
_CREATED: Final = TYPE_NAMES.index("job.created")


class Change:
    """One event that changed a job, and the job as it is now."""

    __slots__ = ("_mark", "_place", "_text", "entry", "job", "partition", "size", "value")

    def __init__(self, partition: int, entry: TrailEntry, job: Job, value: bytes) -> None:
        self.partition = partition
        self.entry = entry
        self.job = job
        self.value = value
        #: Bytes of memory, with the text that is made when the first listener needs it.
        self.size = _COST + 2 * len(value) + 2 * _text_bytes(job)
        self._text: bytes | None = None
        self._mark: int | None = None
        self._place: bytes | None = None

    @property
    def mark(self) -> int:
        """The mark of the event's record."""
        if self._mark is None:
            self._mark = mark_of(self.job.id.encode(), self.value)
        return self._mark

    @property
    def place(self) -> bytes:
        """The position after the event, of its partition alone."""
        if self._place is None:
            after = self.entry.offset + 1
            self._place = b"%d:%d.%08x" % (self.partition, after, self.mark)
        return self._place

    @property
    def text(self) -> bytes:
        """The lines of a server-sent event, without its id."""
        if self._text is None:
            content = {
                **entry_answer(self.entry, self.partition, self.value),
                "job": job_answer(self.job),
            }
            # JSON escapes line ends inside of strings; outside they mean nothing.
            data = encode(content).replace(b"\r", b" ").replace(b"\n", b" ")
            name = TYPE_NAMES[self.entry.type_code].encode()
            self._text = b"event: %b\ndata: %b\n\n" % (name, data)
        return self._text


def _text_bytes(job: Job) -> int:
    """Return the bytes of a job's output, error, tags and viewers, a part of each change."""
    tags = sum(len(key) + len(value) for key, value in job.tags.items()) if job.tags else 0
    viewers = sum(map(len, job.viewers))
    return len(job.output or b"") + len(job.error or b"") + tags + viewers


class Interest(NamedTuple):
    """The changes that a listener receives."""

    caller: Caller
    filters: Filters
    #: The state after the event has to be one of these; empty for any.
    states: tuple[State, ...]

    @classmethod
    def of(cls, caller: Caller, filters: Filters) -> Interest:
        """Return the interest of a caller in jobs that a search with these filters finds."""
        return cls(caller, filters._replace(states=()), filters.states)

    def takes(self, change: Change) -> bool:
        """Tell whether the listener receives a change."""
        return (
            (not self.states or change.entry.state in self.states)
            and self.caller.sees(change.job)
            and self.filters.match(change.job)
        )


def changes(
    snapshot: Snapshot, records: Sequence[tuple[bytes, Record]], partitions: int
) -> Iterator[Change]:
    """Yield the changes that records made, in their order.

    Args:
        snapshot: Of the projections, which have applied all of the records.
        records: Key and record of each.
        partitions: How many partitions the log has.
    """
    ids = ids_of(key for key, _ in records)
    jobs = snapshot.watched(list(ids.values()))
    trails = {job.id: job.trail for job in jobs.values()}
    long = [job for job in jobs.values() if job.earlier is not None]
    trails |= _parts(snapshot, long, records, partitions)
    for job in jobs.values():
        job.trail, job.earlier = b"", None
    for key, (partition, offset, _timestamp, value) in records:
        job_id = ids.get(key)
        if job_id not in jobs or value is None or partition_of(job_id, partitions) != partition:
            continue
        entry = entry_at(trails[job_id], offset)
        if entry is not None and _changes(entry, snapshot, job_id):
            yield Change(partition, entry, jobs[job_id], value)


def _parts(
    snapshot: Snapshot,
    long: Sequence[Job],
    records: Sequence[tuple[bytes, Record]],
    partitions: int,
) -> dict[str, bytes]:
    """Return the parts of long trails that contain the records."""
    offsets: dict[bytes, list[int]] = {job.id.encode(): [] for job in long}
    # A record in another partition than that of its key is in no trail.
    homes = {job.id.encode(): partition_of(job.id, partitions) for job in long}
    for key, (partition, offset, _timestamp, _value) in records:
        if homes.get(key) == partition:
            offsets[key].append(offset)
    parts = {}
    for job in long:
        trail, places = snapshot.trail(job.id), offsets[job.id.encode()]
        if trail is not None and places:
            parts[job.id] = trail.page(places[0], len(places))
    return parts


def _changes(entry: TrailEntry, snapshot: Snapshot, job_id: str) -> bool:
    if entry.verdict is Verdict.APPLIED:
        return True
    if entry.verdict is not Verdict.LATE or entry.type_code != _CREATED:
        return False
    # A late `job.created` has set the owner and viewers, if it is the first one of the job.
    trail = snapshot.trail(job_id)
    return trail is not None and trail.said()[0] == entry.offset
