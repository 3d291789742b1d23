"""Logs made from a seed, for the stores' contract tests: every kind of life that a job can have.

The same seed gives the same log, so a seed in a test's name is all that a failure needs.
"""

from __future__ import annotations

import json
import random
from functools import cache
from typing import Any, Final, NamedTuple

from jobtrail.core.events import TYPE_NAMES, Event, decode, from_microseconds
from jobtrail.core.fold import fold
from jobtrail.core.job import Job, Place
from jobtrail.core.partitions import partition_of
from jobtrail.core.source_binding import pack_sources, stamp
from jobtrail.core.states import TRANSITIONS, State

PARTITIONS: Final = 8
DAY: Final = 86_400_000_000
#: 2026-03-02T00:00:00Z, where the days of these logs begin.
BASE: Final = 20_514 * DAY
DAYS: Final = 5

#: Names that a store may take apart, escape, or order in another way than Python does.
OWNERS: Final = (
    "alice", "bob", "Bob", "carol", "d'Arc", 'quo"te', "back\\slash", "%", "_", "é", "e\u0301",
    "group:stewards", "\uff5e", "😀",
)  # fmt: skip
GROUPS: Final = ("stewards", "admins", "ünit", "user:alice", "😀")
TYPES: Final = ("bulkPolicy", "bulkpolicy", "scan", "é", "index 'x'", "\uff5e", "😀")
BULKS: Final = ("b-1", "b-2", "b-17", "B-1", "😀")
PRINCIPALS: Final = (*(f"user:{o}" for o in OWNERS), *(f"group:{g}" for g in GROUPS))
TAGS: Final = ("tenant", 'k"ey', "back\\slash", "$.path", "é", "😀", "a.b")
VALUES: Final = ("acme", "", "ACME", "1", 'v"', "\\", "é", "null")
PAYLOADS: Final = (None, 1e300, "é\n", [1, [{"a": None}]], {}, {"a": {"b": ""}}, False, "")


class Record(NamedTuple):
    """What a projector takes of a Kafka record."""

    topic: str
    partition: int
    offset: int
    #: Milliseconds since the epoch.
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()


class Log:
    """Records by partition, at consecutive offsets."""

    def __init__(self, first: int = 0) -> None:
        self.first = first
        self.records: dict[int, list[Record]] = {p: [] for p in range(PARTITIONS)}

    def add(
        self,
        value: bytes | None,
        key: bytes | None,
        *,
        partition: int | None = None,
        timestamp: int = BASE // 1000,
    ) -> Record:
        """Append a record, to its key's partition unless it is told another."""
        if partition is None:
            assert key is not None
            partition = partition_of(key.decode(), PARTITIONS)
        offset = self.first + len(self.records[partition])
        record = Record("job-events", partition, offset, timestamp, key, value)
        self.records[partition].append(record)
        return record

    def tell(self, kind: str, job_id: str, at: int | None = None, **data: Any) -> Record:
        """Append an event; its id is made from its place."""
        size = sum(map(len, self.records.values()))
        value = event(kind, job_id, f"{job_id[:200]}#{size}", at, **data)
        return self.add(value, job_id.encode(), timestamp=BASE // 1000 + size)

    def slice(self, partition: int, start: int, stop: int) -> list[Record]:
        """Return the records of a partition from one offset up to another."""
        return self.records[partition][start - self.first : stop - self.first]

    def begins(self) -> dict[int, int]:
        """Return the offset of the first record of each partition."""
        return dict.fromkeys(self.records, self.first)

    def ends(self) -> dict[int, int]:
        """Return the offset behind the last record of each partition."""
        return {p: self.first + len(records) for p, records in self.records.items()}

    def __len__(self) -> int:
        return sum(map(len, self.records.values()))


def event(kind: str, job_id: str, event_id: str, at: int | None = None, **data: Any) -> bytes:
    """Return an event's JSON.

    Args:
        kind: The type without `job.`.
        job_id: The subject.
        event_id: The CloudEvents id.
        at: Microseconds since the epoch; None for an event without a time.
        data: The event's data; `job.created` has a type and an owner unless told otherwise.
    """
    body: dict[str, Any] = {"specversion": "1.0", "id": event_id, "source": "//s"}
    body |= {"type": f"job.{kind}", "subject": job_id}
    if at is not None:
        body["time"] = from_microseconds(at).isoformat()
    if kind == "created":
        data = {"jobType": "scan", "owner": "alice"} | data
    return json.dumps(body | ({"data": data} if data else {}), ensure_ascii=False).encode()


class _Life:
    """One job on its way through a log."""

    def __init__(self, job_id: str, rng: random.Random, *, orphan: bool, steady: bool) -> None:
        self.id = job_id
        self.rng = rng
        self.orphan = orphan
        #: Goes on and on, by progress.
        self.steady = steady
        self.job: Job | None = None
        self.sent: list[bytes] = []

    def next(self, event_id: str, clock: int) -> bytes:
        """Return the next event, valid but not always allowed."""
        chance = self.rng.random()
        if self.sent and chance < 0.10:
            return self.rng.choice(self.sent)
        if self.sent and chance < 0.12:
            # Another event under an id that was seen: a duplicate as well.
            event_id = decode(self.rng.choice(self.sent)).id
        kind, data = self._kind(), self._common()
        data |= _about(kind, self.rng)
        if self.job is not None and chance > 0.9:
            data["attempt"] = max(0, self.job.attempt + self.rng.choice((-2, -1, 1, 1, 3)))
        value = event(kind, self.id, event_id, _instant(self.rng), **data)
        self.sent.append(value)
        self.job, _ = fold(self.job, decode(value), Place(0, clock, clock * 1000))
        return value

    def _kind(self) -> str:
        if self.job is None:
            if not self.orphan:
                return "created"
            return self.rng.choice(("active", "progress", "retry" if self.steady else "failed"))
        if self.steady:
            return "progress" if self.rng.random() < 0.97 else "retry"
        chance = self.rng.random()
        if chance < 0.15:
            return self.rng.choice(TYPE_NAMES).removeprefix("job.")
        if self.orphan and self.job.owner is None and chance < 0.4:
            return "created"
        allowed = [s for s in TRANSITIONS[self.job.state] if s is not State.COMPLETED]
        if not allowed or chance > 0.93:
            return "completed"
        return "progress" if chance < 0.3 else str(self.rng.choice(allowed))

    def _common(self) -> dict[str, Any]:
        if self.rng.random() < 0.8:
            return {}
        most = 3 if self.rng.random() < 0.9 else 30
        names = [*TAGS, *(f"t{n}" for n in range(60))] if most == 30 else TAGS
        some = self.rng.sample(names, self.rng.randint(0, most))
        return {"tags": {name: self.rng.choice(VALUES) for name in some}}


def _about(kind: str, rng: random.Random) -> dict[str, Any]:
    """Return what an event of a type carries beside attempt and tags."""
    if kind == "created":
        about = {"jobType": rng.choice(TYPES), "owner": rng.choice(OWNERS)}
        if rng.random() < 0.5:
            about["bulkId"] = rng.choice(BULKS)
        if rng.random() < 0.6:
            about["viewers"] = rng.choices(PRINCIPALS[-8:], k=rng.randint(0, 3))
        return about
    found: dict[str, Any] = {}
    if kind in ("retry", "failed") and rng.random() < 0.7:
        found["error"] = rng.choice(PAYLOADS)
    if kind in ("completed", "failed") and rng.random() < 0.7:
        found["output"] = rng.choice(PAYLOADS)
    if kind == "progress":
        found["progress"] = rng.choice((0, 0.1, 1 / 3, 1))
    return found


def _instant(rng: random.Random) -> int | None:
    """Return an instant; many are the same, many lie at the edges of days, some before 1970."""
    chance = rng.random()
    midnight = BASE + rng.randint(0, DAYS) * DAY
    if chance < 0.4:
        return midnight + rng.randrange(4) * DAY // 4
    if chance < 0.55:
        return midnight + rng.choice((-1, 1))
    if chance < 0.58:
        return rng.choice((-1, 0, -DAY, -DAY - 1))
    if chance < 0.62:
        return None
    return BASE + rng.randrange(DAYS * DAY)


@cache
def seeded_log(seed: int, *, jobs: int = 160, events: int = 1300, steady: int = 3) -> Log:
    """Return a log of mixed lives, to be read only; `steady` jobs have hundreds of events each."""
    rng = random.Random(seed)
    lives = [
        _Life(_job_id(n, rng), rng, orphan=rng.random() < 0.15, steady=False) for n in range(jobs)
    ]
    steadies = [_Life(f"steady-{seed}-{n}", rng, orphan=n == 1, steady=True) for n in range(steady)]
    turns = [rng.choice(lives) for _ in range(events)]
    turns += [life for life in steadies for _ in range(rng.randint(210, 330))]
    rng.shuffle(turns)
    # Drawn apart, so that all else is the same with and without them.
    strangers = random.Random(f"strangers {seed}")
    log = Log()
    for turn, life in enumerate(turns):
        clock = BASE // 1000 + turn
        log.add(life.next(f"e{turn}", clock), life.id.encode(), timestamp=clock)
        if strangers.random() < 0.02:
            told = event("progress", life.id, f"stranger-{turn}", progress=0.99)
            log.add(stamp(told, pack_sources(["//stranger"])), life.id.encode(), timestamp=clock)
        if rng.random() < 0.01:
            log.add(b"\x00no event", None, partition=rng.randrange(PARTITIONS), timestamp=clock)
    return log


def _job_id(number: int, rng: random.Random) -> str:
    form = rng.choice(("{}", "job-{}", "é{}", "\uff5e{}", "😀{}", "J'ob\"{}", "%{}\\", "\ue000{}"))
    return form.format(f"{rng.randrange(16**6):06x}-{number}")


def decoded(record: Record) -> Event:
    """Return the event of a record that holds one."""
    return decode(record.value)
