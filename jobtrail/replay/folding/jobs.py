"""Jobs and their transitions out of a log of any length, as the pure fold has them at an instant.

Most jobs have a plain history: every event was applied. Those are folded in columns, some hundreds
of thousands of events at a time; the others event by event, by `jobtrail.core.fold.fold` itself.
Both ways give the same, and memory is bounded whatever the length of the log.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path
from typing import Final, TypeAlias

import pyarrow as pa

from jobtrail.core.events import microseconds
from jobtrail.replay.folding.by_event import fold_others
from jobtrail.replay.folding.gathering import Gathering
from jobtrail.replay.folding.in_columns import fold_plain
from jobtrail.replay.folding.parts import Folding
from jobtrail.replay.schemas import JOBS, TRANSITIONS
from jobtrail.replay.tables import Spool, Table, release_unused

#: Chooses rows of `schemas.JOBS`: a batch of them becomes an array of booleans.
Keep: TypeAlias = Callable[[pa.RecordBatch], pa.BooleanArray]

#: The part of the memory that each of the two tables may take.
_TABLE: Final = 8


class Folded:
    """What a fold found, until it is closed."""

    def __init__(self, jobs: Table, transitions: Table, events: int, one_by_one: int) -> None:
        #: Rows of `schemas.JOBS`, in no particular order.
        self.jobs = jobs
        #: Rows of `schemas.TRANSITIONS`; those of a job stand together, in log order.
        self.transitions = transitions
        #: How many events were folded, and how many of them event by event.
        self.events = events
        self.one_by_one = one_by_one

    def __enter__(self) -> Folded:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the tables; one that is wanted for longer is closed when nobody has it."""
        self.jobs.close()
        self.transitions.close()


def fold_tables(
    batches: Iterable[pa.RecordBatch],
    when: datetime | None = None,
    *,
    memory_mib: int = 256,
    keep: Keep | None = None,
    folder: Path | None = None,
) -> Folded:
    """Fold events to the jobs and transitions that there were at an instant.

    Args:
        batches: Of `schemas.EVENTS`, in log order within each partition.
        when: Each job is folded up to its first applied event that is later; None: to the end.
        memory_mib: How much memory to use, in MiB, at least 1, beside what the libraries take. The
            events of a single job have to fit.
        keep: Which jobs are wanted, by what they are at that instant; None: all.
        folder: Where files go while it runs; None is the system's folder for such.

    Returns:
        The two tables, and how they came to be.
    """
    gathering = Gathering(memory_mib, folder)
    for batch in batches:
        gathering.add(batch)
    return fold_gathered(gathering, when, keep=keep)


def fold_gathered(
    gathering: Gathering, when: datetime | None = None, *, keep: Keep | None = None
) -> Folded:
    """Fold events that somebody has gathered, and empty what they were gathered in.

    Args:
        gathering: The events.
        when: As of `fold_tables`.
        keep: As of `fold_tables`.

    Returns:
        The two tables, and how they came to be.
    """
    most = gathering.memory_bytes // _TABLE
    jobs = Spool(JOBS, most, gathering.folder)
    transitions = Spool(TRANSITIONS, most, gathering.folder)
    total = one_by_one = 0
    release_unused()
    for events in gathering.slices():
        total += events.num_rows
        for part in fold_slice(events, None if when is None else microseconds(when)):
            kept = part if keep is None else part.only(keep(part.jobs))
            jobs.add(kept.jobs)
            transitions.add(kept.transitions)
            one_by_one += part.one_by_one
        release_unused()
    return Folded(jobs.table(), transitions.table(), total, one_by_one)


def fold_slice(events: pa.RecordBatch, when: int | None) -> list[Folding]:
    """Fold events that hold the whole of their jobs.

    Args:
        events: Of `gathering.GATHERED`, in log order within each partition.
        when: The instant, in microseconds since 1970; None: the end.

    Returns:
        The jobs, in two parts: those folded in columns, those folded event by event.
    """
    if events.num_rows == 0:
        return []
    plain, others = fold_plain(events, when)
    return [plain, fold_others(others, when)] if others.num_rows else [plain]
