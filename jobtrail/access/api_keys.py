"""API keys: for programs that can't fetch a token from time to time.

A key is 256 random bits behind a name; the file holds a SHA-256 of them, so whoever reads it can
use none. (No slow hash: what is random through and through can't be guessed.) The file is its
owner's alone all the same: whoever can write it can let anybody in.
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
#: The most keys of a file: every process holds all of them.
MAX_KEYS: Final = 10_000
#: Seconds to wait for another command that changes the file.
_LOCK_WITHIN: Final = 10.0
_SECRET_BYTES: Final = 32
_KEY: Final = re.compile(rf"{PREFIX}([0-9a-f]{{12}})\.([A-Za-z0-9_-]{{43}})")
_NAME: Final = re.compile(r"[^\x00-\x1f\x7f-\x9f\ud800-\udfff]{0,256}")


class ApiKey(msgspec.Struct, frozen=True, rename="camel"):
    """What is known of a key; the key itself was shown once."""

    id: str
    user: str
    #: SHA-256 of its secret, in hexadecimal.
    digest: str
    created_at: datetime
    #: None for never.
    expires_at: datetime | None = None
    groups: tuple[str, ...] = ()
    permissions: tuple[str, ...] = ()
    #: The CloudEvents sources that it may write; empty for all.
    sources: tuple[str, ...] = ()
    name: str = ""

    def is_proved_by(self, secret: str) -> bool:
        """Tell, in constant time, whether this is the key's secret."""
        return hmac.compare_digest(_digest(secret), self.digest)


class KeysDamaged(SettingError):
    """The file of the API keys holds something else: which keys there are is not known."""


class _File(msgspec.Struct, frozen=True):
    keys: tuple[ApiKey, ...]
    version: int = 1


def split_key(text: str) -> tuple[str, str] | None:
    """Return the id and the secret of a key, None where the text has not the form of one."""
    found = _KEY.fullmatch(text)
    return None if found is None else (found[1], found[2])


def read_keys(path: Path) -> tuple[ApiKey, ...]:
    """Return all keys; none where there is no file.

    Raises:
        KeysDamaged: It is no file of keys.
        SettingError: Others can reach the file, or it can't be read.
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
            hint="Set that mode, and look through the keys: others may have changed them.",
        )
    try:
        held = msgspec.json.decode(content, type=_File)
    except msgspec.MsgspecError as error:
        raise KeysDamaged(
            "This file holds no API keys.",
            where=str(path),
            found=str(error),
            hint="Put a copy in its place, or delete it and make new keys.",
        ) from None
    return held.keys


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
    """Make a key; it counts when it is in the file.

    Args:
        user: Whom the bearer acts as.
        at: Now, with an offset.
        expires_at: When the key ends; None for never.
        groups: Whose member the user is.
        permissions: Of `jobtrail.access.tokens.PERMISSIONS`.
        sources: The CloudEvents sources that it may write; empty for all.
        name: What it is for.

    Returns:
        What is kept of it, and the key, which is nowhere else.

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
    """Put a key into the file, which is made where it is not there.

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
    """Take a key out of the file; the service refuses it within a second.

    Returns:
        What was known of it.

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
    """Keep other commands from changing the file."""
    private_folder(path.parent)
    try:
        with FileLock(f"{path}.lock", timeout=_LOCK_WITHIN, mode=FILE_MODE):
            yield
    except Timeout:
        raise SettingError(
            "Another command is changing the API keys.", where=str(path), hint="Try again."
        ) from None


def _write(path: Path, keys: tuple[ApiKey, ...]) -> None:
    """Put the file in place whole: whoever reads it sees the keys of before or of after."""
    content = msgspec.json.format(msgspec.json.encode(_File(keys)), indent=1) + b"\n"
    atomic_write(path, content, mode=FILE_MODE)
