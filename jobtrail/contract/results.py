"""The service's answers, as types."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Struct

from jobtrail.core.events import TYPE_NAMES
from jobtrail.core.readable import readable
from jobtrail.core.states import State
from jobtrail.core.trail import Verdict

_T = TypeVar("_T")
Instant = Annotated[datetime, Meta(tz=True)]


class Status(Struct, frozen=True):
    """The state of a job; None for an unknown job, with `include_unknown`."""

    id: str
    state: State | None
    output: Any


class Job(Struct, frozen=True, rename="camel"):
    """A job with all its fields, as `GET /jobs/search` returns it."""

    id: str
    state: State
    output: Any
    job_type: str | None
    owner: str | None
    bulk_id: str | None
    created_at: Instant
    started_at: Instant | None
    updated_at: Instant
    ended_at: Instant | None
    attempt: int
    progress: float | None
    error: Any
    tags: dict[str, str]
    viewers: tuple[str, ...]


class TypeCount(Struct, frozen=True, rename="camel"):
    """How many jobs of a type are in each state."""

    job_type: str | None
    total: int
    created: int
    active: int
    retry: int
    completed: int
    failed: int
    cancelled: int
    expired: int


class Page(Struct, frozen=True):
    """A page of a search."""

    jobs: list[Job]
    #: Relative URL of the next page.
    next: str | None


class Summary(Struct, frozen=True, rename="camel"):
    """The answer of `GET /jobs/summary`."""

    job_type: list[TypeCount]


class HistoryEntry(Struct, frozen=True):
    """One event of a job, and its verdict."""

    #: A newer service may know more types.
    type: Annotated[str, Meta(extra_json_schema={"enum": list(TYPE_NAMES)})]
    #: The event's time, else the log's timestamp.
    time: Instant
    verdict: Verdict
    #: The job's state after it.
    state: State
    partition: int
    offset: int
    #: The CloudEvent as it came; None where the log has lost it.
    event: Any


class History(Struct, frozen=True):
    """A page of `GET /jobs/{id}/history`."""

    id: str
    events: list[HistoryEntry]
    #: Relative URL of the next page.
    next: str | None


class ChangeData(HistoryEntry, frozen=True):
    """The data of one event of `GET /jobs/events`: what changed a job.

    The verdict is `applied`, or `late` for a `job.created` that came after the fact.
    """

    #: The job as it is now: at least as new as the event.
    job: Job


class Change(ChangeData, frozen=True):
    """The same, as `Client.events` gives it."""

    #: Pass this to `Client.events` to continue after it.
    position: str = ""


class Written(Struct, frozen=True):
    """The answer of `POST /events` to one event."""

    id: str
    #: After the event: a read at this position includes it.
    position: str


class EventVerdict(Struct, frozen=True):
    """Whether one event of a batch is in the log."""

    accepted: bool
    id: str | None = None
    position: str | None = None
    #: Why it is not: `invalid`, `not-json`, `not-utf-8`, `no-value`, `too-large`,
    #: or `foreign-source` for callers that may write other sources only.
    reason: str | None = None
    detail: str | None = None


class BatchWritten(Struct, frozen=True):
    """The answer of `POST /events` to a batch: a verdict on each event, in its order."""

    events: list[EventVerdict]
    #: After the last of them.
    position: str


def decoded(content: bytes, kind: type[_T]) -> _T:
    """Decode an answer, whatever JSON its jobs have.

    An older service or log may have JSON that parsers refuse: a number beyond the range of a float
    is returned as a string, a lone surrogate as U+FFFD.

    Args:
        content: The service's answer.
        kind: Its type.

    Raises:
        msgspec.MsgspecError: It is not of that type.
    """
    try:
        return msgspec.json.decode(content, type=kind)
    except msgspec.DecodeError:
        portable = readable(content)
        if portable == content:
            raise
        return msgspec.json.decode(portable, type=kind)
