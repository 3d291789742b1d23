"""What both ways of folding give, and the arrays that both make."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
import pyarrow as pa

from jobtrail.core.states import STATES

Numbers: TypeAlias = np.ndarray[tuple[int], np.dtype[np.int64]]
Flags: TypeAlias = np.ndarray[tuple[int], np.dtype[np.bool_]]

#: The largest attempt that the tables hold: the fold may count one further than an event can name.
MAX_ATTEMPT: Final = 2**31 - 1
_INSTANT: Final = pa.timestamp("us", tz="UTC")
_STATES: Final = pa.array([str(state) for state in STATES], pa.string())


@dataclass(frozen=True)
class Folding:
    """Some jobs, whole.

    Attributes:
        jobs: Of `schemas.JOBS`.
        transitions: Of `schemas.TRANSITIONS`.
        job_of: For each transition the row of its job.
        one_by_one: How many events were folded one by one.
    """

    jobs: pa.RecordBatch
    transitions: pa.RecordBatch
    job_of: Numbers
    one_by_one: int = 0

    def only(self, wanted: pa.BooleanArray) -> Folding:
        """Return the jobs of some rows, with their transitions."""
        chosen = wanted.fill_null(False)
        of_these = chosen.to_numpy(zero_copy_only=False)
        rows = np.cumsum(of_these) - 1
        kept = of_these[self.job_of]
        return Folding(
            self.jobs.filter(chosen),
            self.transitions.filter(pa.array(kept)),
            rows[self.job_of[kept]],
            self.one_by_one,
        )


def instants(values: Numbers, missing: Flags | None = None) -> pa.Array:
    """Return microseconds since 1970 as instants."""
    return pa.array(values, pa.int64(), mask=missing).cast(_INSTANT)


def states(codes: Numbers, missing: Flags | None = None) -> pa.Array:
    """Return codes of states as their names."""
    return _STATES.take(pa.array(codes, pa.int64(), mask=missing))
