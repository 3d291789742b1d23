"""Compares the descriptions of runs of changes with the changes in them.

Counts of the past use the ranges to skip runs and blocks, and totals in place of changes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from projections.sqlite.files.schema import DAY, EVERYBODY
from projections.sqlite.tables.change_layout import BLOCKS, CHANGE, DIRECTORY, OFFSETS, ChangeArray
from projections.verifying.folding import NONE
from projections.verifying.report import Report


def check_runs(db: Any, report: Report, name: str) -> None:
    """Check every run.

    Args:
        db: A copy of the shard.
        report: Takes the differences.
        name: The shard's name.
    """
    runs = db.execute("SELECT run, low, high, totalled, directory, offsets FROM change_runs")
    runs_met: set[int] = set()
    for run, low, high, totalled, directory, offsets in runs.fetchall():
        runs_met.add(run)
        where = f"{name}, run {run}"
        blocks = db.execute(
            "SELECT block, rows FROM change_blocks WHERE block BETWEEN ? AND ? ORDER BY block",
            (run * BLOCKS, run * BLOCKS + BLOCKS - 1),
        ).fetchall()
        changes = np.frombuffer(b"".join(rows for _block, rows in blocks), CHANGE)
        if not len(changes):
            report.differ("run", where, "changes", "some", "none")
            continue
        numbers = [block for block, _rows in blocks]
        expected = list(range(run * BLOCKS, run * BLOCKS + len(blocks)))
        pieces = [np.frombuffer(rows, CHANGE)["audience"] for _block, rows in blocks]
        of_blocks = [(int(piece.min()), int(piece.max())) for piece in pieces]
        between = (int(changes["effective"].min()), int(changes["effective"].max()))
        for field, one, other in (
            ("blocks", expected, numbers),
            ("times", between, (low, high)),
            ("order of audiences", True, bool((np.diff(changes["audience"]) >= 0).all())),
            ("directory", of_blocks, np.frombuffer(directory, DIRECTORY).tolist()),
            ("offsets", _offsets(changes), sorted(np.frombuffer(offsets, OFFSETS).tolist())),
        ):
            if one != other:
                report.differ("run", where, field, one, other)
        _check_totals(db, report, where, run, changes, totalled=bool(totalled))
    for table, number in (("change_blocks", f"block / {BLOCKS}"), ("change_totals", "run")):
        strays = {n for (n,) in db.execute(f"SELECT DISTINCT {number} FROM {table}")} - runs_met  # noqa: S608
        if strays:
            report.differ("run", name, f"runs of {table}", "those of change_runs", sorted(strays))


def _offsets(changes: ChangeArray) -> list[tuple[int, int, int]]:
    found = []
    for partition in np.unique(changes["partition"]).tolist():
        offsets = changes["offset"][changes["partition"] == partition]
        found.append((partition, int(offsets.min()), int(offsets.max())))
    return found


def _check_totals(
    db: Any, report: Report, where: str, run: int, changes: ChangeArray, *, totalled: bool
) -> None:
    kept: dict[int, dict[tuple[int, int], tuple[int, ...]]] = {}
    for audience, _run, job_type, day, *counts in db.execute(
        "SELECT * FROM change_totals WHERE run=?", (run,)
    ):
        kept.setdefault(audience, {})[job_type, day] = tuple(counts)
    if totalled != (EVERYBODY in kept):
        report.differ("run", where, "totalled", EVERYBODY in kept, totalled)
    for audience, totals in kept.items():
        its = changes if audience == EVERYBODY else changes[changes["audience"] == audience]
        expected = _recount(its)
        for bucket in sorted({*expected, *totals}):
            one, other = expected.get(bucket, (0,) * NONE), totals.get(bucket, (0,) * NONE)
            if one != other:
                at = f"{where}, audience {audience}, type and day {bucket}"
                report.differ("run", at, "totals", one, other)


def _recount(changes: ChangeArray) -> dict[tuple[int, int], tuple[int, ...]]:
    days = changes["created"] // DAY
    keys = np.column_stack((changes["type"].astype("<i8"), days))
    buckets, which = np.unique(keys, axis=0, return_inverse=True)
    sums = np.zeros((len(buckets), NONE + 1), "<i8")
    np.add.at(sums, (which.ravel(), changes["after"]), 1)
    np.add.at(sums, (which.ravel(), changes["before"]), -1)
    return {
        (job_type, day): tuple(counts)
        for (job_type, day), counts in zip(buckets.tolist(), sums[:, :NONE].tolist(), strict=True)
    }
