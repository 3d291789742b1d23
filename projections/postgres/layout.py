"""How things lie in the store's columns, for who writes and who reads."""

from __future__ import annotations

from hashlib import blake2b
from struct import Struct
from typing import Final

import orjson

from jobtrail.core.states import STATES
from projections.ports.read import Audience

DAY: Final = 86_400_000_000
#: The audience that stands for all jobs in counters, and the one of jobs that nobody owns yet.
EVERYBODY: Final = -1
NOBODY: Final = 0
#: In place of a state: of a job that is not there, or not there any more.
NONE: Final = len(STATES)
#: A row's number is its partition and how many rows that had before: so a writer numbers rows
#: without asking, and a partition's rows lie together.
_PARTITION: Final = 40
#: What `bigint` holds.
LOWEST: Final = -(2**63)
HIGHEST: Final = 2**63 - 1

#: An event's key as a number.
KEY: Final = Struct("<q")

#: A job as `job_of` takes it, but for its audience and its type.
JOB_COLUMNS: Final = (
    "j.id, j.state, j.created_at, j.updated_at, j.started_at, j.ended_at, j.attempt, j.progress, "
    "j.bulk_id, j.tags, j.error, j.output"
)
#: The same with owner, viewers and the type's name.
LINE_COLUMNS: Final = f"{JOB_COLUMNS}, a.owner, a.viewers, t.name"
#: Where these are read from.
LINES: Final = "jobs j JOIN audiences a USING (audience) JOIN types t USING (type)"


def first_row(partition: int) -> int:
    """Return the number before that of a partition's first row."""
    return partition << _PARTITION


def partition_in(row: int) -> int:
    """Return the partition of a row."""
    return row >> _PARTITION


#: The same in SQL.
PARTITION_OF_ROW: Final = f"(row >> {_PARTITION})"


def audience_key(owner: str | None, viewers: tuple[str, ...]) -> bytes:
    """Return the digest by which an audience is found; nobody's is empty."""
    if owner is None:
        return b""
    return blake2b(orjson.dumps((owner, viewers)), digest_size=16).digest()


def audience_of(owner: str | None, viewers: str) -> Audience:
    """Return an audience as a row has it."""
    return owner, tuple(orjson.loads(viewers))


def storable(text: str) -> bool:
    """Tell whether a text can be in the store: whatever can't is never found there."""
    return "\x00" not in text and not any("\ud800" <= char <= "\udfff" for char in text)
