"""How changes of jobs lie in the blocks of a run: for who writes them and who counts them."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from jobtrail.core.states import STATES

#: The code of no state: a job comes into being, or stops being what it was.
NONE: Final = len(STATES)
#: A row of `CHANGE`.
Change = tuple[int, int, int, int, int, int, int, int]
Rows = NDArray[np.void]

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
#: The audiences of a block.
DIRECTORY: Final = np.dtype([("first", "<i4"), ("last", "<i4")])
#: The offsets of a run's changes.
OFFSETS: Final = np.dtype([("partition", "<i4"), ("first", "<i8"), ("last", "<i8")])
#: A run has so many blocks at most.
BLOCKS: Final = 64
