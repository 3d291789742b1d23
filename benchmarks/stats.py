"""What many measured values are told by."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

#: The steps of a distribution that is written down, in percent.
STEPS = (1, 5, 10, 25, 50, 75, 90, 95, 99, 99.9)


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest value that at least this share of all values does not exceed.

    Args:
        values: In ascending order, at least one.
        percent: Above 0, at most 100.
    """
    if not values or not 0 < percent <= 100:
        raise ValueError("a percentile needs values and a percent above 0, at most 100")
    # 99.9 % of 1,000 is 999, and no rounding error may make it the 1,000th.
    rank = math.ceil(round(percent * len(values) / 100, 9))
    return values[rank - 1]


def distribution(values: Sequence[float]) -> dict[str, float]:
    """Return count, mean, least, most and the percentiles of `STEPS`; empty for no values."""
    if not values:
        return {"count": 0}
    ordered = sorted(values)
    return {
        "count": len(ordered),
        "mean": statistics.fmean(ordered),
        "min": ordered[0],
        **{f"p{step:g}": percentile(ordered, step) for step in STEPS},
        "max": ordered[-1],
    }


def latencies(values: Sequence[float]) -> dict[str, float]:
    """Return the percentiles that a table shows of latencies; empty for no values."""
    if not values:
        return {}
    ordered = sorted(values)
    shown = {f"p{step}": percentile(ordered, step) for step in (50, 90, 99)}
    return {**shown, "max": ordered[-1]}


def middle(values: Sequence[float]) -> dict[str, float]:
    """Return the median of a figure's runs, and between what they lay."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}
