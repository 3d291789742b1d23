"""Files and folders that only their owner may access.

The service's files show what every job does, and have its passwords: the log, the store, the logs
of the processes. So other users of the machine get no rights to them, from the first byte on, and
rights that an earlier version gave are removed at the start.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from jobtrail.core.errors import JobtrailError

#: The modes of a folder and of a file that only their owner may access.
FOLDER_MODE: Final = 0o700
FILE_MODE: Final = 0o600
#: The rights of all other users.
_OTHERS: Final = 0o077
#: Their rights to pass through a folder.
_PASS: Final = 0o011
#: The service's entries in its data folder; others are not touched.
OURS: Final = (
    "bridges", "broker", "faust", "imports", "keys.json", "keys.json.lock", "logs",
    "processes.json", "run.json", "secret", "store", "up.lock",
)  # fmt: skip


class NotPrivate(JobtrailError):
    """A file or folder can't be kept from other users."""


def keep_private() -> None:
    """Set the umask of this process and its children so that new files are private."""
    os.umask(os.umask(_OTHERS) | _OTHERS)


def private_folder(path: Path) -> Path:
    """Make a private folder, and missing ones above it; return it.

    An existing one is left as it is.
    """
    path.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
    return path


def is_reachable(folder: Path) -> bool:
    """Tell whether other users can reach a folder: through all the folders above it."""
    return all(above.stat().st_mode & _PASS for above in folder.resolve().parents)


def narrow(folder: Path, names: Iterable[str] | None = None) -> int:
    """Remove other users' rights to a folder and its content.

    Args:
        folder: Which one; it has to exist.
        names: The entries to change beside the folder itself; None for all. Links are not followed.

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
    # From the top: below a closed folder other users can't replace anything any more.
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
    """Find the files and folders, from the top, that other users have rights to.

    Args:
        folder: Where to look; a missing one has none.
        names: The entries to check; None for all.

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
            # It was removed in between.
            continue
        if stat.S_ISDIR(mode):
            yield from wide(Path(entry.path))
        elif mode & _OTHERS and not stat.S_ISLNK(mode):
            yield Path(entry.path), stat.S_IMODE(mode)


def is_private(folder: Path) -> bool:
    """Tell whether other users have no right to a folder; true for a missing one."""
    try:
        return not folder.stat().st_mode & _OTHERS
    except OSError:
        return True
