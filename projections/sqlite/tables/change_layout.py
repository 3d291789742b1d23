"""The layout of changes of jobs in the blocks of a run, for the writer and for the counts."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from jobtrail.core.states import STATES

#: The code of no state: before the first state of a job version, and after its last.
NONE: Final = len(STATES)
#: A row of `CHANGE`.
Change = tuple[int, int, int, int, int, int, int, int]
ChangeArray = NDArray[np.void]

CHANGE: Final = np.dtype(
    [
        ("effective", "<i8"),
        ("offset", "<i8"),
        ("created", "<i8"),
        ("audience", "<i4"),
        ("type", "<i4"),
        ("partition", "<u2"),
        ("before", "u1"),
        ("after", "u1"),
    ]
)
#: The first and the last audience of a block.
DIRECTORY: Final = np.dtype([("first", "<i4"), ("last", "<i4")])
#: The first and the last offset of a run's changes, per partition.
OFFSETS: Final = np.dtype([("partition", "<i4"), ("first", "<i8"), ("last", "<i8")])
#: Blocks of a run, at most.
BLOCKS: Final = 64
