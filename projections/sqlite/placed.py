"""Jobs that are about to be written: with their numbers, job by job and in columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from jobtrail.job import Job
from jobtrail.states import STATES
from projections.store import Entry

#: (audience, type, creation time, bulk id, state code) of a row.
Key = tuple[int, int, int, str | None, int]
#: A job to be written, its key, and how many entries of its trail lie outside of its row.
Placed = tuple[Entry, Job, Key, int]

#: The code of no state: a job comes into being, or stops being what it was.
NONE: Final = len(STATES)
#: Up to so many jobs are looked at one by one, which costs less than arrays of them.
_FEW: Final = 128


class Columns(NamedTuple):
    """The keys of jobs, and the codes of their states: as stored, `NONE` for new ones, and now."""

    audience: NDArray[np.int32]
    type: NDArray[np.int32]
    created: NDArray[np.int64]
    before: NDArray[np.uint8]
    after: NDArray[np.uint8]


def in_columns(placed: Sequence[Placed]) -> Columns | None:
    """Return jobs in columns; None where they are so few that this would cost more."""
    if len(placed) <= _FEW:
        return None
    keys = [key for _entry, _job, key, _spilled in placed]
    before = [entry.stored[4] if entry.stored else NONE for entry, _job, _key, _spilled in placed]
    return Columns(
        np.array([key[0] for key in keys], "<i4"),
        np.array([key[1] for key in keys], "<i4"),
        np.array([key[2] for key in keys], "<i8"),
        np.array(before, "u1"),
        np.array([key[4] for key in keys], "u1"),
    )
