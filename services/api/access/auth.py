"""Authentication: from the `Authorization` header to a caller and their permissions.

The issuer that a token claims decides by which rules it is verified; the claim itself proves
nothing. Every refusal is the same 401; the reason goes to the process's log only.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final, NamedTuple

from jobtrail.access.api_keys import PREFIX
from jobtrail.access.tokens import (
    ISSUER,
    LEEWAY,
    READ_ALL,
    Claims,
    TokenError,
    look_into,
    read_token,
)
from projections.ports.read import Caller
from services.api.access.cached_keys import ApiKeys
from services.api.access.provider import Provider
from services.api.http.requests import FOREVER
from services.api.problems.problems import api_keys_unknown, keys_unavailable, unauthorized

#: Bytes of the cache of verified tokens: to verify one takes 30 us or more, to find it 1 us. Enough
#: for 20,000 callers with tokens of 250 bytes. With fewer entries than callers, each request of
#: callers in rotation would miss the cache.
_CACHE_BYTES: Final = 32 * 1024 * 1024
#: Bytes of a cached token beside its text, which counts twice: as the header and as its claims.
_TOKEN_BYTES: Final = 1200


class Identity(NamedTuple):
    """An authenticated caller."""

    caller: Caller
    permissions: frozenset[str]
    #: When the token or key expires, seconds since the epoch.
    expires: float
    #: The sources whose events they may write; None for all.
    sources: frozenset[str] | None = None
    #: The id of the API key, which may be revoked; None for a token.
    key_id: str | None = None

    def may_write(self, source: str) -> bool:
        """Tell whether they may write events of a CloudEvents source."""
        return self.sources is None or source in self.sources


#: Returns when the time of a wait is up, by the event loop's clock; infinite for never.
Deadline = Callable[[], float]

#: The caller of public endpoints; sees no job.
NOBODY: Final = Identity(Caller(""), frozenset(), 0.0)


class _CachedToken(NamedTuple):
    identity: Identity
    #: When it has to be verified again, seconds since the epoch.
    until: float


class Gate:
    """Authenticates requests.

    Args:
        secret: Signs the local service's tokens.
        provider: Whose tokens are accepted beside them.
        keys: The API keys.
        reverify: Seconds after which a provider's token is verified again.
        room: Bytes of the cache of verified tokens.
    """

    def __init__(
        self,
        secret: bytes,
        provider: Provider | None = None,
        keys: ApiKeys | None = None,
        reverify: float = 600.0,
        room: int = _CACHE_BYTES,
    ) -> None:
        self._secret = secret
        self._provider = provider
        self._keys = keys
        self._reverify = reverify
        self._cached: dict[str, _CachedToken] = {}
        self._room = room
        self._size = 0

    def __len__(self) -> int:
        """Return how many tokens are cached."""
        return len(self._cached)

    def identify(self, authorization: str | None) -> Identity | None:
        """Return who sent a request.

        Args:
            authorization: The header's value, None where there is none.

        Returns:
            None where none of the provider's cached keys has signed the token: await `prove`.

        Raises:
            Problem: 401, the same for every reason.
        """
        if authorization is None:
            raise unauthorized("no token")
        cached = self._cached.get(authorization)
        if cached is not None:
            if cached.until > time.time():
                return cached.identity
            self._forget(authorization)
        return self._verify(authorization)

    async def prove(self, authorization: str | None) -> Identity:
        """Return who sent a request, once the provider's keys have been fetched.

        Args:
            authorization: The header's value.

        Raises:
            Problem: 401; 503 where no keys of the provider were ever fetched.
        """
        provider = self._provider
        assert provider is not None
        assert provider.key_set is not None
        fetches = provider.key_set.fetches
        await provider.key_set.fetch()
        # Without new keys the result would be the same.
        if provider.key_set.fetches != fetches:
            identity = self.identify(authorization)
            if identity is not None:
                return identity
        if provider.key_set.is_empty:
            raise keys_unavailable(f"no keys of {provider.issuer}")
        raise unauthorized("no key of the provider has signed the token")

    def deadline(self, identity: Identity, wait: int) -> Deadline:
        """Return a function that returns when the time of a wait is up.

        That is after its seconds, or when the token or key of the caller ends. A key may be revoked
        during the wait, so the function has to be called again from time to time.

        Args:
            identity: Who waits.
            wait: Seconds, or `FOREVER`.
        """
        left = identity.expires - time.time()
        if wait != FOREVER:
            left = min(left, wait)
        until = asyncio.get_running_loop().time() + left
        keys, key_id = self._keys, identity.key_id
        if keys is None or key_id is None:
            return lambda: until
        return lambda: until if keys.has(key_id) else 0.0

    async def prepare(self) -> None:
        """Fetch the provider's keys before the first request."""
        if self._provider is not None and self._provider.key_set is not None:
            await self._provider.key_set.fetch()

    async def close(self) -> None:
        """Stop fetching the provider's keys."""
        if self._provider is not None and self._provider.key_set is not None:
            await self._provider.key_set.close()

    def _verify(self, authorization: str) -> Identity | None:
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer":
            raise unauthorized("not the scheme Bearer")
        token = token.strip(" ")
        if token.startswith(PREFIX):
            return self._find_key(token)
        try:
            claims, lasts = self._read(token)
        except TokenError as error:
            raise unauthorized(str(error)) from None
        if claims is None:
            return None
        caller = Caller(claims.user, claims.groups, READ_ALL in claims.permissions)
        identity = Identity(caller, claims.permissions, claims.expires)
        until = min(claims.expires + LEEWAY, time.time() + lasts)
        self._cache(authorization, _CachedToken(identity, until))
        return identity

    def _read(self, token: str) -> tuple[Claims | None, float]:
        """Return a token's claims, None if its key is unknown; and the seconds to cache them."""
        provider = self._provider
        if provider is not None:
            header, payload = look_into(token)
            issuer = payload.get("iss")
            if issuer == provider.issuer:
                return provider.read(token, header), self._reverify
            if issuer != ISSUER:
                raise TokenError("The token is of another issuer.", found=repr(issuer)[:80])
        return read_token(self._secret, token), float("inf")

    def _find_key(self, text: str) -> Identity:
        # Not cached: to find a key is as cheap, and a revoked key ends at once.
        key = None if self._keys is None else self._keys.find(text)
        if key is None:
            if self._keys is not None and self._keys.unknown:
                raise api_keys_unknown()
            raise unauthorized("no such API key")
        expires = float("inf") if key.expires_at is None else key.expires_at.timestamp()
        if expires <= time.time():
            raise unauthorized(f"the API key {key.id} is over")
        permissions = frozenset(key.permissions)
        caller = Caller(key.user, key.groups, READ_ALL in permissions)
        return Identity(caller, permissions, expires, frozenset(key.sources) or None, key.id)

    def _cache(self, authorization: str, cached: _CachedToken) -> None:
        self._size += _bytes_of(authorization)
        while self._size > self._room and self._cached:
            self._forget(next(iter(self._cached)))
        self._cached[authorization] = cached

    def _forget(self, authorization: str) -> None:
        del self._cached[authorization]
        self._size -= _bytes_of(authorization)


def _bytes_of(authorization: str) -> int:
    return _TOKEN_BYTES + 2 * len(authorization)
