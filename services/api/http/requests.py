"""One model per request, which parses and validates it and describes it in the OpenAPI document.

A model reports everything that is wrong with a request, so that a client can correct all of it.
"""

from __future__ import annotations

import re
from functools import cached_property, lru_cache
from typing import Annotated, Any, ClassVar, Final, Literal, TypeVar, get_origin

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from jobtrail.core.states import State
from projections.ports.read import Filters
from services.api.http.fields import AsOf, End, InJson, InQuery, Name, Start, Tags
from services.api.http.query import parse_query
from services.api.problems.problems import RequestFault, invalid

#: The most jobs that one request names or gets.
MAX_SIZE: Final = 1000
DEFAULT_SIZE: Final = 100
#: The longest wait, in seconds.
MAX_WAIT: Final = 86_400
FOREVER: Final = -1

#: The most parameters of a query and members of a body; each takes microseconds. Enough for every
#: query: with 100 types and 32 tags, each as a parameter, there are 150.
MAX_PARAMETERS: Final = 200
MAX_MEMBERS: Final = 50
#: The most types, or states, of a filter.
MAX_KINDS: Final = 100
#: The length up to which parsed query strings are cached.
_CACHED_LENGTH: Final = 256
#: The characters of cursors.
_CURSOR: Final = re.compile(r"[A-Za-z0-9_-]+")


class Request(BaseModel):
    """The base of all requests: unknown members are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Query(Request):
    """The query of a GET."""

    #: The parameters that are arrays, by their names in the query.
    arrays: ClassVar[frozenset[str]]

    @classmethod
    def __pydantic_init_subclass__(cls, **_kwargs: Any) -> None:
        """Collect the parameters that are arrays."""
        cls.arrays = frozenset(
            field.alias or name
            for name, field in cls.model_fields.items()
            if get_origin(field.annotation) is tuple
        )


class NoQuery(Query):
    """A request that takes no parameters."""


class _OfTypes(Query):
    job_types: tuple[Name, ...] = Field(
        (), alias="jobType", max_length=MAX_KINDS, description="Only these types, 100 at most."
    )


class BulkQuery(_OfTypes):
    """`GET /jobs`: the jobs of one bulk."""

    bulk_id: Name = Field(alias="bulkId", description="The bulk.")
    wait: Annotated[int, InQuery] = Field(
        0,
        ge=FOREVER,
        le=MAX_WAIT,
        description="Seconds to wait for every job of the bulk to end; -1 for no limit.",
    )

    @cached_property
    def filters(self) -> Filters:
        """The filters for the store."""
        return Filters(bulk_id=self.bulk_id, job_types=self.job_types)


class _AsOf(Query):
    as_of: AsOf | None = Field(
        None,
        alias="asOf",
        description="What was true then: at this instant, by the events' times (a date is its last "
        "instant), or at this position of the log, `partition:next` pairs; nothing counts of a "
        "partition that is not named.",
    )


class JobQuery(_AsOf):
    """`GET /jobs/{id}`: one job."""


class _ById(Query):
    id: Name = Field(description="The job.")


class JobByIdQuery(_ById, _AsOf):
    """`GET /job`: one job."""


class _Ranged(_OfTypes):
    created_from: Start | None = Field(
        None, alias="startDate", description="Only jobs created then or later."
    )
    created_to: End | None = Field(
        None, alias="endDate", description="Only jobs created then or earlier."
    )

    @cached_property
    def filters(self) -> Filters:
        """The filters for the store."""
        return Filters(
            job_types=self.job_types, created_from=self.created_from, created_to=self.created_to
        )


class SummaryQuery(_Ranged, _AsOf):
    """`GET /jobs/summary`: counts by type and state."""


class _Filtered(_Ranged):
    """All the filters that there are."""

    states: tuple[Annotated[State, Field(strict=False)], ...] = Field(
        (), alias="state", max_length=MAX_KINDS, description="Only jobs in one of these states."
    )
    owner: Name | None = Field(None, description="Only jobs of this owner.")
    bulk_id: Name | None = Field(None, alias="bulkId", description="Only jobs of this bulk.")
    tags: Tags = Field((), alias="tag", description="Only jobs with all these tags, 32 at most.")
    updated_since: Start | None = Field(
        None, alias="updatedSince", description="Only jobs that changed then or later."
    )

    @cached_property
    def filters(self) -> Filters:
        """The filters for the store."""
        return Filters(
            job_types=self.job_types,
            states=self.states,
            created_from=self.created_from,
            created_to=self.created_to,
            owner=self.owner,
            bulk_id=self.bulk_id,
            tags=self.tags,
            updated_since=self.updated_since,
        )


class FeedQuery(_Filtered):
    """`GET /jobs/events`: what happens to jobs, as it happens."""


class SearchQuery(_Filtered, _AsOf):
    """`GET /jobs/search`: a page of jobs, newest first."""

    offset: Annotated[int, InQuery] = Field(
        0, ge=0, description="How many jobs to pass over; not together with `cursor`."
    )
    size: Annotated[int, InQuery] = Field(
        DEFAULT_SIZE, ge=1, le=MAX_SIZE, description="The most jobs to answer with."
    )
    cursor: str | None = Field(None, description="From `next` of the page before.")


class HistoryQuery(Query):
    """`GET /jobs/{id}/history`: what happened to a job."""

    from_offset: Annotated[int, InQuery] = Field(
        0, alias="fromOffset", ge=0, description="Only events from this offset of the log on."
    )
    size: Annotated[int, InQuery] = Field(
        DEFAULT_SIZE, ge=1, le=MAX_SIZE, description="The most events to answer with."
    )


class HistoryByIdQuery(_ById, HistoryQuery):
    """`GET /job/history`: what happened to a job."""


class StatusesBody(Request):
    """`POST /jobs/statuses`: the states of jobs by their ids, and a wait for their end."""

    job_ids: list[str] = Field(
        alias="jobIds", min_length=1, max_length=MAX_SIZE, description="The jobs."
    )
    wait: Annotated[int, InJson] = Field(
        0,
        ge=FOREVER,
        le=MAX_WAIT,
        description="Seconds to wait for the jobs to end; -1 for no limit.",
    )
    poll_interval: Annotated[int, InJson] = Field(
        1, alias="pollInterval", ge=1, description="Accepted for compatibility: nothing polls."
    )
    include_unknown: bool = Field(
        False, alias="includeUnknown", description="Answer unknown ids with the state null."
    )
    until: Literal["all", "any"] = Field(
        "all", description="Whether a wait is for all of the jobs or the first of them."
    )


_Q = TypeVar("_Q", bound=Query)
_B = TypeVar("_B", bound=Request)


def read_query(model: type[_Q], raw: str) -> _Q:
    """Parse a query string.

    Args:
        model: Of the endpoint.
        raw: As it was sent, without the question mark.

    Raises:
        Problem: 400 with everything that is wrong.
    """
    return _read_cached(model, raw) if len(raw) <= _CACHED_LENGTH else _read_query(model, raw)


def read_search(raw: str) -> SearchQuery:
    """Parse the query string of a search like `read_query`, but faster for pages after the first.

    The pages of a listing differ only in the cursor, so the rest is found in the cache.

    Raises:
        Problem: 400 with everything that is wrong.
    """
    others, found, cursor = raw.rpartition("&cursor=")
    if found and _CURSOR.fullmatch(cursor):
        query = read_query(SearchQuery, others)
        if query.cursor is None:
            return query.model_copy(update={"cursor": cursor})
    return read_query(SearchQuery, raw)


# The result depends on the model and the text alone, and is immutable.
# 2,048 queries of 256 characters, about 4 KiB each: 8 MiB at most.
@lru_cache(maxsize=2048)
def _read_cached(model: type[_Q], raw: str) -> _Q:
    return _read_query(model, raw)


def _read_query(model: type[_Q], raw: str) -> _Q:
    count = raw.count("&") + 1
    if count > MAX_PARAMETERS:
        detail = f"A query has {MAX_PARAMETERS} parameters at most, not {count:,}."
        raise invalid([RequestFault("parameter", "", detail)])
    found, faults = parse_query(raw, model.arrays)
    lists: dict[str, Any] = {k: tuple(v) if type(v) is list else v for k, v in found.items()}
    try:
        query = model.model_validate(lists)
    except ValidationError as error:
        faults += [
            RequestFault("parameter", str(fault["loc"][0]), _detail(fault, "parameter"))
            for fault in error.errors(include_url=False)
        ]
    if faults:
        raise invalid(faults)
    return query


def read_body(model: type[_B], body: bytes) -> _B:
    """Parse a JSON body.

    Raises:
        Problem: 400 with everything that is wrong.
    """
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise invalid([RequestFault("pointer", "", f"The body is not JSON: {error}.")]) from None
    if isinstance(found, dict) and len(found) > MAX_MEMBERS:
        detail = f"The body has {MAX_MEMBERS} fields at most, not {len(found):,}."
        raise invalid([RequestFault("pointer", "", detail)])
    try:
        return model.model_validate(found)
    except ValidationError as error:
        raise invalid(
            [
                RequestFault("pointer", _pointer(fault["loc"]), _detail(fault, "field"))
                for fault in error.errors(include_url=False)
            ]
        ) from None


def _pointer(loc: tuple[int | str, ...]) -> str:
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in loc)


def _detail(fault: ErrorDetails, what: str) -> str:
    if fault["type"] == "extra_forbidden":
        return f"There is no such {what}."
    if fault["type"] == "missing":
        return f"This {what} is required."
    if fault["type"] == "model_type":
        return "Input should be a JSON object."
    found = fault["input"]
    echo = f"; found {found!r}" if isinstance(found, str) and 0 < len(found) <= 80 else ""
    return f"{fault['msg']}{echo}."
