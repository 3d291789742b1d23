"""Compares the stored changes and versions of jobs with those of the fold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray

from jobtrail.core.job import Job
from projections.sqlite.tables.change_layout import CHANGE, ChangeArray
from projections.verifying.folding import NONE, Fold
from projections.verifying.report import Report

#: Blocks of 36 KiB that are in memory at a time.
_AT_ONCE: Final = 256
#: Names that are cached at a time.
_NAMES: Final = 100_000
#: Jobs whose versions are read at a time.
_TOGETHER: Final = 500
_UNKNOWN: Final = -2
#: The columns of a job version in `incarnations`.
_VERSION: Final = (
    "id", "audience", "type", "created_at", "bulk_id", "since", "since_offset", "until",
    "until_offset",
)  # fmt: skip


class StoredNumbers:
    """Looks up the surrogate keys of a shard, by the names of audiences and types.

    Args:
        db: A copy of the shard.
    """

    def __init__(self, db: Any) -> None:
        self._db = db
        self._audiences: dict[tuple[str, tuple[str, ...]], int] = {}
        self._types: dict[str, int] = {}

    def of(self, job: Job) -> tuple[int, int]:
        """Return the numbers of a job's audience and type; 0 for none, -2 for an unknown one."""
        return self._audience(job), self._type(job.job_type)

    def _audience(self, job: Job) -> int:
        if job.owner is None:
            return 0
        key = (job.owner, job.viewers)
        if key not in self._audiences:
            if len(self._audiences) >= _NAMES:
                self._audiences.clear()
            row = self._db.execute(
                "SELECT audience FROM audiences WHERE owner=? AND viewers=?",
                (job.owner, orjson.dumps(job.viewers).decode()),
            ).fetchone()
            self._audiences[key] = row[0] if row else _UNKNOWN
        return self._audiences[key]

    def _type(self, name: str | None) -> int:
        if name is None:
            return 0
        if name not in self._types:
            if len(self._types) >= _NAMES:
                self._types.clear()
            row = self._db.execute("SELECT type FROM types WHERE name=?", (name,)).fetchone()
            self._types[name] = row[0] if row else _UNKNOWN
        return self._types[name]


class RecordOfChanges:
    """Compares the stored changes of the jobs of one partition.

    Args:
        db: A copy of the shard.
        partition: The partition.
        begin: The first offset that the log still has of it: earlier changes are not compared.
        report: Takes the differences.
    """

    def __init__(self, db: Any, partition: int, begin: int, report: Report) -> None:
        self._db = db
        self._partition = partition
        self._begin = begin
        self._report = report
        self._stored_numbers = StoredNumbers(db)
        self._met = self._there = 0

    def compare(self, fold: Fold, rows: dict[int, int], skipped: set[int]) -> None:
        """Compare the changes of the jobs of a fold.

        Args:
            fold: The folded jobs.
            rows: The rows of the jobs that were compared, by subject.
            skipped: The offsets of the events of the others.
        """
        expected = self._expected(fold)
        found = self._found(np.array(fold.places, "<i8"))
        self._met += len(found)
        if skipped:
            away = np.array(sorted(skipped), "<i8")
            expected = expected[~np.isin(expected["offset"], away)]
            found = found[~np.isin(found["offset"], away)]
        # A new version ends and begins at one offset; `NONE` is the highest code.
        expected, found = (np.sort(some, order=("offset", "before")) for some in (expected, found))
        if expected.tobytes() != found.tobytes():
            self._name(fold, expected, found)
        self._compare_versions(fold, rows)

    def _expected(self, fold: Fold) -> ChangeArray:
        changes = np.empty(len(fold.offsets), CHANGE)
        whose = np.array(fold.whose, "<i8")
        used, place = np.unique(whose, return_inverse=True)
        numbers = np.array(
            [
                (*self._stored_numbers.of(job), job.created_at)
                for job in map(fold.subjects.__getitem__, used.tolist())
            ],
            "<i8",
        ).reshape(-1, 3)[place]
        changes["effective"] = np.array(fold.effective, "<i8")
        changes["offset"] = np.array(fold.offsets, "<i8")
        changes["audience"], changes["type"], changes["created"] = numbers.T
        changes["partition"] = self._partition
        changes["before"] = np.array(fold.before, "u1")
        changes["after"] = np.array(fold.after, "u1")
        return changes

    def _blocks(self) -> Iterator[ChangeArray]:
        rows = self._db.execute("SELECT rows FROM change_blocks ORDER BY block")
        while some := list(islice(rows, _AT_ONCE)):
            changes = np.frombuffer(b"".join(block for (block,) in some), CHANGE)
            yield changes[
                (changes["partition"] == self._partition) & (changes["offset"] >= self._begin)
            ]

    def _found(self, places: NDArray[np.int64]) -> ChangeArray:
        """Return the stored changes at these offsets, which are in order."""
        found = [np.empty(0, CHANGE)]
        self._there = 0
        for changes in self._blocks():
            self._there += len(changes)
            if len(places):
                at = np.searchsorted(places, changes["offset"])
                hit = places[np.minimum(at, len(places) - 1)] == changes["offset"]
                found.append(changes[hit])
        return np.concatenate(found)

    def _name(self, fold: Fold, expected: ChangeArray, found: ChangeArray) -> None:
        ids = {
            offset: fold.subjects[subject].id
            for offset, subject in zip(fold.offsets, fold.whose, strict=True)
        }
        wanted, there = Counter(expected.tolist()), Counter(found.tolist())
        by_offset: dict[int, tuple[list[Any], list[Any]]] = {}
        for side, changes in enumerate((wanted - there, there - wanted)):
            for change in changes.elements():
                by_offset.setdefault(change[1], ([], []))[side].append(_shown(change))
        for offset, (lacking, more) in sorted(by_offset.items()):
            where = f"{ids.get(offset, 'no job')} (partition {self._partition}, offset {offset})"
            self._report.differ("change", where, "changes", lacking or "none", more or "none")

    def check_rest(self) -> None:
        """Look for changes at offsets that hold no record; all of the partition was compared."""
        if self._there != self._met:
            self._report.differ(
                "change", f"partition {self._partition}", "changes", self._met, self._there
            )

    def _compare_versions(self, fold: Fold, rows: dict[int, int]) -> None:
        """Compare the versions of the jobs that have several."""
        jobs = [(rows[f.subject], f) for f in fold.jobs.values() if f.subject in rows]
        has_versions = {row for (row,) in self._db.execute("SELECT DISTINCT job FROM incarnations")}
        asked = [(row, folded) for row, folded in jobs if folded.former or row in has_versions]
        for begin in range(0, len(asked), _TOGETHER):
            some = asked[begin : begin + _TOGETHER]
            found: dict[int, list[tuple[Any, ...]]] = {}
            for row, *version in self._db.execute(
                f"SELECT job, {', '.join(_VERSION)} FROM incarnations "  # noqa: S608
                "WHERE job IN (SELECT value FROM json_each(?)) ORDER BY since_offset",
                (orjson.dumps([row for row, _folded in some]).decode(),),
            ):
                found.setdefault(row, []).append(tuple(version))
            for row, folded in some:
                expected = self._versions(fold, folded.versions()) if folded.former else []
                if expected != found.get(row, []):
                    self._report.differ(
                        "incarnation", folded.job.id, "versions", expected, found.get(row, [])
                    )

    def _versions(self, fold: Fold, versions: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
        found = []
        for subject, *between in versions:
            job = fold.subjects[subject]
            found.append(
                (job.id, *self._stored_numbers.of(job), job.created_at, job.bulk_id, *between)
            )
        return found


def _shown(change: tuple[Any, ...]) -> dict[str, Any]:
    shown = dict(zip(CHANGE.names or (), change, strict=True))
    return {
        name: None if value == NONE and name in ("before", "after") else value
        for name, value in shown.items()
        if name not in ("offset", "partition")
    }
