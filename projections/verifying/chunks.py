"""Checks the chunks of trails outside of rows, and the look-up tables beside them."""

from __future__ import annotations

from typing import Any

import numpy as np

from jobtrail.core.trail import (
    CHUNK_BYTES,
    NEVER,
    describing_offsets,
    effective_time,
    first_place,
)
from jobtrail.core.trail_columns import TRAIL_DTYPE
from projections.verifying.report import Report


class Chunks:
    """The chunks of a shard's jobs.

    Args:
        db: A copy of the shard.
        report: Takes the differences.
    """

    def __init__(self, db: Any, report: Report) -> None:
        self._db = db
        self._report = report

    def beginning(self, row: int) -> bytes:
        """Return a job's first chunk; empty where it has none."""
        found = self._db.execute(
            "SELECT trail FROM trail_chunks WHERE row=? ORDER BY first LIMIT 1", (row,)
        ).fetchone()
        return b"" if found is None else bytes(found[0])

    def read(self, job_id: str, row: int) -> bytes:
        """Return all chunks of a job, after comparing the look-up tables with them."""
        found = self._db.execute(
            "SELECT first, reached, trail FROM trail_chunks WHERE row=? ORDER BY first",
            (row,),
        ).fetchall()
        whole = b"".join(trail for *_, trail in found)
        time = NEVER
        for number, (first, at_end, trail) in enumerate(found):
            if len(trail) != CHUNK_BYTES:
                self._differ(job_id, f"bytes of chunk {number}", CHUNK_BYTES, len(trail))
                return whole
            time = max(time, effective_time(trail))
            begins, _time = first_place(trail)
            if (begins, time) != (first, at_end):
                self._differ(
                    job_id,
                    f"first offset and time of chunk {number}",
                    (begins, time),
                    (first, at_end),
                )
        self._check_keys(job_id, row, whole)
        return whole

    def _check_keys(self, job_id: str, row: int, whole: bytes) -> None:
        entries = np.frombuffer(whole, TRAIL_DTYPE)
        keys, at = np.unique(entries["key"], return_index=True)
        stored = self._db.execute(
            "SELECT key, offset FROM trail_keys WHERE row=? ORDER BY key", (row,)
        )
        pairs = np.fromiter((n for pair in stored for n in pair), "<i8").reshape(-1, 2)
        if not (
            np.array_equal(keys, pairs[:, 0]) and np.array_equal(entries["offset"][at], pairs[:, 1])
        ):
            self._differ(job_id, "keys of events, with offsets", len(keys), len(pairs))
        said = describing_offsets(whole)
        noted = self._db.execute(
            "SELECT offset FROM trail_said WHERE row=? ORDER BY offset", (row,)
        )
        if said != (found := [offset for (offset,) in noted]):
            self._differ(job_id, "events that say what it is", len(said), len(found))

    def _differ(self, job_id: str, field: str, expected: object, found: object) -> None:
        self._report.differ("trail", job_id, field, expected, found)
