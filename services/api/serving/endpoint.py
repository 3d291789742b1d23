"""The definition of an endpoint, from which it is routed, validated and documented."""

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
#: The content type of an answer without an end.
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
    """An endpoint that a client can call with a part of this answer.

    Values may be runtime expressions of OpenAPI, such as `$response.body#/id`.
    """

    #: The name of that endpoint.
    to: str
    parameters: Mapping[str, str] = {}
    body: Mapping[str, Any] | None = None


class Answer(NamedTuple):
    """One successful answer of an endpoint."""

    description: str
    #: The typed definition of its JSON, a tuple where it may be one of several; None for content
    #: that is not JSON.
    shape: Any = None
    status: int = 200
    #: Its possible content types.
    media: tuple[str, ...] = (JSON,)
    #: Beside those of every answer; `services.api.openapi.headers` describes them.
    headers: tuple[str, ...] = ()
    #: By name.
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
    #: Whether it needs no token.
    public: bool = False
    #: The permission that it requires.
    permission: str | None = None
    #: Its successful answers. An endpoint without any is not part of the documented API.
    answers: tuple[Answer, ...] = ()
    #: Its problems beside those that every endpoint may answer with.
    problems: tuple[Kind, ...] = ()
    #: The bodies that it accepts beside `body`.
    forms: tuple[Form, ...] = ()
    #: The parameters in its path, one for each name in braces.
    places: tuple[Parameter, ...] = ()
    headers: tuple[Parameter, ...] = ()
