"""A projector that dies by itself at a point of its store's transaction.

`python -m tests.faults.kit.crashing POINT NUMBER [what a projector takes]`: it is the projector,
and at its NUMBER-th transaction it is killed at POINT. SQLite itself says where it is: a hook is
set on each connection that is opened, and nothing of the projector is replaced.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any, Final

import apsw

from jobtrail.settings import Settings
from projections.__main__ import main
from tests.processes import Process, module

#: Before anything of a batch is written; after all is, before it counts; after it counts, before
#: the log's group hears of it.
POINTS: Final = ("before-write", "after-write", "before-ack")


class _Point:
    """Counts transactions, and ends this process at one."""

    def __init__(self, point: str, number: int) -> None:
        self._point = point
        self._left = number

    def set_on(self, db: Any) -> None:
        """Watch a connection."""
        if self._point == "before-write":
            db.trace_v2(apsw.SQLITE_TRACE_STMT, self._step)
        elif self._point == "after-write":
            db.set_commit_hook(self._commit)
        else:
            db.set_wal_hook(self._committed)

    def _die_at_last(self) -> None:
        self._left -= 1
        if self._left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def _step(self, step: Any) -> None:
        if step["sql"].startswith("BEGIN IMMEDIATE"):
            self._die_at_last()

    def _commit(self) -> bool:
        self._die_at_last()
        return False

    def _committed(self, *_about: object) -> int:
        self._die_at_last()
        return 0


def crashing_projector(
    settings: Settings, point: str, number: int, name: str = "projector-0"
) -> Process:
    """Return a projector that dies at a point of its NUMBER-th transaction, not started yet."""
    arguments = (point, str(number), "--name", name, "--with-parent")
    folder = settings.data_dir / "logs"
    return module("tests.faults.kit.crashing", settings, folder, *arguments, label=name)


if __name__ == "__main__":
    where = _Point(sys.argv[1], int(sys.argv[2]))
    apsw.connection_hooks.append(where.set_on)
    del sys.argv[1:3]
    main()
