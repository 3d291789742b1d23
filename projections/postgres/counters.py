"""What a batch moves in the counters: by how jobs changed, never by how many events.

There is a row for each audience, day, type and partition, and one over all days: only a partition's
own projector writes its rows, so none waits for another's.
"""

from __future__ import annotations

from typing import Final

from jobtrail.core.states import STATES
from projections.postgres.arrays import Statement, insert, run
from projections.postgres.connection import Connection
from projections.postgres.layout import DAY, EVERYBODY, NONE

_COUNTS: Final = {str(state): "bigint" for state in STATES}


def _moved(table: str, key: tuple[str, ...]) -> Statement:
    sets = ", ".join(f"{state} = {table}.{state} + excluded.{state}" for state in STATES)
    columns = {**dict.fromkeys(key, "integer"), **_COUNTS}
    return insert(table, columns, f"ON CONFLICT ({', '.join(key)}) DO UPDATE SET {sets}")


_COUNTERS: Final = _moved("counters", ("audience", "day", "type", "partition"))
_TOTALS: Final = _moved("totals", ("audience", "type", "partition"))


class Moves:
    """By how much the counters of one partition move."""

    def __init__(self, partition: int) -> None:
        self._partition = partition
        self._days: dict[tuple[int, int, int], list[int]] = {}

    def move(self, audience: int, created_at: int, job_type: int, before: int, after: int) -> None:
        """Take a job out of one state and into another; `NONE` stands for no state."""
        if before == after:
            return
        day = created_at // DAY
        for whose in (audience, EVERYBODY):
            counts = self._days.get((whose, day, job_type))
            if counts is None:
                counts = self._days[whose, day, job_type] = [0] * (NONE + 1)
            counts[before] -= 1
            counts[after] += 1

    def write(self, connection: Connection) -> None:
        """Write them, inside the open transaction."""
        totals: dict[tuple[int, int], list[int]] = {}
        rows = []
        for key, counts in sorted(self._days.items()):
            moved = counts[:NONE]
            if not any(moved):
                continue
            rows.append((*key, self._partition, *moved))
            audience, _day, job_type = key
            total = totals.setdefault((audience, job_type), [0] * NONE)
            for state, count in enumerate(moved):
                total[state] += count
        run(connection, _COUNTERS, rows)
        run(
            connection,
            _TOTALS,
            [(*key, self._partition, *counts) for key, counts in sorted(totals.items())],
        )
