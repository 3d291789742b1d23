"""Positions in the log: of a write, and of the state that an answer includes.

The text form is `partition:next` pairs joined by commas, as `3:1043` or `0:10,1:7`: everything of
that partition before offset `next`. A write and a read use the same form, so the position of a
write can be sent back on a read as it is.

A pair may name the record before the position, by that record's mark: `3:1043.9f2a77c1`. So a
position can be checked: a log with another record there is not the one that it was made from,
whether it lost its end, was replaced, or restored. A pair without a mark, as people write them, is
taken at its word.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from xxhash import xxh3_64_intdigest

from jobtrail.core.errors import UsageError

_PAIR: Final = r"[0-9]{1,4}:[0-9]{1,18}(?:\.[0-9a-f]{8})?"
#: The text form, also as a pattern of ECMA-262; it can't express that no partition occurs twice.
PATTERN: Final = rf"^{_PAIR}(?:,{_PAIR}){{0,1023}}$"
_FORM: Final = re.compile(PATTERN)


def mark_of(key: bytes | None, value: bytes | None) -> int:
    """Return the mark of a record: 32 bits of a hash of its key and value.

    It distinguishes records, but is no proof against producers, who can choose a record for a mark.

    Args:
        key: The record's.
        value: The record's.
    """
    # A missing key or value has its own seed, so that it differs from an empty one.
    seed = xxh3_64_intdigest(key) if key is not None else 1
    return (xxh3_64_intdigest(value, seed) if value is not None else seed ^ 2) & 0xFFFFFFFF


class LastRecord(NamedTuple):
    """The last record of a partition that was read, which identifies the log.

    A log that has another record at its offset, or none, is not the log that was read: it has lost
    its end and was filled again, or was replaced.
    """

    offset: int
    mark: int
    #: The record's own, microseconds since 1970, kept within the years 2 to 9998.
    timestamp: int
    #: Epoch of the partition's leader that appended it; -1 where unknown.
    epoch: int


class Position(dict[int, int]):
    """Per partition the offset before which all records are included.

    Args:
        offsets: Per partition that offset.
        marks: Per partition the mark of the record before it, where known.
    """

    __slots__ = ("marks",)

    def __init__(
        self, offsets: Mapping[int, int] | None = None, marks: Mapping[int, int] | None = None
    ) -> None:
        super().__init__(offsets or {})
        self.marks: dict[int, int] = dict(marks or {})


def parse_position(text: str) -> Position:
    """Read the text form of a position.

    Args:
        text: For example `3:1043` or `3:1043.9f2a77c1`.

    Returns:
        The position, with the marks that it names.

    Raises:
        UsageError: The text has another form, or names a partition twice.
    """
    if not _FORM.fullmatch(text):
        raise UsageError(
            "This is no position in the log.",
            expected="partition:offset pairs joined by commas, as 3:1043",
            found=repr(text[:80]),
        )
    position = Position()
    pairs = text.split(",")
    for pair in pairs:
        number, _, rest = pair.partition(":")
        offset, _, mark = rest.partition(".")
        partition = int(number)
        position[partition] = int(offset)
        if mark:
            position.marks[partition] = int(mark, 16)
    if len(position) != len(pairs):
        raise UsageError("The position names a partition twice.", found=repr(text[:80]))
    return position


def format_position(position: Mapping[int, int], marks: Mapping[int, int] | None = None) -> str:
    """Return the text form, partitions in order.

    Args:
        position: Per partition the offset.
        marks: Per partition the mark of the record before it, where known; None: those of a
            `Position`.
    """
    if marks is None:
        marks = position.marks if isinstance(position, Position) else {}
    return ",".join(
        f"{partition}:{offset}.{marks[partition]:08x}"
        if partition in marks
        else f"{partition}:{offset}"
        for partition, offset in sorted(position.items())
    )


def holds(position: Mapping[int, int], wanted: Mapping[int, int]) -> bool:
    """Tell whether a projection at `position` has everything before `wanted`."""
    return all(position.get(partition, 0) >= offset for partition, offset in wanted.items())


def join_positions(positions: Iterable[Position]) -> Position:
    """Return the position that includes several: the latest one of each partition.

    Args:
        positions: Any number of them; marks are kept.
    """
    joined = Position()
    for position in positions:
        for partition, offset in position.items():
            if offset < joined.get(partition, 0):
                continue
            mark = position.marks.get(partition)
            if mark is not None:
                joined.marks[partition] = mark
            elif offset > joined.get(partition, -1):
                joined.marks.pop(partition, None)
            joined[partition] = offset
    return joined
