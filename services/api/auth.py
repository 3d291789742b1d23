"""Who is asking: from the `Authorization` header to a caller and his permissions.

Every way to be refused gives the same 401; the reason goes to the log only.
"""

from __future__ import annotations

import time
from typing import Final, NamedTuple

from jobtrail.tokens import LEEWAY, READ_ALL, TokenError, read_token
from projections.reading import Caller
from services.api.problems import unauthorized

#: Verified tokens that are remembered, at most 9 KiB each: verifying costs 30 us, finding 1.
_MAX_REMEMBERED: Final = 2048


class Identity(NamedTuple):
    """A proved identity."""

    caller: Caller
    permissions: frozenset[str]
    #: When the proof ends, seconds since the epoch.
    expires: float


#: Who asks where nobody needs to say who he is; sees no job.
NOBODY: Final = Identity(Caller(""), frozenset(), 0.0)


class Gate:
    """Lets in who proves who he is.

    Args:
        secret: Signs the local service's tokens.
    """

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._remembered: dict[str, Identity] = {}

    def __len__(self) -> int:
        """Return how many tokens are remembered."""
        return len(self._remembered)

    def identify(self, authorization: str | None) -> Identity:
        """Return who sent a request.

        Args:
            authorization: The header's value, None where there is none.

        Raises:
            Problem: 401, the same one whatever the reason.
        """
        if authorization is None:
            raise unauthorized("no token")
        identity = self._remembered.get(authorization)
        if identity is None:
            identity = self._verify(authorization)
            self._remember(authorization, identity)
        elif identity.expires + LEEWAY <= time.time():
            del self._remembered[authorization]
            raise unauthorized("the token is over")
        return identity

    def _verify(self, authorization: str) -> Identity:
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer":
            raise unauthorized("not the scheme Bearer")
        try:
            claims = read_token(self._secret, token.strip())
        except TokenError as error:
            raise unauthorized(str(error)) from None
        caller = Caller(claims.user, claims.groups, READ_ALL in claims.permissions)
        return Identity(caller, claims.permissions, claims.expires)

    def _remember(self, authorization: str, identity: Identity) -> None:
        if len(self._remembered) >= _MAX_REMEMBERED:
            del self._remembered[next(iter(self._remembered))]
        self._remembered[authorization] = identity
