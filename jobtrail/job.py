"""A job as the fold sees it, and its trail: what happened, where in the log, with which verdict."""

from __future__ import annotations

from enum import StrEnum
from struct import Struct as Layout
from typing import Final, NamedTuple

import msgspec
from xxhash import xxh3_64_digest

from jobtrail.states import STATES, State


class Verdict(StrEnum):
    """What the fold made of an event. Append only: the order is that of the codes in a trail."""

    #: It changed the job.
    APPLIED = "applied"
    #: The job has seen an event of this id.
    DUPLICATE = "duplicate"
    #: It belongs to an attempt that is over, or is a `job.created` that came after the fact.
    LATE = "late"
    #: The table has no such transition.
    NOT_ALLOWED = "not-allowed"


VERDICTS: Final = tuple(Verdict)


class Place(msgspec.Struct, frozen=True, gc=False):
    """Where a record lies in the log, and when Kafka took it in."""

    partition: int
    offset: int
    #: Microseconds since the epoch, by the log's clock.
    timestamp: int


class Job(msgspec.Struct, kw_only=True, gc=False):
    """What is known of one job at one place of the log. Instants are microseconds since 1970.

    `fold` never changes a job that it was given; it returns another one.
    """

    id: str
    state: State
    #: Time of `job.created`, else of the first event.
    created_at: int
    #: Time of the last applied event.
    updated_at: int
    #: Time of the first `job.active`.
    started_at: int | None = None
    #: Time of the event that ended it; None again when it is taken up again.
    ended_at: int | None = None
    attempt: int = 0
    #: None until `job.created` was seen: then only `jobs:read:all` sees the job.
    owner: str | None = None
    job_type: str | None = None
    bulk_id: str | None = None
    #: `user:x` and `group:y`, sorted, each once.
    viewers: tuple[str, ...] = ()
    tags: dict[str, str] = {}
    progress: float | None = None
    #: JSON as it came with the last failure; None once the job completed.
    error: bytes | None = None
    #: JSON as it came.
    output: bytes | None = None
    #: The packed trail, see `read_trail`.
    trail: bytes = b""


class TrailEntry(NamedTuple):
    """One event in a job's trail."""

    key: bytes
    offset: int
    #: The event's time, microseconds since the epoch.
    time: int
    #: The job's state after it.
    state: State
    #: Index into `events.EVENT_TYPES`.
    type_code: int
    verdict: Verdict


#: Key of the event's id, offset, time, state, type * 16 + verdict: 26 bytes, little endian.
TRAIL_LAYOUT: Final = Layout("<8sqqBB")
ENTRY_BYTES: Final = TRAIL_LAYOUT.size
STATE_CODES: Final = {state: code for code, state in enumerate(STATES)}


def event_key(event_id: str) -> bytes:
    """Return the eight bytes by which a job's trail knows an event's id again.

    Among a job's n events a false match has the chance n * n / 2**65: 10**-11 at 10,000 events.
    """
    return xxh3_64_digest(event_id.encode())


def trail_has(trail: bytes, key: bytes) -> bool:
    """Tell whether a packed trail holds an event with this key."""
    at = trail.find(key)
    while at >= 0:
        if at % ENTRY_BYTES == 0:
            return True
        at = trail.find(key, at + 1)
    return False


def read_trail(trail: bytes) -> list[TrailEntry]:
    """Unpack a trail, oldest event first."""
    return [
        TrailEntry(key, offset, time, STATES[state], code >> 4, VERDICTS[code & 15])
        for key, offset, time, state, code in TRAIL_LAYOUT.iter_unpack(trail)
    ]


def entry_at(trail: bytes, offset: int) -> TrailEntry | None:
    """Return the entry of the event at an offset of the log; None where the trail has none."""
    low, high = 0, len(trail) // ENTRY_BYTES
    while low < high:
        middle = (low + high) // 2
        key, found, time, state, code = TRAIL_LAYOUT.unpack_from(trail, middle * ENTRY_BYTES)
        if found == offset:
            return TrailEntry(key, found, time, STATES[state], code >> 4, VERDICTS[code & 15])
        if found < offset:
            low = middle + 1
        else:
            high = middle
    return None
