"""Answers for paths and methods that do not exist."""

from __future__ import annotations

from collections.abc import Sequence

from aiohttp import web

from services.api.access.auth import Identity
from services.api.http.requests import NoQuery
from services.api.problems.problems import method_not_allowed, not_found
from services.api.service import Service
from services.api.serving.endpoint import Endpoint


def nothing_there(path: str) -> Endpoint:
    """Return the endpoint for all other paths."""

    async def handle(
        _service: Service, _request: web.Request, _identity: Identity
    ) -> web.StreamResponse:
        raise not_found("There is nothing at this path.")

    return Endpoint("*", path, "none", handle, NoQuery, public=True)


def other_method(path: str, methods: Sequence[str]) -> Endpoint:
    """Return the endpoint for the methods that a path does not have.

    Args:
        path: The path.
        methods: Those that it has.
    """

    async def handle(
        _service: Service, _request: web.Request, _identity: Identity
    ) -> web.StreamResponse:
        raise method_not_allowed(methods)

    return Endpoint("*", path, "none", handle, NoQuery, public=True)
