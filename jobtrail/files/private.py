"""Files and folders that are their user's alone.

What the service keeps says what every job does, also to those who may not see it: the log, the
store, what the processes say, the passwords. So other users of the machine get no rights to it,
from the first byte on, and rights that an earlier version gave are taken back at the start.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from jobtrail.core.errors import JobtrailError

#: Of a folder, and of a file, that is its user's alone.
FOLDER_MODE: Final = 0o700
FILE_MODE: Final = 0o600
#: The rights of everybody else.
_OTHERS: Final = 0o077
#: Theirs to pass through a folder.
_PASS: Final = 0o011
#: What the service makes in its data folder; anything else in there is somebody's own.
OURS: Final = (
    "bridges", "broker", "faust", "imports", "keys.json", "keys.json.lock", "logs",
    "processes.json", "run.json", "secret", "store", "up.lock",
)  # fmt: skip


class NotPrivate(JobtrailError):
    """A file or folder can't be kept from other users."""


def keep_private() -> None:
    """Have this process, and those that it starts, make files that are their user's alone."""
    os.umask(os.umask(_OTHERS) | _OTHERS)


def private_folder(path: Path) -> Path:
    """Make a folder that is its user's alone, and those above it that are missing; return it.

    One that is there is left as it is.
    """
    path.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
    return path


def is_reachable(folder: Path) -> bool:
    """Tell whether other users get to a folder at all: through all those that it lies in."""
    return all(above.stat().st_mode & _PASS for above in folder.resolve().parents)


def narrow(folder: Path, names: Iterable[str] | None = None) -> int:
    """Take from other users the rights to a folder and to what lies in it.

    Args:
        folder: Which one; it has to be there.
        names: What in it is narrowed beside itself; None for all of it. Links are not followed.

    Returns:
        How many files and folders had wider rights.

    Raises:
        NotPrivate: The folder belongs to another user, or the rights can't be changed.
    """
    folder = folder.resolve()
    owner = folder.stat().st_uid
    if owner != os.geteuid():
        raise NotPrivate(
            "The folder belongs to another user, who could read and change all that is in it.",
            where=str(folder),
            expected=f"one of user {os.geteuid()}",
            found=f"one of user {owner}",
            hint="Choose another folder, or give this one to the user who runs the service.",
        )
    narrowed = 0
    # From the top: what is below a folder that is closed nobody can exchange any more.
    for path, mode in wide(folder, names):
        try:
            path.chmod(mode & ~_OTHERS)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise NotPrivate(
                "The rights of other users can't be taken back.",
                where=str(path),
                found=error.strerror or repr(error),
                hint=f"Run: chmod -R go= {folder}",
            ) from None
        narrowed += 1
    return narrowed


def wide(folder: Path, names: Iterable[str] | None = None) -> Iterator[tuple[Path, int]]:
    """Find what other users have rights to, in a folder and itself, from the top.

    Args:
        folder: Which one; nothing is found where it is not there.
        names: What in it is looked at; None for all of it.

    Yields:
        Each path, and its rights.
    """
    try:
        mode = folder.lstat().st_mode
    except OSError:
        return
    if mode & _OTHERS and not stat.S_ISLNK(mode):
        yield folder, stat.S_IMODE(mode)
    if not stat.S_ISDIR(mode):
        return
    if names is not None:
        for name in names:
            yield from wide(folder / name)
        return
    try:
        with os.scandir(folder) as entries:
            found = list(entries)
    except OSError:
        return
    for entry in found:
        try:
            mode = entry.stat(follow_symlinks=False).st_mode
        except OSError:
            # It was there a moment ago.
            continue
        if stat.S_ISDIR(mode):
            yield from wide(Path(entry.path))
        elif mode & _OTHERS and not stat.S_ISLNK(mode):
            yield Path(entry.path), stat.S_IMODE(mode)


def is_private(folder: Path) -> bool:
    """Tell whether other users have no right to a folder; one that is not there is."""
    try:
        return not folder.stat().st_mode & _OTHERS
    except OSError:
        return True
