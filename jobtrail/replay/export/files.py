"""Files, and folders of files, that appear whole or not at all."""

from __future__ import annotations

import contextlib
import glob
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from jobtrail.files.atomic import sync


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Give a path to write to that becomes the wanted one when all is written, and only then.

    It lies in a hidden folder beside the wanted one. Where a process dies, the next one that writes
    the same path removes what it left.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_left(path)
    with _folder(path) as folder:
        draft = folder / path.name
        yield draft
        for written in (*draft.rglob("*"), draft):
            sync(written)
        draft.replace(path)
        sync(path.parent)


@contextlib.contextmanager
def _folder(path: Path) -> Iterator[Path]:
    """Make the folder of a draft; its lock is held as long as somebody writes there."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        lock = _lock_of(folder, path)
        try:
            with FileLock(lock):
                # The process that was faster with the new lock took the folder for a leftover.
                if lock.exists():
                    yield folder
                    return
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _lock_of(folder: Path, path: Path) -> Path:
    return folder / f"{path.name}.lock"


def _remove_left(path: Path) -> None:
    """Remove the drafts of a path whose processes have died."""
    for folder in path.parent.glob(f".{glob.escape(path.name)}.????????"):
        lock = _lock_of(folder, path)
        # Without one it is none of ours, or not ready yet. A lock that is another user's, or gone
        # in between, is not ours to take.
        if lock.is_file():
            with contextlib.suppress(Timeout, OSError), FileLock(lock, timeout=0):
                shutil.rmtree(folder, ignore_errors=True)
