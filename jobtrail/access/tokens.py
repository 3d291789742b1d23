"""Tokens of the local service: JWTs signed with a secret that never leaves the data folder.

Anyone who can read the secret is the local service's administrator: they can issue a token for any
user. So the file is readable for its owner alone, and one that others can read is not used.
"""

from __future__ import annotations

import base64
import contextlib
import os
import re
import secrets
import time
from collections.abc import Iterable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, NamedTuple

import jwt
import orjson

from jobtrail.access.sizes import MAX_TOKEN_BYTES
from jobtrail.core.errors import JobtrailError, SettingError, UsageError
from jobtrail.files.atomic import atomic_write
from jobtrail.files.private import FILE_MODE, private_folder
from jobtrail.oidc_settings import LOCAL_ISSUER

ISSUER: Final = LOCAL_ISSUER
AUDIENCE: Final = "jobtrail"
#: The permission to see every job.
READ_ALL: Final = "jobs:read:all"
#: The permission to write events.
WRITE: Final = "jobs:write"
PERMISSIONS: Final = (READ_ALL, WRITE)

#: How far two clocks may differ, in seconds.
LEEWAY: Final = 10

_ALGORITHM: Final = "HS256"
_SECRET_BYTES: Final = 32
_SECRET_FILE: Final = "secret"  # noqa: S105
_NAME: Final = re.compile(r"[^\x00-\x1f\x7f-\x9f\ud800-\udfff]{1,256}")
#: Headers by which a token could choose its own key or rules.
_REFUSED_HEADERS: Final = ("crit", "jku", "x5u", "jwk")
_OPTIONS: Final[Any] = {"require": ["exp", "iss", "aud"], "enforce_minimum_key_length": True}
#: The exceptions that parsing an untrusted token can raise.
_BROKEN: Final = (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError)


class TokenError(JobtrailError):
    """A token that proves nothing. The reason is for the log, never for the bearer."""


class WrongSignature(TokenError):
    """A token that was signed by another key than the one that verifies it."""


#: Claims that are instants: JSON numbers, and no strings of digits (RFC 7519, section 2).
_INSTANTS: Final = ("exp", "nbf", "iat")


class Claims(NamedTuple):
    """The claims of a verified token about its bearer."""

    user: str
    groups: tuple[str, ...]
    permissions: frozenset[str]
    #: When the token ends, seconds since the epoch.
    expires: float


def local_secret(data_dir: Path) -> bytes:
    """Return the secret of a local service, made at its first use.

    Args:
        data_dir: The folder of the service.

    Returns:
        32 random bytes, the same for every process on this folder.

    Raises:
        SettingError: Others can read the file, or it has no secret.
    """
    path = data_dir / _SECRET_FILE
    try:
        if not path.exists():
            _make_secret(path)
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            text = file.read(1024)
    except OSError as error:
        raise SettingError(
            "The secret of the local service can't be read.", where=str(path), found=str(error)
        ) from None
    if mode & 0o077:
        raise SettingError(
            "Others can read the secret of the local service.",
            where=str(path),
            expected="mode 0600",
            found=f"mode {mode & 0o777:04o}",
            hint="Delete it, so that a new one is made; tokens issued so far end with it.",
        )
    try:
        secret = bytes.fromhex(text.decode("ascii").strip())
    except ValueError:
        secret = b""
    if len(secret) != _SECRET_BYTES:
        raise SettingError(
            "This file is no secret of a local service.",
            where=str(path),
            expected=f"{_SECRET_BYTES} bytes in hexadecimal",
            hint="Delete it, so that a new one is made.",
        )
    return secret


def _make_secret(path: Path) -> None:
    """Write a new secret atomically, unless another process was faster."""
    private_folder(path.parent)
    text = secrets.token_hex(_SECRET_BYTES).encode() + b"\n"
    with contextlib.suppress(FileExistsError):
        atomic_write(path, text, mode=FILE_MODE, replace=False)


def make_token(
    secret: bytes,
    user: str,
    groups: Iterable[str] = (),
    permissions: Iterable[str] = (),
    lifetime: timedelta = timedelta(hours=12),
    *,
    at: float | None = None,
) -> str:
    """Issue a token for the local service.

    Args:
        secret: From `local_secret`.
        user: Whom the bearer acts as.
        groups: Whose member they are.
        permissions: Of `PERMISSIONS`.
        lifetime: How long the token is good for.
        at: When it is issued, seconds since the epoch; None for now.

    Returns:
        The token, to be sent as `Authorization: Bearer TOKEN`.

    Raises:
        UsageError: A name has another form, or a permission is unknown.
    """
    groups, permissions = list(groups), list(permissions)
    check_grant(user, groups, permissions)
    issued = int(time.time() if at is None else at)
    claims = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": user,
        "groups": groups,
        "permissions": permissions,
        "iat": issued,
        "exp": issued + int(lifetime.total_seconds()),
    }
    token = jwt.encode(claims, secret, algorithm=_ALGORITHM)
    if len(token) > MAX_TOKEN_BYTES:
        raise UsageError(
            "The token is too long.",
            expected=f"at most {MAX_TOKEN_BYTES} bytes",
            found=f"{len(token)} bytes for {len(groups)} groups",
        )
    return token


def check_grant(user: str, groups: Iterable[str], permissions: Iterable[str]) -> None:
    """Check that a token or key can be issued.

    Raises:
        UsageError: A name has another form, or a permission is unknown.
    """
    for name in (user, *groups):
        if not _NAME.fullmatch(name):
            raise UsageError(
                "This is no name of a user or group.",
                expected="1 to 256 characters, no control characters",
                found=repr(name[:80]),
            )
    unknown = [permission for permission in permissions if permission not in PERMISSIONS]
    if unknown:
        raise UsageError(
            "There is no such permission.",
            expected=" or ".join(PERMISSIONS),
            found=", ".join(map(repr, unknown)),
        )


def read_token(secret: bytes, token: str) -> Claims:
    """Verify a token of the local service.

    Args:
        secret: From `local_secret`.
        token: As the bearer sent it.

    Returns:
        The claims about its bearer.

    Raises:
        TokenError: It is forged, expired, for another audience, or no token of this kind.
    """
    payload = verify(token, secret, algorithms=[_ALGORITHM], issuer=ISSUER, audience=AUDIENCE)
    groups = payload.get("groups", [])
    permissions = payload.get("permissions", [])
    if not all(isinstance(claim, list) for claim in (groups, permissions)):
        raise TokenError("The token's groups or permissions are no list.")
    return make_claims(payload.get("sub"), groups, permissions, payload["exp"])


def look_into(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a token's unverified header and payload.

    Raises:
        TokenError: It is too long, has a refused header, or is no token.
    """
    _check_length(token)
    try:
        # Not with PyJWT, which takes as long for this as for verifying, and parses the token again.
        header, payload = (
            orjson.loads(base64.urlsafe_b64decode(part + "==")) for part in token.split(".")[:2]
        )
    except _BROKEN as error:
        raise _unreadable(error) from None
    if not isinstance(header, dict) or not isinstance(payload, dict):
        raise TokenError("The token's header or payload is no object.")
    _check_header(header)
    return header, payload


def verify(
    token: str, key: Any, *, algorithms: Sequence[str], issuer: str, audience: str
) -> dict[str, Any]:
    """Verify a token's signature, issuer, audience and times.

    Args:
        token: As the bearer sent it.
        key: A secret, or a key as PyJWT has it.
        algorithms: Those that may have signed it, all of the key's own family.
        issuer: The required issuer.
        audience: The required audience.

    Returns:
        Its payload; `exp` is there.

    Raises:
        WrongSignature: Another key has signed it.
        TokenError: It is forged, expired, for another audience, or no token of this kind.
    """
    _check_length(token)
    try:
        complete = jwt.decode_complete(
            token,
            key,
            algorithms=algorithms,
            audience=audience,
            issuer=issuer,
            leeway=LEEWAY,
            options=_OPTIONS,
        )
        # Values outside of UTF-8 or 64 bits would break the code that gets them.
        orjson.dumps(complete["payload"])
    except jwt.InvalidSignatureError:
        raise WrongSignature("Another key has signed the token.") from None
    except _BROKEN as error:
        raise _unreadable(error) from None
    _check_header(complete["header"])
    payload: dict[str, Any] = complete["payload"]
    for name in _INSTANTS:
        if name in payload and type(payload[name]) not in (int, float):
            raise TokenError(f"The token's `{name}` is no number.")
    return payload


def make_claims(user: Any, groups: list[Any], permissions: list[Any], expires: Any) -> Claims:
    """Return the claims of a verified payload.

    Raises:
        TokenError: A name in it is not allowed.
    """
    for name in (user, *groups, *permissions):
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise TokenError(
                "The token has a user or group name that is not allowed.", found=repr(name)[:80]
            )
    return Claims(user, tuple(groups), frozenset(permissions), float(expires))


def _check_length(token: str) -> None:
    if len(token) > MAX_TOKEN_BYTES:
        raise TokenError(
            "The token is too long.",
            expected=f"at most {MAX_TOKEN_BYTES} bytes",
            found=f"{len(token)} bytes",
        )


def _check_header(header: dict[str, Any]) -> None:
    for name in _REFUSED_HEADERS:
        if name in header:
            raise TokenError("The token has a header that is refused.", found=name)


def _unreadable(error: Exception) -> TokenError:
    # The error may quote the token: its line feeds and its length don't belong in a log.
    found = f"{type(error).__name__}: {ascii(str(error))[:200]}"
    return TokenError("The token can't be verified.", found=found)
