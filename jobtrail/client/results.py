"""What a service answers, as types."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from msgspec import Struct

from jobtrail.states import State


class Status(Struct, frozen=True):
    """The state of a job; None where the job is unknown and that was asked for."""

    id: str
    state: State | None
    output: Any = None


class Job(Struct, frozen=True, rename="camel"):
    """A whole job, as `GET /jobs/search` has it."""

    id: str
    state: State
    output: Any
    job_type: str | None
    owner: str | None
    bulk_id: str | None
    created_at: datetime
    started_at: datetime | None
    updated_at: datetime
    ended_at: datetime | None
    attempt: int
    progress: float | None
    error: Any
    tags: dict[str, str]
    viewers: tuple[str, ...]


class Change(Struct, frozen=True, rename="camel"):
    """An event that changed a job, as `GET /jobs/events` tells it."""

    type: str
    time: datetime
    #: `applied`, or `late` for a `job.created` that came after the fact.
    verdict: str
    #: The job's state after the event.
    state: State
    partition: int
    offset: int
    #: The CloudEvent as it is in the log.
    event: Any
    #: The job as it is now: at least as new as the event.
    job: Job
    #: Give this to `Client.events` to go on behind this event.
    position: str = ""


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
