"""A second model of the fold, written from the documents and from nothing of the product's.

It is what the checker holds a store against: if the two folds agree, either both are right or the
same mistake was made twice, by two who did not read each other.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable
from sys import intern
from typing import Final

from tests.faults.kit.validity import MAX_TAGS, TYPES, Event, Invalid, decode, partition_of

STATES: Final = ("created", "active", "retry", "completed", "failed", "cancelled", "expired")
VERDICTS: Final = ("applied", "duplicate", "late", "not-allowed", "foreign")
ENDED: Final = frozenset(("completed", "failed", "cancelled", "expired"))
#: From state to state; 1 where only a higher attempt makes the transition.
ALLOWED: Final[dict[str, dict[str, int]]] = {
    "created": dict.fromkeys(("active", "retry", *ENDED), 0),
    "active": {"active": 1} | dict.fromkeys(("retry", *ENDED), 0),
    "retry": dict.fromkeys(("active", *ENDED), 0),
    "completed": {},
    "failed": {"retry": 0, "active": 1},
    "expired": {"retry": 0, "active": 1},
    "cancelled": {"created": 0, "active": 1},
}
#: What a record's timestamp is kept between: the years 2 to 9998, in microseconds since 1970.
EARLIEST: Final = -62_104_060_800_000_000
LATEST: Final = 253_370_764_799_999_999
#: Numbers that an entry of a trail takes.
ENTRY: Final = 4
#: Bytes of ids of events from which on a set of them is kept.
_MANY_IDS: Final = 4096


class Job:
    """What is known of a job."""

    __slots__ = (
        "apart", "attempt", "bulk", "created", "ended", "error", "id", "ids", "kind", "output",
        "owner", "progress", "source", "started", "state", "tags", "trail", "updated", "viewers",
        "writers",
    )  # fmt: skip

    def __init__(self, job_id: str, state: str, time: int) -> None:
        self.id = job_id
        self.state = state
        self.created = self.updated = time
        self.started: int | None = None
        self.ended: int | None = None
        self.attempt = 0
        self.owner: str | None = None
        self.kind: str | None = None
        self.bulk: str | None = None
        self.viewers: tuple[str, ...] = ()
        #: Who created it, else began it; and who else may work on it.
        self.source = ""
        self.writers: tuple[str, ...] = ()
        self.tags: dict[str, str] | None = None
        self.progress: float | None = None
        self.output: bytes | None = None
        self.error: bytes | None = None
        #: The ids of all its events: between zero bytes, which no id has, or a set where many.
        self.ids: bytes | set[str] = b"\0"
        #: Ids of events whose senders had no part in it, each with what its sender is bound to.
        self.apart: set[str] | None = None
        #: Per event offset, time, code (type, state after it, verdict) and hash of its id.
        self.trail = array("q")

    def has(self, event_id: str) -> bool:
        """Tell whether it has an event of this id."""
        if isinstance(self.ids, bytes):
            return b"\0%b\0" % event_id.encode() in self.ids
        return event_id in self.ids

    def knows(self, event_id: str) -> bool:
        """Tell whether it has an event of this id, and take the id in."""
        ids = self.ids
        if isinstance(ids, bytes):
            known = b"\0%b\0" % event_id.encode() in ids
            if not known:
                self.ids = ids = b"%b%b\0" % (ids, event_id.encode())
                if len(ids) > _MANY_IDS:
                    self.ids = set(ids.decode()[1:-1].split("\0"))
            return known
        known = event_id in ids
        ids.add(event_id)
        return known

    def entries(self) -> list[tuple[int, int, str, str, str]]:
        """Return its trail: per event offset, time, type, state after it and verdict."""
        flat = self.trail
        return [(flat[n], flat[n + 1], *named(flat[n + 2])) for n in range(0, len(flat), ENTRY)]


def _code(kind: str, state: str, verdict: str) -> int:
    return (TYPES.index(kind) << 8) | (STATES.index(state) << 4) | VERDICTS.index(verdict)


def named(code: int) -> tuple[str, str, str]:
    """Return what a code in a trail says: type, state after the event and verdict."""
    return TYPES[code >> 8], STATES[(code >> 4) & 15], VERDICTS[code & 15]


_CODES: Final = {
    (kind, state, verdict): _code(kind, state, verdict)
    for kind in TYPES
    for state in STATES
    for verdict in VERDICTS
}


class Model:
    """The fold of a log, record by record.

    Args:
        partitions: How many partitions the log has.
        hash_of: By which a trail is to know an event's id: 64 bits with a sign.
        apart_hash_of: The same, of an event whose sender has no part in its job.
    """

    def __init__(
        self,
        partitions: int,
        hash_of: Callable[[str], int] = hash,
        apart_hash_of: Callable[[str], int] = hash,
    ) -> None:
        self.partitions = partitions
        self._hash = hash_of
        self._apart_hash = apart_hash_of
        self.jobs: dict[str, Job] = {}
        #: Per partition how its records were judged; `dead`: no valid event.
        self.tallies: dict[int, Counter[str]] = {p: Counter() for p in range(partitions)}
        #: Places of the records that are no valid event.
        self.dead: set[tuple[int, int]] = set()
        #: Per partition the offset behind the last record that was taken.
        self.position: dict[int, int] = dict.fromkeys(range(partitions), 0)

    def take(
        self, partition: int, offset: int, timestamp: int, key: bytes | None, value: bytes | None
    ) -> tuple[Job, str, Event] | None:
        """Take one record; its timestamp is in milliseconds.

        Returns:
            The job after it, the verdict and the event; None where it is no valid event.
        """
        self.position[partition] = offset + 1
        try:
            event = decode(value)
            if key != event.subject.encode():
                raise Invalid("another key")
            job = self.jobs.get(event.subject)
            if job is None and partition_of(key, self.partitions) != partition:
                raise Invalid("another partition")
        except (Invalid, UnicodeEncodeError):
            self.tallies[partition]["dead"] += 1
            self.dead.add((partition, offset))
            return None
        time = event.time
        if time is None:
            time = min(max(timestamp * 1000, EARLIEST), LATEST)
        job, verdict, is_apart = self._judge(job, event, time)
        self.tallies[partition][verdict] += 1
        code = _CODES[event.type, job.state, verdict]
        key = self._apart_hash(event.apart) if is_apart else self._hash(event.id)
        job.trail.extend((offset, time, code, key))
        return job, verdict, event

    def _judge(self, job: Job | None, event: Event, time: int) -> tuple[Job, str, bool]:
        kind = event.type[4:]
        if job is None:
            state = "created" if kind == "progress" else kind
            job = self.jobs[event.subject] = Job(event.subject, intern(state), time)
            job.knows(event.id)
            job.source = intern(event.source)
            _apply(job, event, kind, time, event.data.get("attempt") or 0)
            return job, "applied", False
        was_apart = event.apart in (job.apart or ())
        # Writers beside the job's own source say nothing of whose it is.
        partners = {job.source} if kind == "created" else {job.source, *job.writers}
        if event.senders and event.senders.isdisjoint(partners):
            job.apart = {*(job.apart or ()), event.apart}
            return job, "duplicate" if was_apart or job.has(event.id) else "foreign", True
        if job.knows(event.id) or was_apart:
            return job, "duplicate", False
        attempt = event.data.get("attempt")
        if attempt is None:
            attempt = job.attempt + (job.state == "retry" and kind == "active")
        ownerless = job.owner is None and kind == "created"
        if attempt < job.attempt or (ownerless and attempt == job.attempt):
            verdict = "late"
        elif kind == "progress":
            verdict = "not-allowed" if job.state in ENDED else "applied"
        else:
            step = ALLOWED[job.state].get(kind)
            allowed = step is not None and attempt >= job.attempt + step
            verdict = "applied" if allowed else "late" if ownerless else "not-allowed"
        if verdict == "applied":
            _apply(job, event, kind, time, attempt)
        elif ownerless:
            job.created = time
            _describe(job, event)
            # Given before all that the job has.
            job.tags = _capped({**(event.data.get("tags") or {}), **(job.tags or {})})
        return job, verdict, False


def _apply(job: Job, event: Event, kind: str, time: int, attempt: int) -> None:
    if attempt > job.attempt:
        job.attempt, job.progress = attempt, None
    if kind != "progress":
        job.state = intern(kind)
        if kind in ENDED:
            job.ended = time
        elif job.ended is not None:
            job.ended = job.output = None
    job.updated = time
    data = event.data
    if data.get("tags"):
        job.tags = _capped({**(job.tags or {}), **data["tags"]})
    if kind == "active" and job.started is None:
        job.started = time
    elif kind == "progress":
        told = data.get("progress")
        job.progress = job.progress if told is None else told
    elif kind in ("retry", "completed", "failed"):
        job.error = event.error
        if kind != "retry":
            job.output = event.output
    elif kind == "created":
        if job.owner is None:
            job.created = time
        _describe(job, event)


def _describe(job: Job, event: Event) -> None:
    data = event.data
    job.kind = intern(data["jobType"])
    job.owner = intern(data["owner"])
    bulk = data.get("bulkId")
    job.bulk = None if bulk is None else intern(bulk)
    job.viewers = tuple(sorted(set(map(intern, data.get("viewers") or ()))))
    job.source = intern(event.source)
    job.writers = tuple(sorted(set(map(intern, data.get("writers") or ()))))


def _capped(tags: dict[str, str]) -> dict[str, str] | None:
    while len(tags) > MAX_TAGS:
        tags.popitem()
    return {intern(name): intern(tag) for name, tag in tags.items()} or None
