"""What an endpoint is: the one definition that routes, validates and documents it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, NamedTuple

from aiohttp import web

from services.api.access.auth import Identity
from services.api.http.requests import Query, Request
from services.api.problems.problems import (
    BEHIND,
    BUSY,
    LOG_CHANGED,
    LOG_UNAVAILABLE,
    READ_TOO_LONG,
    RECOVERING,
    STOPPING,
    STORE_UNAVAILABLE,
    TOO_MANY_BYTES,
    TOO_MANY_READS,
    Kind,
)
from services.api.reads.freshness import LAG, POSITION
from services.api.service import Service

Handler = Callable[[Service, web.Request, Identity], Awaitable[web.StreamResponse]]

JSON: Final = "application/json"
#: Of an answer that has no end.
STREAM: Final = "text/event-stream"
#: The headers of every answer that was read from the projections.
FRESHNESS: Final = (POSITION, LAG)
#: What every read of the projections may be refused with.
READS: Final = (
    RECOVERING, BEHIND, STORE_UNAVAILABLE, STOPPING, LOG_CHANGED, LOG_UNAVAILABLE, BUSY,
    TOO_MANY_BYTES, TOO_MANY_READS,
)  # fmt: skip
#: What a read that may be long may be refused with.
LONG_READS: Final = (*READS, READ_TOO_LONG)


class Link(NamedTuple):
    """What an answer leads to: an endpoint that takes a part of it.

    Values may be runtime expressions of OpenAPI, as `$response.body#/id`.
    """

    #: The endpoint's name.
    to: str
    parameters: Mapping[str, str] = {}
    body: Mapping[str, Any] | None = None


class Answer(NamedTuple):
    """One answer of an endpoint that is no problem."""

    description: str
    #: The typed definition of its JSON, a tuple where it may be one of several; None for what is
    #: no JSON.
    shape: Any = None
    status: int = 200
    #: The content types that it may have.
    media: tuple[str, ...] = (JSON,)
    #: Beside those of every answer; what they mean is said in `services.api.openapi.headers`.
    headers: tuple[str, ...] = ()
    #: By their names.
    links: Mapping[str, Link] = {}


class Form(NamedTuple):
    """One content type of a body that no model of `services.api.http.requests` reads."""

    media: str
    description: str
    #: The typed definition of its JSON, a tuple where it may be one of several.
    shape: Any


class Parameter(NamedTuple):
    """A parameter in the path or a header."""

    name: str
    description: str
    shape: Any


class Endpoint(NamedTuple):
    """One method of one path."""

    method: str
    path: str
    #: In metrics and in the OpenAPI document.
    name: str
    handle: Handler
    query: type[Query]
    body: type[Request] | None = None
    #: Needs no token.
    public: bool = False
    #: The permission that it takes.
    permission: str | None = None
    #: What it answers. An endpoint without is none of the API: it is not documented.
    answers: tuple[Answer, ...] = ()
    #: What it refuses with beyond what every endpoint does.
    problems: tuple[Kind, ...] = ()
    #: The bodies that it takes beside `body`.
    forms: tuple[Form, ...] = ()
    #: Of the path, one for each of its names.
    places: tuple[Parameter, ...] = ()
    headers: tuple[Parameter, ...] = ()
