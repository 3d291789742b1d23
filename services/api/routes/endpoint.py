"""What an endpoint is: the one definition that routes, validates and documents it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from aiohttp import web

from services.api.auth import Identity
from services.api.requests import Query, Request
from services.api.service import Service

Handler = Callable[[Service, web.Request, Identity], Awaitable[web.StreamResponse]]


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
