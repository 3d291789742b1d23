"""The client, for asyncio."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import aclosing
from datetime import date, datetime
from types import TracebackType
from typing import Any, Final, Literal, Self, TypeVar

import msgspec
from yarl import URL

from jobtrail.client.errors import ServiceUnavailable
from jobtrail.client.transport import Transport
from jobtrail.contract.results import (
    Change,
    History,
    HistoryEntry,
    Job,
    Page,
    Status,
    Summary,
    TypeCount,
    decoded,
)
from jobtrail.core.states import ENDED, State

_T = TypeVar("_T")
_LONGEST_WAIT: Final = 86_400
_IDS_PER_CALL: Final = 1000
#: Seconds between two requests about jobs that the service does not know.
_ASK_AGAIN: Final = 1.0

Instant = datetime | date | str
Until = Literal["all", "any"]


class Client:
    """Asks a jobtrail service. Use it as an async context manager.

    All methods only read, so temporary failures (no connection, 429, 502, 503, 504) are retried for
    up to `patience` seconds, after the service's `Retry-After` where it sends one.

    Args:
        url: The service, `http://HOST:PORT`.
        token: The caller's token or API key.
        patience: Seconds after which retries of a temporary failure end.
    """

    def __init__(self, url: str, token: str, *, patience: float = 30.0) -> None:
        self._transport = Transport(URL(url), token, patience)
        #: Every read waits until the service has this position of the log. Set it from the
        #: `Jobtrail-Position` of a write to read what was written.
        self.position: str | None = None

    async def __aenter__(self) -> Self:
        """Open the connections."""
        self._transport.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the connections."""
        await self._transport.close()

    async def search(
        self,
        *,
        job_types: Iterable[str] = (),
        states: Iterable[State | str] = (),
        start: Instant | None = None,
        end: Instant | None = None,
        owner: str | None = None,
        bulk_id: str | None = None,
        tags: Mapping[str, str] = {},
        updated_since: Instant | None = None,
        as_of: Instant | None = None,
        page_size: int = 500,
    ) -> AsyncGenerator[Job]:
        """Iterate over all jobs that match, newest first, page by page.

        Args:
            job_types: Only these types.
            states: Only jobs in one of these states.
            start: Only jobs created then or later; a date is its first instant.
            end: Only jobs created then or earlier; a date is its last instant.
            owner: Only jobs of this owner.
            bulk_id: Only jobs of this bulk.
            tags: Only jobs with all these tags.
            updated_since: Only jobs that changed then or later.
            as_of: What was true then, everything as it was: an instant, the last one of a date, or
                a position of the log in its text form.
            page_size: Jobs fetched at a time, 1 to 1000.

        Raises:
            ApiError: The service refused; `ServiceUnavailable` where it can't answer now.
        """
        following: str | None = _relative(
            "/jobs/search",
            **_filters(job_types, states, start, end, owner, bulk_id, tags),
            updatedSince=updated_since,
            asOf=as_of,
            size=page_size,
        )
        while following is not None:
            page = await self._ask("GET", following, Page)
            for job in page.jobs:
                yield job
            following = page.next

    async def job(self, job_id: str, *, as_of: Instant | None = None) -> Job:
        """Return one job.

        Args:
            job_id: The job.
            as_of: As it was then; see `search`.

        Raises:
            ApiError: 404 where you see no such job; 410 where it has changed since and the log has
                lost its events; else as for `search`.
        """
        return await self._ask("GET", _relative("/job", id=job_id, asOf=as_of), Job)

    async def history(self, job_id: str, *, page_size: int = 500) -> AsyncGenerator[HistoryEntry]:
        """Iterate over a job's events in their order in the log, those that were ignored too.

        Args:
            job_id: The job.
            page_size: Events fetched at a time, 1 to 1000.

        Raises:
            ApiError: 404 where you see no such job; else as for `search`.
        """
        following: str | None = _relative("/job/history", id=job_id, size=page_size)
        while following is not None:
            page = await self._ask("GET", following, History)
            for entry in page.events:
                yield entry
            following = page.next

    async def summary(
        self,
        *,
        job_types: Iterable[str] = (),
        start: Instant | None = None,
        end: Instant | None = None,
        as_of: Instant | None = None,
    ) -> list[TypeCount]:
        """Count jobs by type and state.

        Args:
            job_types: Only these types.
            start: Only jobs created then or later; a date is its first instant.
            end: Only jobs created then or earlier; a date is its last instant.
            as_of: What was true then; see `search`.

        Raises:
            ApiError: The service refused; `ServiceUnavailable` where it can't answer now.
        """
        path = _relative(
            "/jobs/summary", jobType=job_types, startDate=start, endDate=end, asOf=as_of
        )
        return (await self._ask("GET", path, Summary)).job_type

    async def bulk(self, bulk_id: str, *, job_types: Iterable[str] = ()) -> dict[str, Status]:
        """Return the state of every job of a bulk.

        Raises:
            ApiError: 404 where you see no job of it; else as for `search`.
        """
        path = _relative("/jobs", bulkId=bulk_id, jobType=job_types)
        return await self._ask("GET", path, dict[str, Status])

    async def statuses(
        self, job_ids: Iterable[str], *, include_unknown: bool = False
    ) -> dict[str, Status]:
        """Return the states of jobs, as many as you name.

        Args:
            job_ids: The jobs.
            include_unknown: Answer unknown ones with the state None; else they are left out.

        Raises:
            ApiError: The service refused; `ServiceUnavailable` where it can't answer now.
        """
        found: dict[str, Status] = {}
        ids = list(dict.fromkeys(job_ids))
        for at in range(0, len(ids), _IDS_PER_CALL):
            some = ids[at : at + _IDS_PER_CALL]
            found |= await self._statuses(some, includeUnknown=include_unknown)
        return found

    async def _statuses(self, job_ids: list[str], **options: Any) -> dict[str, Status]:
        body = {"jobIds": job_ids, **options}
        return await self._ask("POST", "/jobs/statuses", dict[str, Status], body)

    async def wait(
        self, job_ids: Iterable[str], *, until: Until = "all", within: float | None = None
    ) -> dict[str, Status]:
        """Wait until jobs have ended; a broken connection is opened again.

        A job that the service does not know, or that you may not see, counts as not ended: it is
        waited for like any other, for ever where there is no timeout. A job that ends and is then
        resumed has ended for this wait, unless the connection breaks at that moment.

        Args:
            job_ids: The jobs, 1000 at most.
            until: `all` of them, or `any`.
            within: Timeout in seconds; None for no timeout.

        Returns:
            The states then. After a timeout some jobs may not have ended. Unknown jobs are left
            out.

        Raises:
            ApiError: The service refused; `ServiceUnavailable` where it can't answer now.
        """
        ids = list(dict.fromkeys(job_ids))
        clock = time.monotonic
        deadline = None if within is None else clock() + within

        def asked() -> dict[str, Any]:
            left = _LONGEST_WAIT if deadline is None else deadline - clock()
            return {
                "jobIds": ids,
                "until": until,
                "wait": min(max(round(left), 0), _LONGEST_WAIT),
            }

        while True:
            began = clock()
            # Each attempt, also one after a broken connection, waits for the remaining time.
            found = await self._ask("POST", "/jobs/statuses", dict[str, Status], asked)
            ended = [job_id in found and found[job_id].state in ENDED for job_id in ids]
            over = any(ended) if until == "any" else all(ended)
            if over or (deadline is not None and clock() >= deadline - 0.5):
                return found
            pause = began + _ASK_AGAIN - clock()
            if deadline is not None:
                pause = min(pause, deadline - clock())
            await asyncio.sleep(max(0.0, pause))

    async def events(
        self,
        *,
        job_types: Iterable[str] = (),
        states: Iterable[State | str] = (),
        start: Instant | None = None,
        end: Instant | None = None,
        owner: str | None = None,
        bulk_id: str | None = None,
        tags: Mapping[str, str] = {},
        after: str | None = None,
    ) -> AsyncGenerator[Change]:
        """Iterate over the events of jobs, for ever; a broken connection is opened again.

        Each event comes once, those of one job in the log's order.

        Args:
            job_types: Only jobs of these types.
            states: Only events after which the job is in one of these states.
            start: Only jobs created then or later; a date is its first instant.
            end: Only jobs created then or earlier; a date is its last instant.
            owner: Only jobs of this owner.
            bulk_id: Only jobs of this bulk.
            tags: Only jobs with all these tags.
            after: A position: `position` of the last change that was seen, or of a write. None:
                from now on.

        Raises:
            ApiError: The service refused; `ServiceUnavailable` where it was away for longer than
                `patience`.
        """
        filters = _filters(job_types, states, start, end, owner, bulk_id, tags)
        path = _relative("/jobs/events", **filters)
        retry = self._transport.retry()
        while True:
            headers = {"Last-Event-ID": after} if after is not None else {}
            try:
                async with aclosing(self._transport.stream(path, headers)) as stream:
                    async for message in stream:
                        retry = self._transport.retry()
                        after = message.id or after
                        if message.data:
                            change = decoded(message.data, Change)
                            yield msgspec.structs.replace(change, position=after or "")
            except ServiceUnavailable as error:
                await retry.pause(error)

    async def _ask(self, method: str, path: str, result: type[_T], body: Any = None) -> _T:
        headers = {"Jobtrail-Position": self.position} if self.position else {}
        return decoded(await self._transport.ask(method, path, headers, body), result)


def _filters(
    job_types: Iterable[str],
    states: Iterable[State | str],
    start: Instant | None,
    end: Instant | None,
    owner: str | None,
    bulk_id: str | None,
    tags: Mapping[str, str],
) -> dict[str, Any]:
    """Return the query parameters of the filters of a listing and of the feed."""
    return {
        "jobType": job_types,
        "state": states,
        "startDate": start,
        "endDate": end,
        "owner": owner,
        "bulkId": bulk_id,
        "tag": [f"{key}:{value}" for key, value in tags.items()],
    }


def _relative(path: str, **query: Any) -> str:
    """Return a relative URL; arrays are repeated, and what is not given is left out."""
    pairs: list[tuple[str, str]] = []
    for name, value in query.items():
        values = [value] if isinstance(value, str | date | int) else list(value or ())
        pairs += [(name, one.isoformat() if isinstance(one, date) else str(one)) for one in values]
    return str(URL(path).with_query(pairs))
