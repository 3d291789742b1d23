"""Small files that are written for good: whole or not at all, whatever dies when.

The content goes to a temporary file in the same folder, from there to the disk, and takes the
wanted name in one step; then the folder goes to the disk. A reader sees the content of before or
of after. A writer holds the lock of its temporary file, so that the next one tells what a killed
writer left from what another is writing.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import os
import secrets
from pathlib import Path
from typing import Final

#: How a temporary file's name ends, behind the wanted name and 16 hexadecimal digits.
_SUFFIX: Final = ".writing"
_DIGITS: Final = "[0-9a-f]" * 16


def atomic_write(
    path: Path, content: bytes, *, mode: int | None = None, replace: bool = True
) -> None:
    """Put a file in place whole, and on the disk; its folder has to be there.

    Args:
        path: Where.
        content: All of it.
        mode: Its permissions, from the first byte on; None: as the process's umask has it.
        replace: Whether a file of this name may be there, and is replaced.

    Raises:
        FileExistsError: There is one, and it is not to be replaced.
        OSError: It can't be written; what was there is as it was.
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
    """Make a temporary file whose lock is held as long as the returned handle is open."""
    while True:
        draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}{_SUFFIX}")
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        # A file system without locks keeps what is left over; nothing else depends on them.
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        # Another writer may have taken it for one that was left, before it was locked.
        if draft.exists():
            return handle, draft
        os.close(handle)


def _remove_left(path: Path) -> None:
    """Remove the temporary files of a path whose writers are dead."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.{_DIGITS}{_SUFFIX}"):
        # One that is locked is being written; one that is gone or not ours is not our business.
        with contextlib.suppress(OSError):
            handle = os.open(left, os.O_RDONLY)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                left.unlink()
            finally:
                os.close(handle)


def sync(path: Path) -> None:
    """Have a file's content, or a folder's names, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
