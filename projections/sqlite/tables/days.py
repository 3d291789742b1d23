"""Splits ranges of instants into full days, which have counters, and the parts of days beside."""

from __future__ import annotations

from typing import Final

from projections.sqlite.files.schema import DAY

_FIRST_DAY: Final = -(2**40)
_LAST_DAY: Final = 2**40


def split_days(
    first: int | None, last: int | None
) -> tuple[tuple[int, int] | None, list[tuple[int, int]]]:
    """Split an inclusive range of instants into full days and the edges beside them.

    Args:
        first: Microseconds since the epoch; None for no bound.
        last: The same.

    Returns:
        The first and last full day (None where there is none), and the inclusive ranges of
        instants outside of them.
    """
    if first is not None and last is not None and first > last:
        return None, []
    first_whole = _FIRST_DAY if first is None else -(-first // DAY)
    last_whole = _LAST_DAY if last is None else (last + 1) // DAY - 1
    if first_whole > last_whole:
        assert first is not None
        assert last is not None
        return None, [(first, last)]
    edges = []
    if first is not None and first < first_whole * DAY:
        edges.append((first, first_whole * DAY - 1))
    if last is not None and last >= (last_whole + 1) * DAY:
        edges.append(((last_whole + 1) * DAY, last))
    return (first_whole, last_whole), edges
