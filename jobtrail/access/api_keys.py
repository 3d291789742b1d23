"""API keys: for programs that can't fetch a token from time to time.

A key is an id and 256 random bits; the file has a SHA-256 of them, so reading the file gives no
usable key. (A slow hash is not needed: random bits can't be guessed.) Still only the owner may
access the file: anyone who can write it can add keys.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Final

import msgspec
from filelock import FileLock, Timeout

from jobtrail.access.tokens import WRITE, check_grant
from jobtrail.core.errors import SettingError, UsageError
from jobtrail.core.source_binding import MAX_SOURCES
from jobtrail.files.atomic import atomic_write
from jobtrail.files.private import FILE_MODE, private_folder

PREFIX: Final = "jobtrail_"
#: The most keys of a file: every process has all of them in memory.
MAX_KEYS: Final = 10_000
#: Seconds to wait for another command that changes the file.
_LOCK_WITHIN: Final = 10.0
_SECRET_BYTES: Final = 32
_KEY: Final = re.compile(rf"{PREFIX}([0-9a-f]{{12}})\.([A-Za-z0-9_-]{{43}})")
_NAME: Final = re.compile(r"[^\x00-\x1f\x7f-\x9f\ud800-\udfff]{0,256}")


class ApiKey(msgspec.Struct, frozen=True, rename="camel"):
    """What the file has of a key; the key itself was shown once."""

    id: str
    user: str
    #: SHA-256 of its secret, in hexadecimal.
    digest: str
    created_at: datetime
    #: None for never.
    expires_at: datetime | None = None
    groups: tuple[str, ...] = ()
    permissions: tuple[str, ...] = ()
    #: The CloudEvents sources that the key may write; empty for all.
    sources: tuple[str, ...] = ()
    name: str = ""

    def is_proved_by(self, secret: str) -> bool:
        """Tell, in constant time, whether this is the key's secret."""
        return hmac.compare_digest(_digest(secret), self.digest)


class KeysDamaged(SettingError):
    """The file of the API keys can't be parsed: it is not known which keys exist."""


class _File(msgspec.Struct, frozen=True):
    keys: tuple[ApiKey, ...]
    version: int = 1


def split_key(text: str) -> tuple[str, str] | None:
    """Return the id and the secret of a key, None where the text has another form."""
    found = _KEY.fullmatch(text)
    return None if found is None else (found[1], found[2])


def read_keys(path: Path) -> tuple[ApiKey, ...]:
    """Return all keys; none where there is no file.

    Raises:
        KeysDamaged: The file can't be parsed.
        SettingError: Other users can access the file, or it can't be read.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read()
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise SettingError(
            "The file of the API keys can't be read.", where=str(path), found=str(error)
        ) from None
    if mode & 0o077:
        raise SettingError(
            "Others can reach the file of the API keys.",
            where=str(path),
            expected="mode 0600",
            found=f"mode {mode & 0o777:04o}",
            hint="Set that mode, and check the keys: others may have changed them.",
        )
    try:
        parsed = msgspec.json.decode(content, type=_File)
    except msgspec.MsgspecError as error:
        raise KeysDamaged(
            "This file has no API keys.",
            where=str(path),
            found=str(error),
            hint="Put a copy in its place, or delete it and make new keys.",
        ) from None
    return parsed.keys


def make_key(
    user: str,
    *,
    at: datetime,
    expires_at: datetime | None = None,
    groups: tuple[str, ...] = (),
    permissions: tuple[str, ...] = (),
    sources: tuple[str, ...] = (),
    name: str = "",
) -> tuple[ApiKey, str]:
    """Make a key; it is valid once it is in the file.

    Args:
        user: Whom the bearer acts as.
        at: Now, with an offset.
        expires_at: When the key ends; None for never.
        groups: Whose member the user is.
        permissions: Of `jobtrail.access.tokens.PERMISSIONS`.
        sources: The CloudEvents sources that the key may write; empty for all.
        name: What it is for.

    Returns:
        The entry for the file, and the key, which is stored nowhere.

    Raises:
        UsageError: A name has another form, a permission is unknown, or there are sources
            without the permission to write.
    """
    check_grant(user, groups, permissions)
    if not all(_NAME.fullmatch(text) for text in (name, *sources)) or "" in sources:
        raise UsageError(
            "This is no name of a key or source.",
            expected="at most 256 characters, no control characters",
        )
    if len(sources) > MAX_SOURCES:
        raise UsageError(
            "The key has too many sources.",
            expected=f"at most {MAX_SOURCES}",
            found=str(len(sources)),
            hint="Make several keys.",
        )
    if sources and WRITE not in permissions:
        raise UsageError(
            "A key with sources is for writing.", expected=f"the permission {WRITE} too"
        )
    secret = secrets.token_urlsafe(_SECRET_BYTES)
    key = ApiKey(
        id=secrets.token_hex(6),
        user=user,
        digest=_digest(secret),
        created_at=at,
        expires_at=expires_at,
        groups=groups,
        permissions=permissions,
        sources=sources,
        name=name,
    )
    return key, f"{PREFIX}{key.id}.{secret}"


def add_key(path: Path, key: ApiKey) -> None:
    """Add a key to the file, which is created where it is missing.

    Raises:
        UsageError: There are too many keys.
        SettingError: The file can't be used.
    """
    with _locked(path):
        keys = read_keys(path)
        if len(keys) >= MAX_KEYS:
            raise UsageError(
                "There are too many API keys.",
                expected=f"at most {MAX_KEYS}",
                hint="Revoke those that are over.",
            )
        _write(path, (*keys, key))


def revoke_key(path: Path, key_id: str) -> ApiKey:
    """Remove a key from the file; the service refuses it within a second.

    Returns:
        The removed entry.

    Raises:
        UsageError: There is no such key.
        SettingError: The file can't be used.
    """
    with _locked(path):
        keys = read_keys(path)
        for key in keys:
            if key.id == key_id:
                _write(path, tuple(other for other in keys if other is not key))
                return key
    raise UsageError(
        "There is no such API key.",
        where=str(path),
        found=repr(key_id[:80]),
        hint="`jobtrail keys list` shows their ids.",
    )


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Lock the file against other commands."""
    private_folder(path.parent)
    try:
        with FileLock(f"{path}.lock", timeout=_LOCK_WITHIN, mode=FILE_MODE):
            yield
    except Timeout:
        raise SettingError(
            "Another command is changing the API keys.", where=str(path), hint="Try again."
        ) from None


def _write(path: Path, keys: tuple[ApiKey, ...]) -> None:
    """Replace the file atomically: a reader sees the old keys or the new ones."""
    content = msgspec.json.format(msgspec.json.encode(_File(keys)), indent=1) + b"\n"
    atomic_write(path, content, mode=FILE_MODE)
