"""Positions in the log: how a write says where it went, and an answer what it holds.

The text form is `partition:next` pairs joined by commas, as `3:1043` or `0:10,1:7`: everything of
that partition before offset `next`. A write and a read use the same form, so the position of a
write can be sent back on a read as it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from jobtrail.errors import UsageError

#: The text form, also as a pattern of ECMA-262; that no partition is named twice it can't say.
PATTERN: Final = r"^[0-9]{1,4}:[0-9]{1,18}(?:,[0-9]{1,4}:[0-9]{1,18}){0,1023}$"
_FORM: Final = re.compile(PATTERN)


def parse_position(text: str) -> dict[int, int]:
    """Read the text form of a position.

    Args:
        text: For example `3:1043`.

    Returns:
        Per partition the offset before which everything is meant.

    Raises:
        UsageError: The text has another form, or names a partition twice.
    """
    if not _FORM.fullmatch(text):
        raise UsageError(
            "This is no position in the log.",
            expected="partition:offset pairs joined by commas, as 3:1043",
            found=repr(text[:80]),
        )
    pairs = [pair.split(":") for pair in text.split(",")]
    position = {int(partition): int(offset) for partition, offset in pairs}
    if len(position) != len(pairs):
        raise UsageError("The position names a partition twice.", found=repr(text[:80]))
    return position


def format_position(position: Mapping[int, int]) -> str:
    """Return the text form, partitions in order."""
    return ",".join(f"{partition}:{offset}" for partition, offset in sorted(position.items()))


def holds(held: Mapping[int, int], wanted: Mapping[int, int]) -> bool:
    """Tell whether a projection at position `held` has everything before `wanted`."""
    return all(held.get(partition, 0) >= offset for partition, offset in wanted.items())
