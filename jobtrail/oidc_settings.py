"""Which settings of an OIDC provider go together.

The family of algorithms follows from the kind of key and is fixed here: were it taken from a
token, a public key could be passed off as a shared secret.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

#: The issuer of the local service's own tokens; no provider can be called that.
LOCAL_ISSUER: Final = "jobtrail-local"

#: Algorithms with public keys. Source: RFC 7518, section 3.1, and RFC 8037.
ASYMMETRIC: Final = frozenset(
    {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
)
#: Algorithms with a shared secret, and the least bytes of it. Source: RFC 7518, section 3.2.
SYMMETRIC: Final = {"HS256": 32, "HS384": 48, "HS512": 64}

_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})


def algorithms_of(named: str, *, shared: bool) -> tuple[str, ...]:
    """Return the algorithms that are allowed.

    Args:
        named: As in the settings, separated by commas; empty for the usual ones.
        shared: Whether the key is a shared secret.
    """
    usual = "HS256" if shared else "RS256,ES256"
    return tuple(part.strip(" ") for part in (named or usual).split(","))


def is_safe(url: str) -> bool:
    """Tell whether keys may be fetched from there: by TLS, or without leaving this machine."""
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        return False
    return bool(host) and (
        parts.scheme == "https" or (parts.scheme == "http" and host in _LOOPBACK)
    )


def faults_of(issuer: str, audience: str, jwks_url: str, secret: str, algorithms: str) -> list[str]:
    """Return what is wrong with the settings of a provider, each named as its variable.

    Args:
        issuer: `JOBTRAIL_OIDC_ISSUER`, and so on.
        audience: Who the tokens are for.
        jwks_url: Where the keys are.
        secret: The shared secret.
        algorithms: As in the settings.
    """
    if not issuer:
        others = {
            "AUDIENCE": audience,
            "JWKS_URL": jwks_url,
            "SECRET": secret,
            "ALGORITHMS": algorithms,
        }
        return [
            f"JOBTRAIL_OIDC_{name} means nothing without JOBTRAIL_OIDC_ISSUER"
            for name, value in others.items()
            if value
        ]
    faults = []
    if issuer == LOCAL_ISSUER:
        faults.append("JOBTRAIL_OIDC_ISSUER is the name of the local service's own issuer")
    if not audience:
        faults.append("JOBTRAIL_OIDC_AUDIENCE is needed with JOBTRAIL_OIDC_ISSUER")
    if jwks_url and secret:
        faults.append("JOBTRAIL_OIDC_JWKS_URL and JOBTRAIL_OIDC_SECRET exclude each other")
    place = "JOBTRAIL_OIDC_JWKS_URL" if jwks_url else "JOBTRAIL_OIDC_ISSUER"
    if not secret and not is_safe(jwks_url or issuer):
        faults.append(f"{place}: expected https://..., or http:// on this machine, to fetch keys")
    return faults + _faults_of_algorithms(algorithms, secret)


def _faults_of_algorithms(named: str, secret: str) -> list[str]:
    allowed = frozenset(SYMMETRIC) if secret else ASYMMETRIC
    kind = "JOBTRAIL_OIDC_SECRET" if secret else "public keys"
    chosen = algorithms_of(named, shared=bool(secret))
    faults = [
        f"JOBTRAIL_OIDC_ALGORITHMS: {name!r} is not one of those with {kind}: "
        + ", ".join(sorted(allowed))
        for name in chosen
        if name not in allowed
    ]
    least = max((SYMMETRIC.get(name, 0) for name in chosen), default=0)
    if secret and len(secret.encode()) < least:
        faults.append(f"JOBTRAIL_OIDC_SECRET: expected at least {least} bytes")
    return faults
