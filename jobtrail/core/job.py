"""A job as the fold sees it, and its trail: what happened, where in the log, with which verdict."""

from __future__ import annotations

from hashlib import blake2b

import msgspec
from xxhash import xxh3_64_digest

from jobtrail.core.earlier import Earlier
from jobtrail.core.states import State
from jobtrail.core.trail import ENTRY_BYTES


class Place(msgspec.Struct, frozen=True, gc=False):
    """A record's place in the log, and its timestamp."""

    partition: int
    offset: int
    #: Microseconds since the epoch, by the log's clock.
    timestamp: int


class Job(msgspec.Struct, kw_only=True, gc=False):
    """The state of one job at one place of the log. Instants are microseconds since 1970.

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
    #: The source of the event that described the job, else of its first one. Every folded job has
    #: one.
    source: str = ""
    #: Sources that may work on the job too, sorted, each once.
    writers: tuple[str, ...] = ()
    tags: dict[str, str] = {}
    progress: float | None = None
    #: JSON as it came with the last failure; None once the job completed.
    error: bytes | None = None
    #: JSON as it came.
    output: bytes | None = None
    #: The last entries of the trail, packed, see `read_trail`: fewer than a chunk has.
    trail: bytes = b""
    #: Those before them; None where there are none.
    earlier: Earlier | None = None


def event_key(event_id: str) -> bytes:
    """Return the eight bytes by which a job's trail recognizes an event's id.

    Among a job's n events a false match has the chance n * n / 2**65: 10**-11 at 10,000 events.

    All readers of the log have to compute the same key, so there is no seed, and two ids with one
    key can be constructed. That is no attack: an event can only be suppressed by one whose id was
    made to match, by a sender that knew that id before and may write events of this job, and that
    could have sent the same id just as well. A cryptographic hash, of a width that
    fits into an entry, costs 1.3 us an event and keeps out neither.
    """
    return xxh3_64_digest(event_id.encode())


def foreign_key(bound_to: str, event_id: str) -> bytes:
    """Return the eight bytes by which a job's trail recognizes a foreign event.

    It is not the key of the id, which a sender with a part in the job may use later, and no other
    key can be made equal to it, as is possible with XXH3.

    Args:
        bound_to: What the sender is bound to (`jobtrail.core.source_binding`).
        event_id: The event's.
    """
    return blake2b(f"{bound_to}\n{event_id}".encode(), digest_size=8).digest()


def kept_trail(job: Job) -> bytes:
    """Return a job's trail as far as it is in memory: all but what a store has of its beginning."""
    return job.trail if job.earlier is None else job.earlier.kept() + job.trail


def entries_of(job: Job) -> int:
    """Return how many events a job has seen."""
    return len(job.trail) // ENTRY_BYTES + (0 if job.earlier is None else job.earlier.entries)
