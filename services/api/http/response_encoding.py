"""The last step of an answer: its `ETag`, 304 for a client that has it, and its content coding."""

from __future__ import annotations

import asyncio
import hmac
from typing import Final

from aiohttp import hdrs, web
from xxhash import xxh3_128_hexdigest

from services.api.http.answers import CompleteResponse
from services.api.http.coding import SMALLEST, Coding, choose, compress

#: Bytes from which on a body is compressed in a thread: it takes more than 2 ms.
_LARGE: Final = 1 << 20
_ANY: Final = "*"
_WITHOUT_CONTENT: Final = frozenset({hdrs.CONTENT_TYPE, hdrs.CONTENT_LENGTH})


class ResponseEncoder:
    """Makes `ETag`s and chooses content codings.

    Args:
        secret: Of the service, the same in all of its processes. Tags are hashes with a seed from
            it, so that nobody can construct two answers with the same tag.
    """

    def __init__(self, secret: bytes) -> None:
        digest = hmac.digest(secret, b"jobtrail etag", "sha256")
        self._seed = int.from_bytes(digest[:8], "big")

    def prepare(
        self, request: web.Request, response: web.StreamResponse
    ) -> tuple[web.StreamResponse, Coding | None]:
        """Return the answer to send, and the content coding that is still to be applied.

        The answer to a GET has an `ETag` that is made from its content. So the tag stays the same
        when the log moves on, and a client that has this content gets 304. The tag is weak: it is
        the same for every content coding. Source: RFC 9110, sections 8.8.3 and 13.1.2.

        Args:
            request: The request.
            response: The answer; one that is sent in part already is returned as it is.
        """
        if response.status != 200 or response.prepared:
            return response, None
        # The type first: `isinstance` with aiohttp's abstract class is slow for other types.
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
    """Return an answer in the coding that `ResponseEncoder.prepare` has chosen for it."""
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
