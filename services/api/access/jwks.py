"""The public keys of an OIDC provider, fetched in the background and cached.

PyJWT's own client blocks the event loop while it fetches. Here one fetch at a time serves all who
need it, at most one in `Timeouts.refetch`, so that a flood of tokens with invented key ids or
signatures costs the provider nothing. When a fetch fails, the cached keys stay.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from time import monotonic
from typing import Any, Final, TypeAlias

import aiohttp
import jwt
import orjson

from jobtrail.oidc_settings import is_safe
from services.api.limits.limits import Timeouts

logger = logging.getLogger(__name__)

#: The most bytes of a document; those of large providers have 20 KiB.
MAX_DOCUMENT: Final = 512 * 1024
#: The most keys of a provider; large ones have ten.
MAX_KEYS: Final = 100
#: The most keys of one id and algorithm: a token is tried with each of them.
MAX_NAMESAKES: Final = 4
_DISCOVERY: Final = "/.well-known/openid-configuration"
_PREFIXES: Final = {"RSA": ("RS", "PS")}
_CURVES: Final = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512", "Ed25519": "EdDSA"}


#: By id and algorithm.
_Keys: TypeAlias = dict[tuple[str | None, str], list[jwt.PyJWK]]


class _Unusable(ValueError):
    """The provider's answer can't be used."""


class KeySet:
    """The keys of one provider.

    Args:
        issuer: Its URL, under which its configuration is.
        url: Of its keys; empty to look it up in the configuration.
        algorithms: Those that are allowed.
        timeouts: How often to fetch, and how long that may take.
    """

    def __init__(
        self, issuer: str, url: str, algorithms: Sequence[str], timeouts: Timeouts
    ) -> None:
        self._issuer = issuer
        self._url = url
        self._algorithms = tuple(algorithms)
        self._timeouts = timeouts
        self._keys: _Keys = {}
        self._fetched = 0.0
        #: How often keys have been fetched.
        self.fetches = 0
        #: The earliest time of the next fetch, by `monotonic`.
        self._not_before = 0.0
        self._fetching: asyncio.Task[None] | None = None

    @property
    def is_empty(self) -> bool:
        """Whether no keys have ever been fetched."""
        return not self._keys

    def find(self, key_id: str | None, algorithm: str) -> Sequence[jwt.PyJWK]:
        """Return the keys of an id, nearly always one; start a fetch if the keys are old.

        Args:
            key_id: The token's `kid`; None for the only key of the algorithm.
            algorithm: The token's `alg`, one of those allowed.
        """
        if self._keys and monotonic() >= self._fetched + self._timeouts.refresh:
            self._begin()
        return self._keys.get((key_id, algorithm), ())

    async def fetch(self) -> None:
        """Fetch the keys, unless that was just done; wait for a running fetch."""
        self._begin()
        if self._fetching is not None and not self._fetching.done():
            # Shielded: if this request is cancelled, others still wait.
            await asyncio.shield(self._fetching)

    def _begin(self) -> None:
        now = monotonic()
        if (self._fetching is None or self._fetching.done()) and now >= self._not_before:
            self._not_before = now + self._timeouts.refetch
            self._fetching = asyncio.create_task(self._fetch())

    async def _fetch(self) -> None:
        try:
            async with asyncio.timeout(self._timeouts.provider):
                keys = await self._download()
        except Exception as error:
            # Whatever a provider sends: requests get 503, or are verified with the cached keys.
            logger.warning(
                "action=keys-not-fetched issuer=%s kept=%d error=%r",
                self._issuer,
                len(self._keys),
                error,
            )
        else:
            logger.info("action=keys-fetched issuer=%s keys=%d", self._issuer, len(keys))
            self._keys = keys
            self._fetched = monotonic()
            self.fetches += 1

    async def _download(self) -> _Keys:
        async with aiohttp.ClientSession(headers={"Accept": "application/json"}) as session:
            url = self._url or await self._discover(session)
            document = await _get(session, url)
        found = document.get("keys")
        if not isinstance(found, list) or len(found) > MAX_KEYS:
            raise _Unusable(f"{url}: expected an object with at most {MAX_KEYS} `keys`")
        keys = _keys(found, self._algorithms)
        if not keys:
            raise _Unusable(f"{url}: no key for {', '.join(self._algorithms)}")
        return keys

    async def _discover(self, session: aiohttp.ClientSession) -> str:
        """Return where the keys are (OpenID Connect Discovery 1.0, section 4)."""
        place = self._issuer.rstrip("/") + _DISCOVERY
        document = await _get(session, place)
        if document.get("issuer") != self._issuer:
            raise _Unusable(f"{place}: expected the issuer {self._issuer!r}")
        url = document.get("jwks_uri")
        if not isinstance(url, str) or not is_safe(url):
            raise _Unusable(f"{place}: expected a `jwks_uri` with https")
        return url

    async def close(self) -> None:
        """Cancel a running fetch."""
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.gather(self._fetching, return_exceptions=True)


async def _get(session: aiohttp.ClientSession, url: str) -> dict[str, Any]:
    # A redirect could lead to a place without TLS.
    async with session.get(url, allow_redirects=False) as response:
        if response.status != 200:
            raise _Unusable(f"{url}: expected status 200, found {response.status}")
        body = bytearray()
        async for some in response.content.iter_any():
            body += some
            if len(body) > MAX_DOCUMENT:
                raise _Unusable(f"{url}: expected at most {MAX_DOCUMENT} bytes")
    document = orjson.loads(body)
    if not isinstance(document, dict):
        raise _Unusable(f"{url}: expected a JSON object")
    return document


def _keys(found: Sequence[Any], algorithms: Sequence[str]) -> _Keys:
    """Return the usable keys by id and algorithm; with the id None, the only key of an algorithm.

    Ids should be distinct (RFC 7517, section 4.5). If they are not, each of the keys is accepted.
    """
    keys: _Keys = {}
    by_algorithm: dict[str, list[jwt.PyJWK]] = {}
    for entry in found:
        for algorithm in algorithms:
            if not _fits(entry, algorithm):
                continue
            try:
                key = jwt.PyJWK(entry, algorithm)
            except (jwt.PyJWTError, ValueError, TypeError) as error:
                logger.warning("action=key-unusable error=%s", ascii(str(error))[:200])
                continue
            by_algorithm.setdefault(algorithm, []).append(key)
            if isinstance(entry.get("kid"), str):
                namesakes = keys.setdefault((entry["kid"], algorithm), [])
                if len(namesakes) < MAX_NAMESAKES:
                    namesakes.append(key)
                else:
                    logger.warning("action=key-unusable error=%d of one id", MAX_NAMESAKES)
    for algorithm, fitting in by_algorithm.items():
        if len(fitting) == 1:
            keys[None, algorithm] = fitting
    return keys


def _fits(entry: Any, algorithm: str) -> bool:
    """Tell whether a JWK (RFC 7517) is a public key that signs with an algorithm."""
    if not isinstance(entry, dict) or "d" in entry or entry.get("use", "sig") != "sig":
        return False
    operations = entry.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        return False
    if entry.get("alg", algorithm) != algorithm:
        return False
    prefixes = _PREFIXES.get(str(entry.get("kty")))
    if prefixes is not None:
        return algorithm.startswith(prefixes)
    return entry.get("kty") in ("EC", "OKP") and _CURVES.get(str(entry.get("crv"))) == algorithm
