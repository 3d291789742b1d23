"""What changed between two times or places of the log, found in one reading of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobtrail.core.errors import UsageError
from jobtrail.core.events import microseconds
from jobtrail.core.position import format_position
from jobtrail.core.states import STATES, State
from jobtrail.replay.folding.gathering import Gathering
from jobtrail.replay.folding.jobs import Keep, fold_slice
from jobtrail.replay.folding.parts import Flags, Numbers
from jobtrail.replay.schemas import JOBS
from jobtrail.replay.tables import Spool, Table

#: An instant; a position, where a partition that it does not name has not begun; or the end of
#: what is read.
When: TypeAlias = datetime | Mapping[int, int] | None

_MISSING: Final = -1
#: What a row tells of a job as it is afterwards, or was before where it is no longer.
_ABOUT: Final = ("id", "partition", "job_type", "owner", "bulk_id")
#: What it tells of before and of afterwards, each null where the job did not exist.
_TWICE: Final = ("state", "attempt", "progress", "updated_at")

#: Jobs that changed, one row each.
CHANGES: Final = pa.schema(
    [
        *(JOBS.field(name) for name in _ABOUT),
        *(
            pa.field(f"{name}_{side}", JOBS.field(name).type)
            for name in _TWICE
            for side in ("before", "after")
        ),
        #: How many more events its trail has, applied or not.
        pa.field("events", pa.int32(), nullable=False),
    ]
)


@dataclass(frozen=True)
class Count:
    """How many jobs of a type were in each state before and afterwards.

    Attributes:
        job_type: None for jobs of which nobody has said what they are.
        before: By state; every state is there.
        after: The same.
    """

    job_type: str | None
    before: dict[State, int]
    after: dict[State, int]


@dataclass(frozen=True)
class Diff:
    """What changed.

    Attributes:
        jobs: Rows of `CHANGES`: of these jobs an event was applied in between, or it was told what
            they are.
        counts: Of all chosen jobs, changed or not, by type.
    """

    jobs: Table
    counts: list[Count]


def diff_tables(
    batches: Iterable[pa.RecordBatch],
    before: When,
    after: When = None,
    *,
    keep: Keep | None = None,
    memory_mib: int = 256,
    folder: Path | None = None,
) -> Diff:
    """Compare the jobs of a log at two times or places.

    Args:
        batches: Of `schemas.EVENTS`, in log order within each partition, up to the later of both.
        before: The earlier one.
        after: The later one; None: the end of the batches.
        keep: Which jobs are wanted, by what they are afterwards; None: all.
        memory_mib: As of `fold_tables`.
        folder: As of `fold_tables`.

    Raises:
        UsageError: `after` is earlier than `before`.
    """
    _check_order(before, after)
    gathering = Gathering(memory_mib, folder)
    for batch in batches:
        gathering.add(batch)
    jobs = Spool(CHANGES, gathering.memory_bytes // 8, folder)
    counted: tuple[_Counted, _Counted] = (Counter(), Counter())
    for events in gathering.slices():
        pair = _Pair(_jobs_at(events, before), _jobs_at(events, after))
        if keep is not None:
            pair = pair.only(keep)
        pair.count(*counted)
        jobs.add(pair.changes())
    return Diff(jobs.table(), _counts(*counted))


def _check_order(before: When, after: When) -> None:
    if isinstance(before, datetime) and isinstance(after, datetime):
        wrong, texts = after < before, (before.isoformat(), after.isoformat())
    elif isinstance(before, Mapping) and isinstance(after, Mapping):
        wrong = any(after.get(partition, 0) < offset for partition, offset in before.items())
        texts = format_position(before), format_position(after)
    else:
        wrong, texts = before is None and after is not None, ("the end", str(after))
    if wrong:
        raise UsageError(
            "A difference goes forward.",
            expected=f"the second at or behind the first, {texts[0]}",
            found=texts[1],
        )


def _jobs_at(events: pa.RecordBatch, when: When) -> pa.RecordBatch:
    """Return the jobs of a slice at a time or place."""
    instant = None
    if isinstance(when, datetime):
        instant = microseconds(when)
    elif when is not None:
        partitions = events.column("partition").to_numpy()
        ends = np.zeros(max([int(partitions.max()), *when]) + 1, np.int64)
        for partition, offset in when.items():
            ends[partition] = offset
        before = events.column("offset").to_numpy() < ends[partitions]
        events = events.filter(pa.array(before))
    parts = [part.jobs for part in fold_slice(events, instant)]
    return pa.concat_batches(parts) if parts else pa.RecordBatch.from_pylist([], schema=JOBS)


_Counted: TypeAlias = Counter[tuple[str | None, str]]


class _Pair:
    """The jobs of a slice before and afterwards, brought together."""

    def __init__(self, before: pa.RecordBatch, after: pa.RecordBatch) -> None:
        self.before = before
        self.after = after
        found = pc.index_in(after.column("id"), value_set=before.column("id"))
        #: For each job afterwards its row before, or `_MISSING`.
        self.row_before: Numbers = found.fill_null(_MISSING).to_numpy().astype(np.int64)
        gone = np.ones(before.num_rows, np.bool_)
        gone[self.row_before[self.row_before != _MISSING]] = False
        #: The rows before of jobs that are not there afterwards.
        self.gone = np.flatnonzero(gone)

    def only(self, keep: Keep) -> _Pair:
        """Return those jobs that are wanted by what they are afterwards, or were before."""
        wanted = keep(self.after).fill_null(False).to_numpy(zero_copy_only=False)
        wanted_gone = keep(self.before).fill_null(False).to_numpy(zero_copy_only=False)
        rows_before = self.row_before[wanted]
        chosen = np.zeros(self.before.num_rows, np.bool_)
        chosen[rows_before[rows_before != _MISSING]] = True
        chosen[self.gone] = wanted_gone[self.gone]
        return _Pair(self.before.filter(pa.array(chosen)), self.after.filter(pa.array(wanted)))

    def count(self, before: _Counted, after: _Counted) -> None:
        """Add how many jobs there are by type and state."""
        for jobs, counted in ((self.before, before), (self.after, after)):
            table = pa.Table.from_batches([jobs.select(["job_type", "state"])])
            for row in (
                table.group_by(table.column_names).aggregate([([], "count_all")]).to_pylist()
            ):
                counted[row["job_type"], row["state"]] += row["count_all"]

    def changes(self) -> pa.RecordBatch:
        """Return the jobs that changed, as rows of `CHANGES`."""
        kept = np.flatnonzero(self._changed())
        size = len(kept) + len(self.gone)
        row_after = _rows(np.concatenate([kept, np.full(len(self.gone), _MISSING)]))
        row_before = _rows(np.concatenate([self.row_before[kept], self.gone]))
        here = np.arange(size) < len(kept)
        columns = {}
        for name in (*_ABOUT, *_TWICE, "events"):
            columns[f"{name}_before"] = self.before.column(name).take(row_before)
            columns[f"{name}_after"] = self.after.column(name).take(row_after)
        for name in _ABOUT:
            columns[name] = pc.if_else(
                pa.array(here), columns[f"{name}_after"], columns[f"{name}_before"]
            )
        zero = pa.scalar(0, pa.int32())
        columns["events"] = pc.subtract(
            pc.coalesce(columns["events_after"], zero), pc.coalesce(columns["events_before"], zero)
        )
        return pa.RecordBatch.from_arrays([columns[name] for name in CHANGES.names], schema=CHANGES)

    def _changed(self) -> Flags:
        """Tell of each job afterwards whether it was another before.

        Both are folds over the beginnings of one history: as long as no event more was applied,
        only what a job is may have been told, after the fact.
        """
        new: Flags = self.row_before == _MISSING
        if len(self.before) == 0:
            return new
        was = self.row_before
        more: Flags = _applied(self.after) != _applied(self.before)[was]
        told: Flags = _told(self.after) != _told(self.before)[was]
        changed: Flags = new | more | told
        return changed


def _applied(jobs: pa.RecordBatch) -> Numbers:
    found: Numbers = jobs.column("events").to_numpy() - jobs.column("ignored").to_numpy()
    return found


def _told(jobs: pa.RecordBatch) -> Flags:
    found: Flags = jobs.column("owner").is_valid().to_numpy(zero_copy_only=False)
    return found


def _rows(numbers: Numbers) -> pa.Array:
    return pa.array(numbers, pa.int64(), mask=numbers == _MISSING)


def _counts(before: _Counted, after: _Counted) -> list[Count]:
    types = {job_type for job_type, _ in (*before, *after)}
    # Jobs of an unknown type stand last.
    return [
        Count(
            job_type,
            {state: before[job_type, state] for state in STATES},
            {state: after[job_type, state] for state in STATES},
        )
        for job_type in sorted(types, key=lambda name: (name is None, name or ""))
    ]
