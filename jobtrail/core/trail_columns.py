"""Packed trails in columns: the format of `jobtrail.core.trail` for numpy."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from jobtrail.core.trail import APPLIED_CODES, DESCRIBING_CODES

#: An entry of a trail, with the key as a number.
TRAIL_DTYPE: Final = np.dtype(
    [("key", "<i8"), ("offset", "<i8"), ("time", "<i8"), ("state", "u1"), ("code", "u1")]
)
_IS_APPLIED: Final = np.isin(np.arange(256), list(APPLIED_CODES))
_IS_DESCRIBING: Final = np.isin(np.arange(256), list(DESCRIBING_CODES))


def applied_entries(entries: NDArray[np.void]) -> NDArray[np.bool_]:
    """Return which entries, of `TRAIL_DTYPE`, are events that changed their job."""
    applied: NDArray[np.bool_] = _IS_APPLIED[entries["code"]]
    return applied


def describing_entries(entries: NDArray[np.void]) -> NDArray[np.bool_]:
    """Return which entries, of `TRAIL_DTYPE`, are events that may have described their job."""
    describing: NDArray[np.bool_] = _IS_DESCRIBING[entries["code"]]
    return describing
