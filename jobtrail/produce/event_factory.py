"""Making events: defaults are filled in, and values become JSON."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, TypedDict, Unpack

import msgspec

from jobtrail.core import events as ev
from jobtrail.core.readable import json_of


class Envelope(TypedDict, total=False):
    """The optional arguments of every event."""

    #: The job's attempt, from 0; by default its current one.
    attempt: int
    #: Merged into the job's.
    tags: Mapping[str, str]
    #: When it happened, with a UTC offset; by default now.
    time: datetime
    #: By default a unique one. An event with the same id again changes nothing.
    event_id: str


class EventMaker:
    """Makes events of one source.

    Args:
        source: The sender, as a CloudEvents source: `//billing/worker-7`.
    """

    def __init__(self, source: str) -> None:
        self._source = source
        # Faster than a UUID for each, and as unique: 80 random bits, and a number.
        self._prefix = secrets.token_hex(10)
        self._numbers = itertools.count()

    def created(
        self,
        job_id: str,
        *,
        job_type: str,
        owner: str,
        bulk_id: str | None = None,
        viewers: Iterable[str] = (),
        **envelope: Unpack[Envelope],
    ) -> ev.Event:
        """Make a `job.created` event.

        Args:
            job_id: The job.
            job_type: The job's type.
            owner: The job's owner.
            bulk_id: The bulk that it is part of.
            viewers: Who else may see it: `user:bob`, `group:stewards`.
            **envelope: See `Envelope`.
        """
        head, common = self._split(job_id, envelope)
        data = ev.CreatedData(
            job_type=job_type, owner=owner, bulk_id=bulk_id, viewers=tuple(viewers), **common
        )
        return ev.Created(**head, data=data)

    def active(
        self, job_id: str, *, worker: str | None = None, **envelope: Unpack[Envelope]
    ) -> ev.Event:
        """Make a `job.active` event: a worker started on the job.

        Args:
            job_id: The job.
            worker: Who.
            **envelope: See `Envelope`.
        """
        head, common = self._split(job_id, envelope)
        return ev.Active(**head, data=ev.ActiveData(worker=worker, **common))

    def progress(
        self,
        job_id: str,
        progress: float | None = None,
        *,
        message: str | None = None,
        **envelope: Unpack[Envelope],
    ) -> ev.Event:
        """Make a `job.progress` event.

        Args:
            job_id: The job.
            progress: 0 to 1.
            message: In words.
            **envelope: See `Envelope`.
        """
        head, common = self._split(job_id, envelope)
        data = ev.ProgressData(progress=progress, message=message, **common)
        return ev.Progress(**head, data=data)

    def retry(
        self,
        job_id: str,
        *,
        error: Any = None,
        retry_at: datetime | None = None,
        **envelope: Unpack[Envelope],
    ) -> ev.Event:
        """Make a `job.retry` event: the attempt failed, another is due.

        Args:
            job_id: The job.
            error: The reason, as JSON.
            retry_at: When the next attempt is due, with a UTC offset.
            **envelope: See `Envelope`.
        """
        head, common = self._split(job_id, envelope)
        data = ev.RetryData(error=_raw("error", error), retry_at=retry_at, **common)
        return ev.Retry(**head, data=data)

    def completed(
        self, job_id: str, *, output: Any = None, **envelope: Unpack[Envelope]
    ) -> ev.Event:
        """Make a `job.completed` event.

        Args:
            job_id: The job.
            output: The result, as JSON; 64 KiB at most.
            **envelope: See `Envelope`.
        """
        head, common = self._split(job_id, envelope)
        return ev.Completed(**head, data=ev.CompletedData(output=_raw("output", output), **common))

    def failed(
        self,
        job_id: str,
        *,
        error: Any = None,
        output: Any = None,
        **envelope: Unpack[Envelope],
    ) -> ev.Event:
        """Make a `job.failed` event.

        Args:
            job_id: The job.
            error: The reason, as JSON; 64 KiB at most.
            output: Its partial result, as JSON.
            **envelope: See `Envelope`.
        """
        head, common = self._split(job_id, envelope)
        data = ev.FailedData(error=_raw("error", error), output=_raw("output", output), **common)
        return ev.Failed(**head, data=data)

    def cancelled(
        self, job_id: str, *, reason: str | None = None, **envelope: Unpack[Envelope]
    ) -> ev.Event:
        """Make a `job.cancelled` event.

        Args:
            job_id: The job.
            reason: Why.
            **envelope: See `Envelope`.
        """
        head, common = self._split(job_id, envelope)
        return ev.Cancelled(**head, data=ev.ReasonData(reason=reason, **common))

    def expired(
        self, job_id: str, *, reason: str | None = None, **envelope: Unpack[Envelope]
    ) -> ev.Event:
        """Make a `job.expired` event.

        Args:
            job_id: The job.
            reason: Why.
            **envelope: See `Envelope`.
        """
        head, common = self._split(job_id, envelope)
        return ev.Expired(**head, data=ev.ReasonData(reason=reason, **common))

    def _split(self, job_id: str, envelope: Envelope) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the fields of the event itself, and those of its data."""
        head = {
            "specversion": "1.0",
            "id": envelope.get("event_id") or f"{self._prefix}-{next(self._numbers)}",
            "source": self._source,
            "subject": job_id,
            "time": envelope.get("time") or datetime.now(UTC),
        }
        tags = envelope.get("tags")
        return head, {"attempt": envelope.get("attempt"), "tags": dict(tags) if tags else None}


def _raw(name: str, value: Any) -> msgspec.Raw:
    return ev.NOTHING if value is None else json_of(value, ("data", name))
