"""`GET /openapi.json` and `GET /docs`: the document, and a page that shows it offline.

The page is Swagger UI. Its files come with the package flask-swagger-ui, which follows the releases
of Swagger UI within a week. Nothing of the package is imported, and so no Flask.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal, get_args

import orjson
from aiohttp import web

from services.api.access.auth import Identity
from services.api.http.answers import BASE_HEADERS
from services.api.http.requests import NoQuery, read_query
from services.api.openapi import document
from services.api.problems.problems import NOT_FOUND, not_found
from services.api.service import Service
from services.api.serving.endpoint import Answer, Endpoint, Parameter

_PACKAGE: Final = "flask_swagger_ui"
_OWN: Final = Path(__file__).parent / "docs_page"
#: Scripts, styles and data come from this service alone; inline ones are not allowed.
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_SAFE: Final = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}

AssetName = Literal["favicon-32x32.png", "page.js", "swagger-ui-bundle.js", "swagger-ui.css"]
_TYPES: Final = {".css": "text/css", ".js": "text/javascript", ".png": "image/png"}


def describing(endpoints: Callable[[], Sequence[Endpoint]]) -> Endpoint:
    """Return the endpoint that describes all endpoints, including itself.

    Args:
        endpoints: Returns all of them, once the table exists.
    """

    @cache
    def content() -> bytes:
        return orjson.dumps(document(endpoints()))

    async def openapi(
        _service: Service, request: web.Request, _identity: Identity
    ) -> web.StreamResponse:
        """Answer with this document."""
        read_query(NoQuery, request.rel_url.raw_query_string)
        return web.Response(body=content(), headers=BASE_HEADERS)

    return Endpoint(
        "GET",
        "/openapi.json",
        "openapi",
        openapi,
        NoQuery,
        public=True,
        answers=(Answer("The OpenAPI 3.1 document.", dict[str, Any]),),
    )


async def page(_service: Service, request: web.Request, _identity: Identity) -> web.StreamResponse:
    """Show this document to people."""
    read_query(NoQuery, request.rel_url.raw_query_string)
    headers = {**BASE_HEADERS, **_SAFE, "Content-Security-Policy": _POLICY}
    headers["Content-Type"] = "text/html; charset=utf-8"
    return web.Response(body=_content("index.html"), headers=headers)


async def asset(_service: Service, request: web.Request, _identity: Identity) -> web.StreamResponse:
    """Answer with a part of the page that shows this document."""
    read_query(NoQuery, request.rel_url.raw_query_string)
    name = request.match_info["asset"]
    if name not in get_args(AssetName):
        raise not_found("The page has no such part.")
    kind = _TYPES[Path(name).suffix]
    charset = "" if kind == "image/png" else "; charset=utf-8"
    headers = {**BASE_HEADERS, **_SAFE, "Cache-Control": "public, max-age=86400"}
    headers["Content-Type"] = kind + charset
    return web.Response(body=_content(name), headers=headers)


@cache
def _content(name: str) -> bytes:
    own = _OWN / name
    return (own if own.exists() else _installed() / name).read_bytes()


def _installed() -> Path:
    """Return the folder of Swagger UI's files."""
    found = importlib.util.find_spec(_PACKAGE)
    assert found is not None, f"{_PACKAGE} is not installed"
    assert found.origin is not None
    return Path(found.origin).parent / "dist"


PAGE: Final = Endpoint(
    "GET",
    "/docs",
    "docs",
    page,
    NoQuery,
    public=True,
    answers=(Answer("The page.", media=("text/html",)),),
)
ASSET: Final = Endpoint(
    "GET",
    "/docs/{asset}",
    "asset",
    asset,
    NoQuery,
    public=True,
    answers=(Answer("The part.", media=tuple(sorted(set(_TYPES.values())))),),
    problems=(NOT_FOUND,),
    places=(Parameter("asset", "Its name.", AssetName),),
)
