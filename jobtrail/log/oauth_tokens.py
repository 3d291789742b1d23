"""Tokens with which a client gets into a Kafka that asks for OAUTHBEARER.

They are fetched with client credentials (RFC 6749, section 4.4), kept, and fetched again before
they end: aiokafka asks for one whenever it connects, which has to go on while the token endpoint is
away for a moment. Nothing in here is ever logged but where tokens come from and how long they last.
"""

from __future__ import annotations

import asyncio
import logging
import re
import ssl
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any, Final, NamedTuple
from urllib.parse import quote_plus, urlsplit
from weakref import WeakKeyDictionary

from aiokafka.abc import AbstractTokenProvider
from aiokafka.errors import KafkaError

logger = logging.getLogger(__name__)

#: Bytes of the longest answer that is read; large tokens have some 8 KiB.
_MAX_ANSWER: Final = 64 * 1024
#: Part of its life after which a token is fetched again, beside what goes on.
_REFRESH_AFTER: Final = 0.75
#: Seconds before its end from which on a token is not handed out: the broker's clock may differ.
_MARGIN: Final = 10.0
#: Seconds that a token lasts where the answer does not say it (RFC 6749, section 5.1).
_USUAL_LIFE: Final = 300.0
#: Seconds after a failure in which a token that still holds is not fetched again.
_PAUSE: Final = 5.0
#: What a token may consist of (RFC 6750, section 2.1): anything else could end the SASL message.
_TOKEN: Final = re.compile(r"[A-Za-z0-9\-._~+/]+=*")


class NoToken(KafkaError):  # type: ignore[misc]
    """The token endpoint gave none; aiokafka tries to connect again as after other errors."""

    retriable = True


class TokenSource(NamedTuple):
    """Where tokens come from, and who asks for them."""

    url: str
    client_id: str
    client_secret: str
    #: Several with spaces between; empty for none.
    scope: str = ""
    #: CA certificates in PEM; None for the system's.
    cafile: Path | None = None
    #: Seconds that an answer may take.
    within: float = 10.0

    def __repr__(self) -> str:
        """Return where and who, without the secret."""
        return f"<TokenSource {self.client_id!r} at {self.place}>"

    @property
    def place(self) -> str:
        """The endpoint, without what its URL may have of secrets."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


class _Kept(NamedTuple):
    """A token; the times are by the clock."""

    token: str
    refresh_at: float
    ends_at: float


class ClientCredentials(AbstractTokenProvider):  # type: ignore[misc]
    """Gives tokens that hold, to clients of any event loop.

    Args:
        source: Where they come from.
        context: TLS to there; None for http.
        clock: Seconds that only go up.
    """

    def __init__(
        self,
        source: TokenSource,
        context: ssl.SSLContext | None = None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._source = source
        self._context = context
        self._clock = clock
        self._kept: _Kept | None = None
        self._not_before = 0.0
        # Faust's consumer has a loop of its own in another thread.
        self._fetching: WeakKeyDictionary[Any, asyncio.Task[_Kept]] = WeakKeyDictionary()
        #: How often a token was asked for.
        self.fetches = 0

    def __repr__(self) -> str:
        """Return where tokens come from."""
        return f"<ClientCredentials {self._source!r}>"

    @property
    def is_fetching(self) -> bool:
        """Whether a token is being fetched."""
        return any(not task.done() for task in list(self._fetching.values()))

    async def token(self) -> str:
        """Return a token that holds for a while yet.

        Raises:
            NoToken: The endpoint gives none, or not in time.
        """
        kept, now = self._kept, self._clock()
        if kept is not None and now < kept.ends_at:
            if now >= max(kept.refresh_at, self._not_before):
                self._begin()
            return kept.token
        # Who asked may go away; others wait for the same answer.
        return (await asyncio.shield(self._begin())).token

    def _begin(self) -> asyncio.Task[_Kept]:
        """Return the fetch that is under way, or begin one."""
        loop = asyncio.get_running_loop()
        fetching = self._fetching.get(loop)
        if fetching is None or fetching.done():
            fetching = self._fetching[loop] = loop.create_task(self._fetch())
            # What it failed of is logged; nobody may be waiting for it.
            fetching.add_done_callback(lambda task: task.cancelled() or task.exception())
        return fetching

    async def _fetch(self) -> _Kept:
        self.fetches += 1
        begun = self._clock()
        source = self._source
        try:
            async with asyncio.timeout(source.within):
                token, life = _read(await self._ask())
        except Exception as error:
            self._not_before = self._clock() + _PAUSE
            late = (
                f"no answer within {source.within:g} s" if isinstance(error, TimeoutError) else ""
            )
            why = late or str(error) or type(error).__name__
            logger.warning("action=oauth_token_not_fetched from=%s %s", source.place, why)
            raise NoToken(f"No token from {source.place}: {why}") from None
        self._kept = _Kept(token, begun + life * _REFRESH_AFTER, begun + _until(life))
        logger.info("action=oauth_token_fetched from=%s seconds=%.0f", source.place, life)
        return self._kept

    async def _ask(self) -> Any:
        """Return the endpoint's answer.

        Raises:
            ValueError: It has another form.
            OSError: It can't be reached.
        """
        # Slow to import, and seldom wanted.
        import aiohttp
        import orjson

        source = self._source
        form = {"grant_type": "client_credentials"}
        if source.scope:
            form["scope"] = source.scope
        # RFC 6749, section 2.3.1: both are encoded as in a form first.
        who = f"{quote_plus(source.client_id)}:{quote_plus(source.client_secret)}".encode()
        headers = {
            "Authorization": f"Basic {b64encode(who).decode()}",
            "Accept": "application/json",
        }
        async with (
            aiohttp.ClientSession(headers=headers) as session,
            # A redirect could lead to where no TLS protects the secret.
            session.post(
                source.url, data=form, ssl=self._context or True, allow_redirects=False
            ) as response,
        ):
            body = bytearray()
            async for some in response.content.iter_any():
                body += some
                if len(body) > _MAX_ANSWER:
                    raise ValueError(f"expected at most {_MAX_ANSWER} bytes")
            if response.status != 200:
                raise ValueError(f"expected status 200, found {response.status}{_error(body)}")
        try:
            return orjson.loads(body)
        except orjson.JSONDecodeError:
            raise ValueError("expected a JSON object") from None


def _until(life: float) -> float:
    """Return for how long a token is handed out: one that lasts seconds only for most of them."""
    return max(life - _MARGIN, life * _REFRESH_AFTER)


def _error(body: bytes | bytearray) -> str:
    """Return the error's name of RFC 6749, section 5.2, where the answer has one."""
    found = re.search(rb'"error"\s*:\s*"([a-z_]{1,40})"', body)
    return f" ({found[1].decode()})" if found else ""


def _read(answer: Any) -> tuple[str, float]:
    """Return the token of an answer (RFC 6749, section 5.1) and the seconds that it lasts."""
    if not isinstance(answer, dict):
        raise ValueError("expected a JSON object")
    token, kind, life = (answer.get(k) for k in ("access_token", "token_type", "expires_in"))
    if not isinstance(token, str) or not _TOKEN.fullmatch(token):
        raise ValueError("expected an `access_token`")
    if not isinstance(kind, str) or kind.lower() != "bearer":
        raise ValueError("expected the `token_type` Bearer")
    if life is None:
        life = _USUAL_LIFE
    try:
        # Some send it as a text.
        seconds = float(life)
    except (TypeError, ValueError):
        raise ValueError("expected `expires_in` in seconds") from None
    if not 0 < seconds < float("inf"):
        raise ValueError("expected `expires_in` above 0")
    return token, seconds
