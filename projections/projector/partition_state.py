"""The projector's cache of one partition, and the fold onto it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from itertools import islice
from typing import Any, Final, NamedTuple

from jobtrail.core.decoding import DECODED_TOGETHER, accept, decode_clear, event_keys, ids_of
from jobtrail.core.earlier import StoredEntries
from jobtrail.core.errors import EventError
from jobtrail.core.events import Created, Event
from jobtrail.core.fold import fold
from jobtrail.core.job import Place
from jobtrail.core.partition_columns import partitions_of
from jobtrail.core.position import LastRecord
from jobtrail.core.states import ENDED
from jobtrail.core.trail import Verdict
from jobtrail.log.batches import UnreadBatch
from jobtrail.log.consumers import Group
from jobtrail.log.questions import last_record
from projections.ports.write import Entry, FoldedBatch, Tally

#: Unfinished jobs that are cached between batches, per partition, and the bytes that they may take
#: beside about 1 KiB each: error, tags and viewers of a single job can have 64 KiB and more.
MAX_CACHED: Final = 20_000
MAX_CACHED_BYTES: Final = 16 * 1024 * 1024
#: Looked up once: each access to a member of an enum takes as long as a small function.
_APPLIED: Final = Verdict.APPLIED


class DeadLetter(NamedTuple):
    """A record that is no valid event, and why."""

    partition: int
    record: Any
    error: EventError


class PartitionState:
    """The cache of one partition: the fold of everything before `next_offset`."""

    def __init__(self, number: int, next_offset: int, last: LastRecord | None) -> None:
        self.number = number
        #: The store's checkpoint: records from there to `next_offset` are folded and not written.
        self.written = next_offset
        self.next_offset = next_offset
        #: The last record before `next_offset`, None where there was none yet.
        self.last = last
        #: The leader epoch of the last group, and the count of broken connections: when they
        #: change, the log may be another one. At first nothing is proven.
        self.epoch = self.breaks = -1
        self.jobs: dict[str, Entry] = {}
        #: Bytes of the cached jobs, as of their last measurement.
        self._size = 0
        #: The ids of cached jobs with a part of their trail only in the store.
        self._long: set[str] = set()
        self._begin()

    def _begin(self) -> None:
        """Begin the next batch."""
        self.touched: list[Entry] = []
        #: How many events were not applied, by their verdict, and records that are no events.
        self.ignored = dict.fromkeys(Verdict, 0)
        self.folded = self.dead = 0

    @property
    def is_ahead(self) -> bool:
        """Whether folded records are not written yet."""
        return self.next_offset != self.written

    def batch(self) -> FoldedBatch:
        """Return the batch that is to be written."""
        return FoldedBatch(
            partition=self.number,
            start=self.written,
            next_offset=self.next_offset,
            last=self.last,
            changes=self.touched,
            tally=Tally(
                applied=self.folded - sum(self.ignored.values()) - self.dead,
                duplicate=self.ignored[Verdict.DUPLICATE],
                late=self.ignored[Verdict.LATE],
                not_allowed=self.ignored[Verdict.NOT_ALLOWED],
                foreign=self.ignored[Verdict.FOREIGN],
                dead=self.dead,
            ),
        )

    def settle(self) -> None:
        """Note that the batch is written: drop ended jobs, and those longest untouched."""
        self.written = self.next_offset
        jobs = self.jobs
        for entry in self.touched:
            entry.touched = False
            job_id = entry.job.id
            del jobs[job_id]
            if entry.job.state not in ENDED:
                jobs[job_id] = entry
                self._size += entry.measure()
            else:
                self._size -= entry.size
            if isinstance(entry.job.earlier, StoredEntries):
                # The answers of the store were about the events that are folded by now.
                entry.job.earlier = entry.job.earlier.with_answers({})
                self._long.add(job_id)
        self._let_go()
        self._long &= jobs.keys()
        self._begin()

    def _let_go(self) -> None:
        """Drop the jobs longest untouched, while there are too many or they are too large."""
        jobs, count = self.jobs, 0
        for count, entry in enumerate(jobs.values()):
            if len(jobs) - count <= MAX_CACHED and self._size <= MAX_CACHED_BYTES:
                break
            self._size -= entry.size
        else:
            count = len(jobs)
        for job_id in list(islice(jobs, count)):
            del jobs[job_id]

    def missing(
        self, records: Sequence[Any], partitions: int
    ) -> tuple[Mapping[bytes, str], list[str], set[bytes]]:
        """Find the jobs of records that are not cached.

        Args:
            records: As `fold` takes them.
            partitions: How many partitions the log has.

        Returns:
            The ids of their jobs, by their keys; the ids that are not cached; the keys that belong
            to another partition.
        """
        ids = ids_of({record.key for record in records})
        missing = {key: job_id for key, job_id in ids.items() if job_id not in self.jobs}
        places = partitions_of(list(missing), partitions)
        misrouted = {
            key for key, place in zip(missing, places, strict=True) if place != self.number
        }
        return ids, [job_id for key, job_id in missing.items() if key not in misrouted], misrouted

    def next_of(self, group: Group) -> Iterator[list[Any]]:
        """Yield the records of a group from `next_offset` on, in pieces, which may be empty."""
        for records in group.pieces():
            if records and records[0].offset < self.next_offset:
                yield [record for record in records if record.offset >= self.next_offset]
            else:
                yield records

    def take_in(self, found: Mapping[str, Entry]) -> None:
        """Cache jobs that were loaded from the store."""
        self.jobs.update(found)
        self._size += sum(entry.measure() for entry in found.values())
        self._long.update(job_id for job_id in found if found[job_id].job.earlier is not None)

    def to_be_recalled(
        self, records: Sequence[Any], ids: Mapping[bytes, str]
    ) -> Iterator[tuple[Entry, Set[bytes]]]:
        """Yield the jobs whose earlier events have to be looked up before records are folded.

        Args:
            records: Kafka records.
            ids: The ids of their jobs, by their keys.

        Yields:
            A job, and the keys of its events.
        """
        long = self._long.intersection(ids.values()) if self._long else ()
        if not long:
            return
        values: dict[str, list[bytes | None]] = {job_id: [] for job_id in long}
        for record in records:
            job_id = ids.get(record.key)
            if job_id in values:
                values[job_id].append(record.value)
        for job_id, some in values.items():
            yield self.jobs[job_id], event_keys(some)

    def recall(self, entry: Entry, keys: Set[bytes], seen: Set[bytes]) -> None:
        """Note which events of a job the store has, for the fold."""
        assert isinstance(entry.job.earlier, StoredEntries)
        entry.job.earlier = entry.job.earlier.with_answers({key: key in seen for key in keys})

    def fold(
        self, records: Sequence[Any], epoch: int, partitions: int, misrouted: Set[bytes]
    ) -> list[DeadLetter]:
        """Fold the next records onto the jobs that are cached or new.

        In pieces: decoded records are still in the processor's cache when they are folded.

        Args:
            records: Kafka records, in order; one at least.
            epoch: Of the leader that appended them.
            partitions: How many partitions the log has.
            misrouted: Keys that belong to another partition.

        Returns:
            The records that are no valid events.
        """
        jobs, touched, ignored = self.jobs, self.touched, self.ignored
        partition = self.number
        dead: list[DeadLetter] = []
        for begin in range(0, len(records), DECODED_TOGETHER):
            some = records[begin : begin + DECODED_TOGETHER]
            clear = decode_clear([record.value for record in some])
            for record, event in zip(some, clear, strict=True):
                key = record.key
                if event is None or key in misrouted or key != event.subject.encode():
                    try:
                        event = _accepted(record, partition, partitions)
                    except EventError as error:
                        # Very many may be in memory, each with its frames.
                        error.__traceback__ = error.__context__ = error.__cause__ = None
                        dead.append(DeadLetter(partition, record, error))
                        continue
                job_id = event.subject
                place = Place(partition, record.offset, record.timestamp * 1000)
                entry = jobs.get(job_id)
                if entry is None:
                    job, verdict = fold(None, event, place)
                    entry = jobs[job_id] = Entry(job)
                else:
                    before = entry.job
                    entry.job, verdict = fold(before, event, place)
                    if type(event) is Created:
                        entry.note(before, place.offset)
                if not entry.touched:
                    entry.touched = True
                    touched.append(entry)
                if verdict is not _APPLIED:
                    ignored[verdict] += 1
        self.last = last_record(records[-1], epoch)
        self.next_offset = records[-1].offset + 1
        self.folded += len(records)
        self.dead += len(dead)
        return dead


def _why_no_value() -> EventError:
    """Return the error of a record without a value."""
    try:
        accept(None, None, 0, 1)
    except EventError as error:
        return error
    raise AssertionError("a record without a value is no event")


#: Made once: hundreds of thousands fit into one batch.
_NO_VALUE: Final = _why_no_value()


def _accepted(record: Any, partition: int, partitions: int) -> Event:
    """Return the event of a record.

    Raises:
        EventError: The record is no valid event.
    """
    if not record.value:
        raise _NO_VALUE
    if isinstance(record.value, UnreadBatch):
        raise record.value.error
    return accept(record.key, record.value, partition, partitions)
