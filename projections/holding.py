"""What a projector holds of one partition, and the fold onto it."""

from __future__ import annotations

from collections.abc import Sequence, Set
from itertools import islice
from typing import Any, Final, NamedTuple

from jobtrail.decoding import accept, decode_clear
from jobtrail.errors import EventError
from jobtrail.events import Created
from jobtrail.fold import fold
from jobtrail.job import Place, Verdict
from jobtrail.states import ENDED
from projections.store import Batch, Entry, Tally

#: Jobs under way that are held between batches, per partition: about 1 KiB each.
MAX_HELD: Final = 20_000
#: Records that are decoded at one go.
_DECODED_TOGETHER: Final = 256
#: Looked up once: each access to a member of an enum takes as long as a small function.
_APPLIED: Final = Verdict.APPLIED


class DeadLetter(NamedTuple):
    """A record that is no valid event, and why."""

    partition: int
    record: Any
    error: EventError


class Partition:
    """What is held of one partition: valid for the fold of everything before `next_offset`."""

    def __init__(self, number: int, next_offset: int) -> None:
        self.number = number
        #: The store's checkpoint: what lies between is folded and not yet written.
        self.written = next_offset
        self.next_offset = next_offset
        self.jobs: dict[str, Entry] = {}
        self.last_event_id = ""
        self.last_timestamp = 0
        self._begin()

    def _begin(self) -> None:
        """Begin what is to be written next."""
        self.touched: list[Entry] = []
        #: How many events were not applied, by their verdict, and records that are no events.
        self.ignored = dict.fromkeys(Verdict, 0)
        self.dead = 0

    @property
    def is_ahead(self) -> bool:
        """Whether something is folded that is not written."""
        return self.next_offset != self.written

    def batch(self) -> Batch:
        """Return what is to be written."""
        return Batch(
            partition=self.number,
            start=self.written,
            next_offset=self.next_offset,
            last_event_id=self.last_event_id,
            last_timestamp=self.last_timestamp,
            changes=self.touched,
            tally=Tally(
                applied=self.next_offset - self.written - sum(self.ignored.values()) - self.dead,
                duplicate=self.ignored[Verdict.DUPLICATE],
                late=self.ignored[Verdict.LATE],
                not_allowed=self.ignored[Verdict.NOT_ALLOWED],
                dead=self.dead,
            ),
        )

    def settle(self) -> None:
        """Take it that all is written: forget jobs that ended, and those longest untouched."""
        self.written = self.next_offset
        jobs = self.jobs
        for entry in self.touched:
            entry.touched = False
            job_id = entry.job.id
            del jobs[job_id]
            if entry.job.state not in ENDED:
                jobs[job_id] = entry
        for job_id in list(islice(jobs, max(0, len(jobs) - MAX_HELD))):
            del jobs[job_id]
        self._begin()

    def fold(self, records: Sequence[Any], partitions: int, astray: Set[bytes]) -> list[DeadLetter]:
        """Fold consecutive records, the next ones, onto the jobs that are held or new.

        Some at a time: what was decoded is in the processor's cache then.

        Args:
            records: Kafka records.
            partitions: How many partitions the log has.
            astray: Keys that belong to another partition.

        Returns:
            Those that are no valid events.
        """
        jobs, touched, ignored = self.jobs, self.touched, self.ignored
        partition = self.number
        dead: list[DeadLetter] = []
        last_event_id = ""
        for begin in range(0, len(records), _DECODED_TOGETHER):
            some = records[begin : begin + _DECODED_TOGETHER]
            clear = decode_clear([record.value for record in some])
            for record, event in zip(some, clear, strict=True):
                key = record.key
                if event is None or key in astray or key != event.subject.encode():
                    try:
                        event = accept(key, record.value, partition, partitions)
                    except EventError as error:
                        dead.append(DeadLetter(partition, record, error))
                        last_event_id = ""
                        continue
                job_id, last_event_id = event.subject, event.id
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
        last = records[-1]
        self.next_offset = last.offset + 1
        self.last_event_id, self.last_timestamp = last_event_id, last.timestamp * 1000
        self.dead += len(dead)
        return dead
