"""How many values a statement has room for: a few sizes, so that few statements are prepared."""

from __future__ import annotations

from typing import Final

#: Numbers of values that a statement may have for one thing.
SIZES: Final = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384)
#: By how many values there are, for how many there is room.
_ROOMS: Final = [next(size for size in SIZES if size >= n) for n in range(SIZES[-1] + 1)]


def room_for(count: int) -> int:
    """Return for how many values a statement is to have room that has so many of them."""
    return _ROOMS[count] if count < len(_ROOMS) else -(-count // SIZES[-1]) * SIZES[-1]
