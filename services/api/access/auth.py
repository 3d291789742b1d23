"""Who is asking: from the `Authorization` header to a caller and their permissions.

Which rules a token has to pass follows from the issuer that it claims; the claim proves nothing,
it only chooses. Every way to be refused gives the same 401; the reason goes to the log only.
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

#: Bytes of verified tokens that are remembered: verifying costs 30 us and more, finding 1. Room for
#: 20,000 callers with ordinary tokens of 250 bytes; with fewer than a process serves, each request
#: in a round of all of them would verify.
_REMEMBERED_BYTES: Final = 32 * 1024 * 1024
#: What a remembered token takes beside its text, which is there as it came and as its claims.
_TOKEN_BYTES: Final = 1200


class Identity(NamedTuple):
    """A proved identity."""

    caller: Caller
    permissions: frozenset[str]
    #: When the proof ends, seconds since the epoch.
    expires: float
    #: The sources whose events they may write; None for all.
    sources: frozenset[str] | None = None
    #: The API key that proves it, which may be revoked; None for a token.
    key_id: str | None = None

    def may_write(self, source: str) -> bool:
        """Tell whether they may write events of a CloudEvents source."""
        return self.sources is None or source in self.sources


#: Tells when the time of a wait is up, by the event loop's clock; infinite for never.
Deadline = Callable[[], float]

#: Who asks where nobody needs to say who they are; sees no job.
NOBODY: Final = Identity(Caller(""), frozenset(), 0.0)


class _Remembered(NamedTuple):
    identity: Identity
    #: Until when it need not be verified anew, seconds since the epoch.
    until: float


class Gate:
    """Lets in who proves who they are.

    Args:
        secret: Signs the local service's tokens.
        provider: Whose tokens count beside them.
        keys: The API keys.
        reverify: Seconds after which a provider's token is verified anew.
        room: Bytes of verified tokens that are remembered.
    """

    def __init__(
        self,
        secret: bytes,
        provider: Provider | None = None,
        keys: ApiKeys | None = None,
        reverify: float = 600.0,
        room: int = _REMEMBERED_BYTES,
    ) -> None:
        self._secret = secret
        self._provider = provider
        self._keys = keys
        self._reverify = reverify
        self._remembered: dict[str, _Remembered] = {}
        self._room = room
        self._size = 0

    def __len__(self) -> int:
        """Return how many tokens are remembered."""
        return len(self._remembered)

    def identify(self, authorization: str | None) -> Identity | None:
        """Return who sent a request.

        Args:
            authorization: The header's value, None where there is none.

        Returns:
            None where no key that is here has signed the token: `prove` fetches them.

        Raises:
            Problem: 401, the same one whatever the reason.
        """
        if authorization is None:
            raise unauthorized("no token")
        remembered = self._remembered.get(authorization)
        if remembered is not None:
            if remembered.until > time.time():
                return remembered.identity
            self._forget(authorization)
        return self._verify(authorization)

    async def prove(self, authorization: str | None) -> Identity:
        """Return who sent a request, once the provider's keys have been fetched.

        Args:
            authorization: The header's value.

        Raises:
            Problem: 401; 503 where the provider has never given any keys.
        """
        provider = self._provider
        assert provider is not None
        assert provider.key_set is not None
        fetches = provider.key_set.fetches
        await provider.key_set.fetch()
        # Without new keys it is as before: a forged token need not be looked at twice.
        if provider.key_set.fetches != fetches:
            identity = self.identify(authorization)
            if identity is not None:
                return identity
        if provider.key_set.is_empty:
            raise keys_unavailable(f"no keys of {provider.issuer}")
        raise unauthorized("no key of the provider has signed the token")

    def deadline(self, identity: Identity, wait: int) -> Deadline:
        """Return what tells when the time of a wait is up.

        That is after its seconds, or when the proof of who holds it ends: a key that is revoked
        meanwhile has ended, so it has to be asked for again from time to time.

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
        """Fetch the provider's keys, so that the first request need not."""
        if self._provider is not None and self._provider.key_set is not None:
            await self._provider.key_set.fetch()

    async def close(self) -> None:
        """Let go of the provider."""
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
        self._remember(authorization, _Remembered(identity, until))
        return identity

    def _read(self, token: str) -> tuple[Claims | None, float]:
        """Return what a token says, None where its key is not here; and for how long that lasts."""
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
        # Not remembered: finding one is as cheap, and one that is revoked is gone at once.
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

    def _remember(self, authorization: str, remembered: _Remembered) -> None:
        self._size += _taken(authorization)
        while self._size > self._room and self._remembered:
            self._forget(next(iter(self._remembered)))
        self._remembered[authorization] = remembered

    def _forget(self, authorization: str) -> None:
        del self._remembered[authorization]
        self._size -= _taken(authorization)


def _taken(authorization: str) -> int:
    return _TOKEN_BYTES + 2 * len(authorization)
