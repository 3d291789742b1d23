"""How many values a statement has room for: few sizes, so that few statements are prepared."""

from __future__ import annotations

from typing import Final

#: The sizes of a list of values in a statement.
SIZES: Final = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384)
#: The size for each number of values.
_ROOMS: Final = [next(size for size in SIZES if size >= n) for n in range(SIZES[-1] + 1)]


def room_for(count: int) -> int:
    """Return the size of a statement's list for so many values."""
    return _ROOMS[count] if count < len(_ROOMS) else -(-count // SIZES[-1]) * SIZES[-1]
