"""Small files that are written durably and atomically.

The content is written to a temporary file in the same folder, synced, and renamed; then the folder
is synced. A reader sees the old content or the new one. A writer locks its temporary file, so that
the next writer can tell the leftover of a killed one from a file that is being written.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import os
import secrets
from pathlib import Path
from typing import Final

#: The end of a temporary file's name, after the target's name and 16 hexadecimal digits.
_SUFFIX: Final = ".writing"
_DIGITS: Final = "[0-9a-f]" * 16


def atomic_write(
    path: Path, content: bytes, *, mode: int | None = None, replace: bool = True
) -> None:
    """Write a file atomically and durably; its folder has to exist.

    Args:
        path: The file.
        content: Its complete content.
        mode: Its permissions, from the first byte on; None: by the process's umask.
        replace: Whether to replace an existing file of this name.

    Raises:
        FileExistsError: There is one, and `replace` is false.
        OSError: It can't be written; an existing file is unchanged.
    """
    _remove_left(path)
    handle, draft = _draft(path, 0o666 if mode is None else mode)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            if replace:
                draft.replace(path)
            else:
                path.hardlink_to(draft)
    finally:
        draft.unlink(missing_ok=True)
    sync(path.parent)


def _draft(path: Path, mode: int) -> tuple[int, Path]:
    """Make a temporary file that is locked as long as the returned handle is open."""
    while True:
        draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}{_SUFFIX}")
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        # On a file system without locks leftovers stay; nothing else depends on locks.
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        # Another writer may have removed it as a leftover, before it was locked.
        if draft.exists():
            return handle, draft
        os.close(handle)


def _remove_left(path: Path) -> None:
    """Remove the temporary files of a path that killed writers left."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.{_DIGITS}{_SUFFIX}"):
        # A locked one is being written; one that is missing or another user's is not ours to
        # remove.
        with contextlib.suppress(OSError):
            handle = os.open(left, os.O_RDONLY)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                left.unlink()
            finally:
                os.close(handle)


def sync(path: Path) -> None:
    """Sync a file's content, or a folder's entries, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
