"""Durations as text, in one place, so that charts, tables and messages agree."""

from __future__ import annotations

from typing import Final

#: The largest unit first: seconds, its sign, and how many of the next smaller one it has.
_UNITS: Final = ((86_400, "d", 3_600, "h"), (3_600, "h", 60, "min"), (60, "min", 1, "s"))


def duration(seconds: float) -> str:
    """Format a duration with about three digits, as `2 h 5 min` or `0.31 s`.

    Args:
        seconds: How long; may be negative, since times come from events.
    """
    if seconds < 0:
        return f"-{duration(-seconds)}"
    if seconds == 0:
        return "0 s"
    if seconds < 0.9995:
        # Times have a resolution of one microsecond.
        return f"{seconds * 1000:.3g} ms" if seconds < 0.1 else f"{seconds:.2g} s"
    if seconds < 59.95:
        return f"{seconds:.3g} s"
    for size, sign, smaller, smaller_sign in _UNITS:
        # What is rounded may fill the larger unit.
        rest = round(seconds / smaller) * smaller
        if rest >= size:
            count, left = divmod(rest, size)
            if count >= 100:
                return f"{seconds / size:,.0f} {sign}"
            return f"{count} {sign} {left // smaller} {smaller_sign}" if left else f"{count} {sign}"
    return f"{seconds:.3g} s"
