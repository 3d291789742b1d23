"""Checks the chunks of trails outside of rows, and the look-up tables beside them."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from jobtrail.core.asof import NEVER, may_describe, reached
from jobtrail.core.trail import CHUNK_BYTES, TRAIL_LAYOUT
from projections.verifying.report import Report

_ENTRY: Final = np.dtype(
    [("key", "<i8"), ("offset", "<i8"), ("time", "<i8"), ("state", "u1"), ("code", "u1")]
)


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
            "SELECT first, reached, trail FROM trail_chunks WHERE row=? ORDER BY first", (row,)
        ).fetchall()
        whole = b"".join(trail for *_, trail in found)
        time = NEVER
        for number, (first, at_end, trail) in enumerate(found):
            if len(trail) != CHUNK_BYTES:
                self._differ(job_id, f"bytes of chunk {number}", CHUNK_BYTES, len(trail))
                return whole
            time = max(time, reached(trail))
            begins = TRAIL_LAYOUT.unpack_from(trail)[1]
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
        entries = np.frombuffer(whole, _ENTRY)
        keys, at = np.unique(entries["key"], return_index=True)
        stored = self._db.execute(
            "SELECT key, offset FROM trail_keys WHERE row=? ORDER BY key", (row,)
        )
        pairs = np.fromiter((n for pair in stored for n in pair), "<i8").reshape(-1, 2)
        if not (
            np.array_equal(keys, pairs[:, 0]) and np.array_equal(entries["offset"][at], pairs[:, 1])
        ):
            self._differ(job_id, "keys of events, with offsets", len(keys), len(pairs))
        said = [
            offset
            for _key, offset, _time, _state, code in TRAIL_LAYOUT.iter_unpack(whole)
            if may_describe(code)
        ]
        noted = self._db.execute(
            "SELECT offset FROM trail_said WHERE row=? ORDER BY offset", (row,)
        )
        if said != (found := [offset for (offset,) in noted]):
            self._differ(job_id, "events that say what it is", len(said), len(found))

    def _differ(self, job_id: str, field: str, expected: object, found: object) -> None:
        self._report.differ("trail", job_id, field, expected, found)
