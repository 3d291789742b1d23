"""Verifies the tokens of an OIDC provider, and reads the claims about their bearer."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import jwt

from jobtrail.access.tokens import (
    PERMISSIONS,
    Claims,
    TokenError,
    WrongSignature,
    make_claims,
    verify,
)
from jobtrail.core.errors import SettingError
from jobtrail.oidc_settings import algorithms_of
from jobtrail.settings import Settings
from services.api.access.jwks import KeySet
from services.api.limits.limits import Timeouts


class Provider:
    """Reads the tokens of one issuer.

    Args:
        settings: Of the process; they name an issuer.
        timeouts: For the issuer's server.

    Raises:
        SettingError: The secret that is shared with the issuer is a public key.
    """

    def __init__(self, settings: Settings, timeouts: Timeouts) -> None:
        self.issuer = settings.oidc_issuer
        self._audience = settings.oidc_audience
        self._user = settings.oidc_user_claim
        self._groups = settings.oidc_groups_claim
        self._separator = settings.oidc_groups_separator
        self._permissions = settings.oidc_permissions_claim
        self._secret = settings.oidc_secret.get_secret_value().encode()
        shared = bool(self._secret)
        self._algorithms = algorithms_of(settings.oidc_algorithms, shared=shared)
        self.key_set: KeySet | None = None
        if shared:
            _check_secret(self._secret, self._algorithms)
        else:
            url = settings.oidc_jwks_url
            self.key_set = KeySet(self.issuer, url, self._algorithms, timeouts)

    def read(self, token: str, header: dict[str, Any]) -> Claims | None:
        """Verify a token.

        Args:
            token: As the bearer sent it.
            header: The decoded header of the token.

        Returns:
            Its claims; None if no cached key has signed it: the issuer may have new keys, with new
            ids or the same ones.

        Raises:
            TokenError: It is forged, expired, for another audience, or malformed.
        """
        algorithm = header.get("alg")
        if algorithm not in self._algorithms:
            raise TokenError("The token's algorithm is not allowed.")
        keys: Sequence[Any] = [self._secret]
        if self.key_set is not None:
            key_id = header.get("kid")
            if key_id is not None and not isinstance(key_id, str):
                raise TokenError("The id of the token's key is no text.")
            keys = self.key_set.find(key_id, algorithm)
        payload = self._verified(token, keys, algorithm)
        if payload is None:
            if self.key_set is None:
                raise TokenError("Somebody else has signed the token.")
            return None
        return make_claims(
            claim_at(payload, self._user),
            _texts(claim_at(payload, self._groups), self._separator),
            [
                word
                for word in _texts(claim_at(payload, self._permissions), " ")
                if word in PERMISSIONS
            ],
            payload["exp"],
        )

    def _verified(self, token: str, keys: Sequence[Any], algorithm: str) -> dict[str, Any] | None:
        """Return the payload of a token if one of these keys has signed it, or None."""
        for key in keys:
            with contextlib.suppress(WrongSignature):
                return verify(
                    token, key, algorithms=[algorithm], issuer=self.issuer, audience=self._audience
                )
        return None


def claim_at(claims: dict[str, Any], path: str) -> Any:
    """Return a claim, or None.

    Args:
        claims: Of a token, or an object in it.
        path: The claim's name, which may contain dots (`https://example.org/roles`); or the names
            of objects and a claim, joined by dots (`realm_access.roles`).
    """
    if path in claims:
        return claims[path]
    for at, character in enumerate(path):
        if character == "." and isinstance(inner := claims.get(path[:at]), dict):
            found = claim_at(inner, path[at + 1 :])
            if found is not None:
                return found
    return None


def _texts(claim: Any, separator: str) -> list[Any]:
    """Return the values of a claim that is a list, or a text with one or more values.

    Args:
        claim: As it is in the token.
        separator: Between two values of a text; empty if a text is one value. Of `scope` it is
            U+0020 and no other white space (RFC 6749, section 3.3).
    """
    if claim is None:
        return []
    if isinstance(claim, str):
        found = claim.split(separator) if separator else [claim]
        return [text for text in found if text]
    if isinstance(claim, list):
        return claim
    raise TokenError("The token's groups or permissions are no list.")


def _check_secret(secret: bytes, algorithms: tuple[str, ...]) -> None:
    try:
        for algorithm in algorithms:
            jwt.get_algorithm_by_name(algorithm).prepare_key(secret)
    except jwt.InvalidKeyError:
        raise SettingError(
            "The secret that is shared with the issuer is a public key or a certificate.",
            where="JOBTRAIL_OIDC_SECRET",
            expected="random bytes that nobody else knows",
            hint="For public keys, set JOBTRAIL_OIDC_JWKS_URL, or neither of the two.",
        ) from None
