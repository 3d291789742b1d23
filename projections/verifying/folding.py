"""Folds a subset of a partition's jobs from the log alone.

Nothing here depends on the store: a record is judged by `jobtrail.core.decoding`, folded by
`jobtrail.core.fold`, and each change of a job is noted. To limit memory, jobs are folded a subset
at a time, chosen by a hash of their ids; a partition with many jobs is read several times.
"""

from __future__ import annotations

import secrets
from array import array
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import msgspec
from xxhash import xxh3_64_intdigest, xxh3_128_digest

from jobtrail.core.decoding import accept, decode_clear
from jobtrail.core.errors import EventError
from jobtrail.core.events import Created
from jobtrail.core.fold import fold
from jobtrail.core.job import Job, Place
from jobtrail.core.states import STATES
from jobtrail.core.trail import NEVER, STATE_CODES, Verdict
from projections.ports.write import Tally

#: The code of no state in changes.
NONE: Final = len(STATES)
#: Records that are decoded at a time.
_TOGETHER: Final = 256
#: Larger outputs and errors, in bytes, are replaced by their hash.
_LARGE: Final = 64
_APPLIED: Final = Verdict.APPLIED
#: The seed of this process.
_SEED: Final = secrets.randbits(64)


class JobSubset(NamedTuple):
    """Which jobs of a partition are folded."""

    #: One in so many of all jobs is folded.
    sample: int = 1
    #: How many subsets there are, and the number of this one.
    subsets: int = 1
    number: int = 0

    def has(self, key: bytes | None) -> bool:
        """Tell whether a record with this key belongs to the subset."""
        if self.sample == 1 and self.subsets == 1:
            return True
        # With a secret seed: otherwise keys could be made that all belong to one subset.
        chance = xxh3_64_intdigest(key or b"", _SEED)
        return chance % self.sample == 0 and chance // self.sample % self.subsets == self.number


class Folded(msgspec.Struct, gc=False, eq=False):
    """A job, and what is needed for its changes and versions."""

    job: Job
    #: Its place among the subjects.
    subject: int
    #: Offset and time of its first event.
    begun: tuple[int, int]
    #: The effective time of its last applied event.
    effective: int = NEVER
    #: Its earlier subjects, each with the effective time and offset at which it ended.
    former: tuple[tuple[int, int, int], ...] = ()

    def versions(self) -> list[tuple[int, int, int, int | None, int | None]]:
        """Return its versions: subject, first time and offset, last time and offset."""
        offset, time = self.begun
        found: list[tuple[int, int, int, int | None, int | None]] = []
        for subject, until, until_offset in self.former:
            found.append((subject, time, offset, until, until_offset))
            time, offset = until, until_offset
        found.append((self.subject, time, offset, None, None))
        return found


class Fold:
    """Folds records of one partition, in the order of the log.

    Args:
        partition: The partition.
        partitions: How many partitions the log has.
        subset: The jobs that are folded.
    """

    def __init__(self, partition: int, partitions: int, subset: JobSubset) -> None:
        self.partition = partition
        self._partitions = partitions
        self._subset = subset
        self.jobs: dict[str, Folded] = {}
        #: The versions of jobs: the current one, and those that a `job.created` has ended.
        self.subjects: list[Job] = []
        #: The changes, column by column: effective time, offset, subject, state before and after.
        self.effective, self.offsets, self.whose = array("q"), array("q"), array("q")
        self.before, self.after = array("B"), array("B")
        #: The offsets of all records of the subset.
        self.places = array("q")
        self._verdicts = dict.fromkeys(Verdict, 0)
        self._dead = 0

    @property
    def tally(self) -> Tally:
        """How the records of the subset were judged."""
        return Tally._make([*self._verdicts.values(), self._dead])

    def add(self, records: Sequence[Any]) -> None:
        """Fold the next records, as far as they belong to the subset."""
        has = self._subset.has
        mine = [record for record in records if has(record.key)]
        for begin in range(0, len(mine), _TOGETHER):
            some = mine[begin : begin + _TOGETHER]
            clear = decode_clear([record.value for record in some])
            for record, event in zip(some, clear, strict=True):
                self.places.append(record.offset)
                # `decode_clear` does not check key and partition.
                if (
                    event is None
                    or event.subject not in self.jobs
                    or record.key != event.subject.encode()
                ):
                    event = self._accepted(record)
                if event is None:
                    self._dead += 1
                else:
                    self._fold(event, Place(self.partition, record.offset, record.timestamp * 1000))

    def _accepted(self, record: Any) -> Any:
        try:
            return accept(record.key, record.value, self.partition, self._partitions)
        except EventError:
            return None

    def _fold(self, event: Any, place: Place) -> None:
        folded = self.jobs.get(event.subject)
        before = None if folded is None else folded.job
        job, verdict = fold(before, event, place)
        self._verdicts[verdict] += 1
        job.output, job.error = shortened(job.output), shortened(job.error)
        if folded is None:
            folded = self.jobs[job.id] = Folded(
                job, len(self.subjects), (place.offset, job.updated_at)
            )
            self.subjects.append(job)
        if verdict is _APPLIED:
            # The event's own time.
            folded.effective = max(folded.effective, job.updated_at)
        if before is None:
            self._change(folded, place.offset, NONE, STATE_CODES[job.state])
        elif type(event) is Created and _what(before) != _what(job):
            self._change(folded, place.offset, STATE_CODES[before.state], NONE)
            folded.former += ((folded.subject, folded.effective, place.offset),)
            folded.subject = len(self.subjects)
            self.subjects.append(job)
            self._change(folded, place.offset, NONE, STATE_CODES[job.state])
        elif before.state is not job.state:
            self._change(folded, place.offset, STATE_CODES[before.state], STATE_CODES[job.state])
        folded.job = job
        self.subjects[folded.subject] = job

    def _change(self, folded: Folded, offset: int, before: int, after: int) -> None:
        self.effective.append(folded.effective)
        self.offsets.append(offset)
        self.whose.append(folded.subject)
        self.before.append(before)
        self.after.append(after)


def _what(job: Job) -> tuple[object, ...]:
    return job.owner, job.viewers, job.job_type, job.created_at, job.bulk_id


def shortened(payload: bytes | None) -> bytes | None:
    """Return a payload, or its size and hash if it is large: it is only compared."""
    if payload is None or len(payload) <= _LARGE:
        return payload
    return b"%d bytes, hash " % len(payload) + xxh3_128_digest(payload).hex().encode()
