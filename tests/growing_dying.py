"""Exports that grow and die on the way, as by a power cut: a process for tests, and its log.

Each is forked of a process that has its imports done, and no threads.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow as pa

from jobtrail.cli.following import grow
from jobtrail.core.partitions import partition_of
from jobtrail.replay import Filters, Replay
from tests.archive_dying import ended, forked
from tests.archiving import ListLog, batch_of, record

PARTITIONS = 3
JOBS = 24
#: How often an export grows until it holds the whole log.
ROUNDS = 3
#: How many steps are left to live.
_left = 0


def event(kind: str, job: int, number: int, **data: Any) -> dict[str, Any]:
    second = job * 3 + number
    return {
        "specversion": "1.0",
        "id": f"{job}.{number}",
        "source": "//tests",
        "type": f"job.{kind}",
        "subject": f"j{job}",
        "time": f"2026-11-{20 + job // 20}T13:{second // 60:02}:{second % 60:02}Z",
        "data": data,
    }


def life(job: int) -> list[dict[str, Any]]:
    """Return the events of a job; some come late, twice, or change what the job is."""
    created = event("created", job, 0, jobType=f"t{job % 2}", owner=f"u{job % 3}", bulkId='b,"1')
    found = [
        created,
        event("active", job, 1, tags={"stage": "one"}),
        event("progress", job, 2, progress=0.5, tags={"stage": "two"}),
    ]
    if job % 4 == 0:
        found = [*found[1:], created]
    if job % 5 == 0:
        # Taken up again as another's: what it is changes with it.
        found += [event("cancelled", job, 3), found[1]]
        found += [event("created", job, 4, attempt=1, jobType="t9", owner="u9")]
    found += [event("retry", job, 5, error={"n": job}), event("failed", job, 6, output={"n": job})]
    return found if job % 3 else [*found, event("progress", job, 7, progress=0.1)]


class JobLog(ListLog):
    """A log of jobs side by side, and of some records that are no events, that is seen to grow.

    Args:
        batch: Records of a batch.
    """

    def __init__(self, batch: int = 20) -> None:
        super().__init__(*[0] * PARTITIONS, batch=batch)
        self._limits: dict[int, int] | None = None
        lives = [life(job) for job in range(JOBS)]
        for step in range(max(map(len, lives))):
            for one in lives:
                if step < len(one):
                    self._append(one[step])

    def _append(self, one: dict[str, Any]) -> None:
        records = self.records[partition_of(one["subject"], PARTITIONS)]
        for key, value in ((one["subject"], json.dumps(one).encode()), ("j1", b"no event")):
            if key != "j1" or len(records) % 9 == 0:
                place = {"partition": partition_of(one["subject"], PARTITIONS)}
                place |= {"offset": len(records), "logged_at": 1_795_000_000_000_000}
                records.append({**place, "key": key.encode(), "value": value, "headers": None})

    def limit(self, share: float) -> None:
        """Let a share of each partition be seen."""
        self._limits = {p: int(end * share) for p, end in super().ends().items()}

    def ends(self) -> dict[int, int]:
        return super().ends() if self._limits is None else self._limits


class DyingLog(JobLog):
    """A log each of whose batches may be the last that is read."""

    def read(self, start: Mapping[int, int], end: Mapping[int, int]) -> Iterator[pa.RecordBatch]:
        for batch in super().read(start, end):
            step()
            yield batch


def step() -> None:
    global _left
    _left -= 1
    if _left == 0:
        os.kill(os.getpid(), signal.SIGKILL)


def export(log: JobLog, path: Path, *, by_day: bool = False) -> None:
    """Grow an export with a log that grows."""
    for number in range(1, ROUNDS + 1):
        log.limit(number / ROUNDS)
        go_on(log, path, by_day=by_day)


def go_on(log: JobLog, path: Path, *, by_day: bool = False) -> None:
    """Add to an export what a log has."""
    with Replay(log) as replay:
        grow(replay, path, Filters(), None, by_day=by_day)


def dying(path: Path, by_day: bool, steps: int) -> None:
    """Export, and die at a step: before a file is touched, or when a batch is read."""
    global _left
    log, _left = DyingLog(), steps

    def touched(name: str, arguments: tuple[Any, ...]) -> None:
        if name in TOUCHES and str(path.parent) in str(arguments[0]):
            step()

    sys.addaudithook(touched)
    export(log, path, by_day=by_day)


TOUCHES = ("open", "os.rename", "os.mkdir", "os.remove", "os.truncate")


def full(path: Path, size: int) -> None:
    """Export, and die within the write that makes a file larger than so many bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    export(JobLog(), path)


def die_at_every_step(to: str, name: str, by_day: str) -> None:
    """Export into folders of their own, killed at the first step, the second, until it is done."""
    for steps in count(1):
        folder = Path(to, str(steps))
        folder.mkdir()
        status = ended(forked(dying, folder / name, bool(int(by_day)), steps))
        if status == 0:
            return
        assert status == -signal.SIGKILL, status


def die_at_every_size(to: str, name: str, by: str) -> None:
    """Export into folders of their own, killed within a line, later each time."""
    for size in count(int(by), int(by)):
        folder = Path(to, str(size))
        folder.mkdir()
        status = ended(forked(full, folder / name, size))
        if status == 0:
            return
        assert status == -signal.SIGXFSZ, status


if __name__ == "__main__":
    batch_of([record(0, 0)])  # PyArrow imports pandas then, which takes longer than a run
    globals()[sys.argv[1]](*sys.argv[2:])
