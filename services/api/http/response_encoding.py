"""The last step of an answer: not again to who has it, and compressed for who asks for that."""

from __future__ import annotations

import asyncio
import hmac
from typing import Final

from aiohttp import hdrs, web
from xxhash import xxh3_128_hexdigest

from services.api.http.answers import CompleteResponse
from services.api.http.coding import SMALLEST, Coding, choose, compress

#: Bodies from here on are compressed beside the event loop: it takes more than 2 ms. Bytes.
_LARGE: Final = 1 << 20
_ANY: Final = "*"
_WITHOUT_CONTENT: Final = frozenset({hdrs.CONTENT_TYPE, hdrs.CONTENT_LENGTH})


class ResponseEncoder:
    """Sends answers out.

    Args:
        secret: The service's, the same for all of its processes. Tags are made with it, so that
            nobody can think out two answers that have the same one.
    """

    def __init__(self, secret: bytes) -> None:
        digest = hmac.digest(secret, b"jobtrail etag", "sha256")
        self._seed = int.from_bytes(digest[:8], "big")

    def prepare(
        self, request: web.Request, response: web.StreamResponse
    ) -> tuple[web.StreamResponse, Coding | None]:
        """Return the answer as it goes out, and the content coding that it is still to get.

        A GET's answer has an `ETag` made from its content, so it stays the same however far the log
        has moved on, and is answered 304 to who holds it already. The tag is weak: it is the same
        for every content coding. Source: RFC 9110, sections 8.8.3 and 13.1.2.

        Args:
            request: What was asked.
            response: The answer; one whose beginning is out is returned as it is.
        """
        if response.status != 200 or response.prepared:
            return response, None
        # By its type first: for others than its own instances aiohttp's class asks a long way.
        if type(response) is not CompleteResponse and not isinstance(response, web.Response):
            return response, None
        body = response.body
        if not isinstance(body, bytes):
            return response, None
        if request.method != hdrs.METH_POST:
            tag = xxh3_128_hexdigest(body, self._seed)
            response.headers[hdrs.ETAG] = f'W/"{tag}"'
            if hdrs.IF_NONE_MATCH in request.headers and _has(request, tag):
                kept = {k: v for k, v in response.headers.items() if k not in _WITHOUT_CONTENT}
                return web.Response(status=304, headers=kept), None
        if len(body) < SMALLEST:
            return response, None
        return response, choose(request.headers.get(hdrs.ACCEPT_ENCODING))


async def compressed(response: web.StreamResponse, coding: Coding) -> web.StreamResponse:
    """Return an answer that `ResponseEncoder.prepare` has named a coding for, in that coding."""
    assert isinstance(response, web.Response)
    body = response.body
    assert isinstance(body, bytes)
    large = len(body) >= _LARGE
    response.body = (
        await asyncio.to_thread(compress, body, coding) if large else compress(body, coding)
    )
    response.headers[hdrs.CONTENT_ENCODING] = coding
    return response


def _has(request: web.Request, tag: str) -> bool:
    return any(known.value in (tag, _ANY) for known in request.if_none_match or ())
