"""Compares rows and trails of a shard with the fold of their jobs."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from jobtrail.core.job import Job, kept_trail
from jobtrail.core.partitions import partition_of
from jobtrail.core.trail import CHUNK_BYTES, ENTRY_BYTES, first_place, offsets_of, raw_entries
from projections.sqlite.tables.rows import Names
from projections.sqlite.tables.stored_jobs import rows_of, whole_job
from projections.verifying.chunks import Chunks
from projections.verifying.folding import Fold, Folded, JobSubset, shortened
from projections.verifying.report import Report

#: Jobs that are looked up at a time.
_TOGETHER: Final = 1_000
_FIELDS: Final = tuple(name for name in Job.__struct_fields__ if name not in ("trail", "earlier"))
_BY_ROW: Final = "SELECT row, id, spilled, trail FROM jobs"


class RowComparison:
    """Compares the rows of a shard, and notes which of them were compared.

    Args:
        db: A copy of the shard.
        report: Takes the differences.
    """

    def __init__(self, db: Any, report: Report) -> None:
        self._db = db
        self._report = report
        self._names = Names(db)
        self._chunks = Chunks(db, report)
        (highest,) = db.execute("SELECT coalesce(max(row), 0) FROM jobs").fetchone()
        (self._seed,) = db.execute("SELECT seed FROM filling").fetchone()
        self._met: NDArray[np.bool_] = np.zeros(highest + 1, bool)

    def compare(self, fold: Fold, begin: int) -> tuple[dict[int, int], set[int]]:
        """Compare the jobs of a fold.

        Args:
            fold: The folded jobs.
            begin: The first offset that the log still has of this partition.

        Returns:
            The rows of the jobs that were compared, by current subject; and the offsets of the
            events of jobs that could not be compared.
        """
        rows: dict[int, int] = {}
        skipped: set[int] = set()
        jobs = iter(fold.jobs.items())
        while some := dict(islice(jobs, _TOGETHER)):
            found = self._look_up(some)
            for job_id, folded in some.items():
                row = found.get(job_id)
                if row is None:
                    self._report.jobs += 1
                    self._report.differ("row", job_id, "row", "a row", "none")
                    continue
                number, job, trail = row
                if begin > _first(trail):
                    self._report.not_comparable += 1
                    skipped.update(offsets_of(trail))
                    continue
                self._report.jobs += 1
                rows[folded.subject] = number
                self._compare(folded.job, job, trail)
        return rows, skipped

    def _look_up(self, some: dict[str, Folded]) -> dict[str, tuple[int, Job, bytes]]:
        """Return per job the row's number, its content, and the complete trail."""
        found: dict[str, tuple[int, Job, bytes]] = {}
        rows = rows_of(self._db, [*some], self._seed)
        for *columns, source, writers, row, spilled, trail in rows:
            job_id = columns[0]
            self._met[row] = True
            if job_id in found:
                self._report.differ("row", job_id, "row", "one row", f"another one, {row}")
                continue
            chunks = self._chunks.read(job_id, row) if spilled else b""
            if len(chunks) != spilled * ENTRY_BYTES or len(trail) >= CHUNK_BYTES:
                outside = len(chunks) // ENTRY_BYTES
                self._report.differ("trail", job_id, "entries outside of the row", spilled, outside)
            job = whole_job(columns, source, writers, self._names)
            job.output, job.error = shortened(job.output), shortened(job.error)
            found[job_id] = (row, job, chunks + trail)
        return found

    def _compare(self, expected: Job, found: Job, trail: bytes) -> None:
        for name in _FIELDS:
            one, other = getattr(expected, name), getattr(found, name)
            if name == "tags":
                # A job keeps the first tags that it was given: their order counts.
                one, other = list(one.items()), list(other.items())
            if one != other:
                self._report.differ("row", expected.id, name, one, other)
        if (complete := kept_trail(expected)) != trail:
            self._compare_trails(expected.id, complete, trail)

    def _compare_trails(self, job_id: str, expected: bytes, found: bytes) -> None:
        if len(found) % ENTRY_BYTES:
            self._report.differ("trail", job_id, "bytes", len(expected), len(found))
            return
        # As numbers: a damaged entry may not be valid.
        one, other = raw_entries(expected), raw_entries(found)
        for number, (entry, stored) in enumerate(zip(one, other, strict=False)):
            if entry != stored:
                self._report.differ("trail", job_id, f"entry {number}", entry, stored)
                return
        sizes = [len(trail) // ENTRY_BYTES for trail in (expected, found)]
        self._report.differ("trail", job_id, "entries", *sizes)

    def check_rest(self, partitions: int, begins: Mapping[int, int], subset: JobSubset) -> None:
        """Look for rows of jobs that the log does not have.

        Args:
            partitions: How many partitions the log has.
            begins: The first offset that it still has, per partition.
            subset: The jobs that were folded.
        """
        (count,) = self._db.execute("SELECT count(*) FROM jobs").fetchone()
        if subset.sample == 1 and count == np.count_nonzero(self._met):
            return
        for row, job_id, spilled, trail in self._db.execute(_BY_ROW):
            if self._met[row] or not subset.has(job_id.encode()):
                continue
            beginning = self._chunks.beginning(row) if spilled else trail
            begin = begins.get(partition_of(job_id, partitions), 0)
            if len(beginning) >= ENTRY_BYTES and begin > _first(beginning):
                self._report.not_comparable += 1
            else:
                self._report.differ("row", job_id, "row", "none", f"row {row}")


def _first(trail: bytes) -> int:
    """Return the offset of a trail's first event; larger than all where there is none."""
    if len(trail) < ENTRY_BYTES:
        return 2**63
    return first_place(trail)[0]
