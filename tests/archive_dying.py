"""Archivers that die at a given step, as by a power cut, or work at once: a process for tests.

Each is forked of a process that has its imports done, and no threads.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from itertools import count
from pathlib import Path

import pyarrow as pa

from jobtrail.replay.archive.place import ArchiveStore
from jobtrail.replay.archive.writing import Archiver, open_for
from tests.archiving import NAME, SIZE, ListLog, batch_of, record

#: How many steps are left to live.
_left = 0


def step() -> None:
    global _left
    _left -= 1
    if _left == 0:
        os.kill(os.getpid(), signal.SIGKILL)


class DyingStore(ArchiveStore):
    """A store each of whose writes may be the last thing that is done."""

    @contextlib.contextmanager
    def draft(self) -> Iterator[tuple[str, pa.NativeFile]]:
        with super().draft() as (name, file):
            step()
            yield name, file
            file.flush()
            step()
        step()

    def publish(self, draft: str, name: str) -> None:
        super().publish(draft, name)
        step()

    def delete(self, name: str) -> None:
        super().delete(name)
        step()


class DyingLog(ListLog):
    """A log each of whose batches may be the last that is read."""

    def read(self, start: Mapping[int, int], end: Mapping[int, int]) -> Iterator[pa.RecordBatch]:
        for batch in super().read(start, end):
            step()
            yield batch


def archive(location: str, counts: tuple[int, ...], steps: int) -> None:
    """Archive all of a log, and die at a step, unless it is done before."""
    global _left
    log = DyingLog(*counts, batch=60)
    store = DyingStore.open(location)
    _left = steps
    Archiver(open_for(store, NAME, log, SIZE), log, rest=True).run(lambda _: None)


class SharedLog(ListLog):
    """A log that all processes see grow: its ends are the size of a file."""

    def __init__(self, size: Path, *counts: int) -> None:
        super().__init__(*counts)
        self._size = size

    def ends(self) -> dict[int, int]:
        size = self._size.stat().st_size
        return {p: min(size, end) for p, end in super().ends().items()}


def archive_what_comes(location: str, size: str, counts: tuple[int, ...]) -> None:
    """Archive a log to its end while it grows, as one of several at once."""
    log, store = SharedLog(Path(size), *counts), ArchiveStore.open(location)
    while True:
        Archiver(open_for(store, NAME, log, SIZE), log, rest=True).run(lambda _: None)
        if log.ends() == ListLog.ends(log):
            return
        with Path(size).open("ab") as file:
            file.write(bytes(13))


def forked(function: Callable[..., None], *arguments: object) -> int:
    """Run a function in a process of its own; return the process's id."""
    if pid := os.fork():
        return pid
    try:
        function(*arguments)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        os._exit(1)
    os._exit(0)


def ended(pid: int) -> int:
    """Wait for a process; return its exit status, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def die_at_every_step(before: str, to: str, *counts: str) -> None:
    """Archive into copies of a folder, killed at the first step, the second, until it is done."""
    for steps in count(1):
        folder = f"{to}/{steps}"
        shutil.copytree(before, folder)
        status = ended(forked(archive, folder, tuple(map(int, counts)), steps))
        if status == 0:
            return
        assert status == -signal.SIGKILL, status


def work_at_once(to: str, size: str, *counts: str) -> None:
    """Archive one log by three processes at once while it grows."""
    arguments = (to, size, tuple(map(int, counts)))
    workers = [forked(archive_what_comes, *arguments) for _ in range(3)]
    assert [ended(pid) for pid in workers] == [0, 0, 0]


if __name__ == "__main__":
    batch_of([record(0, 0)])  # PyArrow imports pandas then, which takes longer than a run
    globals()[sys.argv[1]](*sys.argv[2:])
